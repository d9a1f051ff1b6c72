"""What another ecosystem's exporter writes, phid runs: with the same greedy tokens as the ecosystem's own
runtime, and logits as near to the right ones (agreement.py).

The results are the table "exporters" of docs/formats.md.
"""

import dataclasses
import importlib
import pathlib
import sys

import pytest

pytest.importorskip("torch")

sys.path.insert(0, str(pathlib.Path(__file__).parent))
agreement = importlib.import_module("agreement")
exporters = importlib.import_module("exporters")
programs = importlib.import_module("programs")
runtimes = importlib.import_module("runtimes")
sources = importlib.import_module("sources")
tables = importlib.import_module("tables")

# What has been seen to agree: (exporter, model, kind).
AGREED = set()


@dataclasses.dataclass(frozen=True)
class Exporter:
    """One, by what runs its files; `kinds` has the arguments of each, `models` those that it is given."""
    name: str
    packages: tuple
    runtime: type
    write: callable
    kinds: dict
    models: list


def by_llama_cpp(source, path, *arguments):
    fp32 = path.parent / "fp32.gguf"
    programs.phid("quantize", source.path, "--precision", "fp32", "--no-quality", "--out", fp32)
    exporters.llama_quantize(source, path, fp32, *arguments)


# Which exporters have no phimoe is said in docs/formats.md.
DENSE = [name for name in sources.NAMES if name != "phimoe"]
# Of llama.cpp's types: the file's, and that of embedding and head where all matrices of the layers have
# one type (Q4_0 would make embedding and head Q6_K); without, llama.cpp's mix.
LLAMA_KINDS = {
    "F32": ("ALL_F32",), "F16": ("MOSTLY_F16", "F16"), "Q8_0": ("MOSTLY_Q8_0", "Q8_0"),
    "Q4_0": ("MOSTLY_Q4_0", "Q8_0"), "Q4_1": ("MOSTLY_Q4_1", "Q8_0"),
    "Q5_0": ("MOSTLY_Q5_0", "Q5_0"), "Q5_1": ("MOSTLY_Q5_1", "Q5_1"),
    "IQ4_NL": ("MOSTLY_IQ4_NL", "IQ4_NL"), "IQ4_XS": ("MOSTLY_IQ4_XS", "IQ4_XS"),
    "Q2_K": ("MOSTLY_Q2_K",), "Q3_K_M": ("MOSTLY_Q3_K_M",), "Q4_K": ("MOSTLY_Q4_K_S", "Q4_K"),
    "Q4_K_M": ("MOSTLY_Q4_K_M",), "Q5_K_M": ("MOSTLY_Q5_K_M",), "Q6_K": ("MOSTLY_Q6_K",),
    "MXFP4": ("MOSTLY_MXFP4_MOE", "MXFP4"),
}
FLOATS = {"F32": "fp32", "F16": "fp16", "fp32": "fp32", "fp16": "fp16", "bf16": "fp16"}

