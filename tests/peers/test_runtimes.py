"""What phid writes, the runtime of its ecosystem runs: with the same greedy tokens, and logits that are
as near to the right ones as phid's own (agreement.py). And phid reads what it wrote: written again, it is
the same to the bit.

The results are the table "runtimes" of docs/formats.md.
"""

import dataclasses
import importlib
import pathlib
import sys

import pytest

from conftest import read_safetensors

pytest.importorskip("torch")

sys.path.insert(0, str(pathlib.Path(__file__).parent))
agreement = importlib.import_module("agreement")
ggml = importlib.import_module("ggml")
programs = importlib.import_module("programs")
runtimes = importlib.import_module("runtimes")
sources = importlib.import_module("sources")
tables = importlib.import_module("tables")

# What has been seen to agree: (format, model, kind).
AGREED = set()


@dataclasses.dataclass(frozen=True)
class Format:
    """One that phid writes: what runs it, and the options that make its kinds."""
    name: str
    runtime: type
    kinds: dict


def of(kinds, *names):
    return {name: kinds[name] for name in names}


FLOATS = {"fp32": ["--precision", "fp32"], "fp16": ["--precision", "fp16"]}
CODED = {"int8": ["--precision", "int8"], "int4": ["--precision", "int4"],
         "int4 with zero points": ["--precision", "int4", "--asymmetric"],
         "int4 by 128": ["--precision", "int4", "--group-size", "128"]}
INT8 = {"int8 with zero points": ["--precision", "int8", "--asymmetric"],
        "int8 by row": ["--precision", "int8", "--group-size", "-1"],
        "int8 by row with zero points": ["--precision", "int8", "--group-size", "-1", "--asymmetric"]}
TYPES = {kind: ["--type", kind] for kind in (
    "q4_1", "q5_0", "q5_1", "iq4_nl", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k")}

FORMATS = {
    "gguf": Format("GGUF", runtimes.LlamaCpp,
                   {**FLOATS, **CODED, **of(TYPES, "q5_0", "q5_1", "iq4_nl", "q4_k_s", "q4_k_m", "q5_k_s",
                                            "q5_k_m", "q6_k")}),
    "onnx": Format("ONNX", runtimes.OnnxGenAI, {**FLOATS, **CODED, **of(INT8, "int8 with zero points")}),
    # Of a GGUF it has the codes too, and for their offsets zero points of fp32.
    "openvino": Format("OpenVINO", runtimes.OpenVino, {**FLOATS, **CODED, **INT8, **of(TYPES, "q4_1", "q4_k_m")}),
    # Its codes always have offsets.
    "mlx": Format("MLX", runtimes.MlxLm, {**FLOATS, **of(CODED, "int8", "int4", "int4 by 128")}),
    "safetensors": Format("safetensors", runtimes.Transformers, FLOATS),
    "compressed-tensors": Format("compressed-tensors", runtimes.CompressedTensors, {**CODED, **INT8}),
    # The kernels for CPUs have no zero points.
    "gptq": Format("GPTQ", runtimes.AutoRound,
                   {**of(CODED, "int8", "int4", "int4 by 128"), **of(INT8, "int8 by row")}),
}
CASES = [(form, model, kind) for form, about in FORMATS.items()
         for model in sources.names_for(about.runtime) for kind in about.kinds]


def precision_of(kind):
    return kind if kind in FLOATS else "codes"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return sources.Models(tmp_path_factory.mktemp("sources"))


def write(form, source, kind, path):
    options = FORMATS[form].kinds[kind]
    if form == "gguf":
        programs.phid("quantize", source.path, *options, "--no-quality", "--out", path)
    elif "--type" in options:
        first = path.with_name("first.gguf")
        programs.phid("quantize", source.path, *options, "--no-quality", "--out", first)
        programs.phid("convert", first, path, "--format", form)
    else:
        programs.phid("convert", source.path, path, "--format", form, *options)


def contents(form, path):
    """The tensors of a file or folder, as its bytes are."""
    if form == "gguf":
        return ggml.tensors(path)
    if form == "onnx":
        return (path / "model.onnx.data").read_bytes()
    if form == "openvino":
        return (path / "openvino_model.bin").read_bytes()
    return read_safetensors(path / "model.safetensors")


@pytest.mark.parametrize("form,model,kind", CASES, ids=["-".join(case).replace(" ", "-")
                                                        for case in CASES])
def test_runs_what_phid_writes(models, tmp_path, form, model, kind):
    source = models[model]
    path = tmp_path / ("model.gguf" if form == "gguf" else "model")
    write(form, source, kind, path)
    again = tmp_path / ("again.gguf" if form == "gguf" else "again")
    programs.phid("convert", path, again, "--format", form)
    assert contents(form, again) == contents(form, path), "phid reads something else than it wrote"
    agreement.compare(path, source, FORMATS[form].runtime, precision_of(kind), tmp_path / "right")
    AGREED.add((form, model, kind))


def test_the_table_says_so():
    if AGREED != set(CASES):
        pytest.skip("not all cases have run, or not all agree")
    rows = []
    for form, about in FORMATS.items():
        same, near = [", ".join(kind for kind in about.kinds if (precision_of(kind) == "fp32") == is_exact) or "-"
                      for is_exact in (True, False)]
        count = len({model for name, model, _ in AGREED if name == form})
        rows.append([about.name, runtimes.version(*about.runtime.packages), str(count), same, near])
    tables.check_table("docs/formats.md", "runtimes", tables.table(
        ["format", "run by", "models", "same tokens", "same but within rounding"], rows))