EXPORTERS = {
    "llama.cpp": Exporter(
        "llama.cpp's quantizer", ("llama-cpp-python",), runtimes.LlamaCpp, by_llama_cpp, LLAMA_KINDS,
        DENSE),
    # The sample has as many rows in a matrix of each layer as its vocabulary has tokens, and the builder
    # takes that for the head.
    "onnx": Exporter(
        "onnxruntime-genai's builder", ("onnxruntime-genai",), runtimes.OnnxGenAI,
        exporters.onnx_builder,
        {"fp32": ("fp32",), "int8 by 32": ("int8",),
         "int8 by 64 with zero points": ("int8", "is_symmetric=false", "block_size=64"),
         "int4 by 32": ("int4",), "int4 by 128": ("int4", "block_size=128"),
         "int4 by 32 with zero points": ("int4", "is_symmetric=false"),
         "int4 and int8": ("int4", "algo_config=k_quant_mixed")},
        [name for name in DENSE if name != "sample"]),
    "openvino": Exporter(
        "optimum-intel", ("optimum-intel", "nncf"), runtimes.OpenVino, exporters.optimum_intel,
        {"fp32": ("fp32",), "fp16": ("fp16",), "int8": ("int8",),
         "int4 by 32": ("int4", "--sym", "--group-size", 32, "--ratio", "1.0"),
         "int4 by 64 with zero points": ("int4", "--group-size", 64, "--ratio", "1.0")},
        sources.NAMES),
    # It leaves another context in config.json than the command.
    "openvino-class": Exporter(
        "optimum-intel's from_pretrained", ("optimum-intel",), runtimes.OpenVino,
        exporters.optimum_intel_class, {"fp32": ()}, ["longrope"]),
    "mlx": Exporter(
        "mlx-lm", ("mlx-lm",), runtimes.MlxLm, exporters.mlx_convert,
        {"fp32": (None, None, "float32"), "bf16": (None, None, "bfloat16"), "8 bits by 32": (8, 32),
         "6 bits by 64": (6, 64), "4 bits by 64": (4, 64), "3 bits by 64": (3, 64)},
        DENSE),
    "transformers": Exporter(
        "transformers", ("transformers",), runtimes.Transformers, exporters.save_pretrained,
        {"fp32": ("float32",), "fp16": ("float16",), "bf16": ("bfloat16",)}, sources.NAMES),
    "transformers-classes": Exporter(
        "transformers, under its classes' names", ("transformers",), runtimes.Transformers,
        exporters.save_pretrained, {"bf16": ("bfloat16", False)}, ["phimoe"]),
    "compressed-tensors": Exporter(
        "compressed-tensors", ("compressed-tensors",), runtimes.CompressedTensors,
        exporters.compressed_tensors,
        {"int8 by 64": (8, 64, True), "int4 by 32": (4, 32, True),
         "int4 by 128 with zero points": (4, 128, False)},
        DENSE),
    "gptq": Exporter(
        "auto-round, as GPTQ", ("auto-round",), runtimes.AutoRound, exporters.auto_round,
        {"int8 by 64": ("auto_gptq", 8, 64, True), "int4 by 32": ("auto_gptq", 4, 32, True),
         "int4 by 128": ("auto_gptq", 4, 128, True)},
        sources.NAMES),
    "auto-round": Exporter(
        "auto-round", ("auto-round",), runtimes.AutoRound, exporters.auto_round,
        {"int8 by 64": ("auto_round", 8, 64, True), "int4 by 32": ("auto_round", 4, 32, True),
         "int4 by 64 with zero points": ("auto_round", 4, 64, False)},
        ["sample", "phi2"]),
}
# What no runtime runs, or not within fp16's bound: docs/formats.md says why.
LEFT_OUT = {("onnx", "tied", "int4 by 32 with zero points"),
            ("openvino", "phimoe", "int4 by 64 with zero points"),
            *(("openvino", name, "fp16") for name in ("sample", "grouped", "longrope", "tied", "phi2"))}
CASES = [(name, model, kind) for name, about in EXPORTERS.items()
         for model in about.models for kind in about.kinds if (name, model, kind) not in LEFT_OUT]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    yield sources.Models(tmp_path_factory.mktemp("sources"))
    exporters.close()


@pytest.mark.parametrize("exporter,model,kind", CASES, ids=["-".join(case).replace(" ", "-")
                                                            for case in CASES])
def test_phid_runs_what_is_exported(models, tmp_path, exporter, model, kind):
    about = EXPORTERS[exporter]
    source = models[model]
    path = tmp_path / ("model.gguf" if exporter == "llama.cpp" else "model")
    about.write(source, path, *about.kinds[kind])
    agreement.compare(path, source, about.runtime, FLOATS.get(kind, "codes"), tmp_path / "right")
    AGREED.add((exporter, model, kind))


def test_the_table_says_so():
    if AGREED != set(CASES):
        pytest.skip("not all cases have run, or not all agree")
    rows = []
    for exporter, about in EXPORTERS.items():
        counts = {kind: sum(case[0] == exporter and case[2] == kind for case in AGREED)
                  for kind in about.kinds}
        exact, near = [", ".join(f"{kind}: {count}" for kind, count in counts.items()
                                 if (FLOATS.get(kind) == "fp32") == is_exact) or "-"
                       for is_exact in (True, False)]
        rows.append([about.name, runtimes.version(*about.packages), exact, near])
    tables.check_table("docs/formats.md", "exporters", tables.table(
        ["written by", "version", "same tokens: models", "same but within rounding: models"], rows))
