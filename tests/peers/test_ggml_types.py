"""Every block type that llama.cpp writes is read by phid to the last bit of the floats that ggml's
own decoders make of it; what phid writes is closer to its source than what ggml writes."""

import ctypes
import os
import pathlib
import subprocess

import pytest

llama_cpp = pytest.importorskip("llama_cpp")
np = pytest.importorskip("numpy")

import ggml  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
PHID = os.environ.get("PHID_BIN", str(ROOT / "build" / "release" / "server" / "phid"))

# File types, each with a block type that it is there for: all others of its mix are held to the
# same.
FILE_TYPES = {
    "Q4_0": "q4_0", "Q4_1": "q4_1", "Q5_0": "q5_0", "Q5_1": "q5_1", "Q8_0": "q8_0",
    "Q2_K": "q2_K", "Q3_K_S": "q3_K", "Q3_K_M": "q3_K", "Q3_K_L": "q5_K", "Q4_K_S": "q4_K",
    "Q4_K_M": "q4_K", "Q5_K_S": "q5_K", "Q5_K_M": "q5_K", "Q6_K": "q6_K", "IQ4_NL": "iq4_nl",
    "IQ4_XS": "iq4_xs", "MXFP4_MOE": "mxfp4",
}

pytestmark = [
    pytest.mark.skipif(not SAMPLE.is_dir(), reason="models/phi-sample is not there"),
    pytest.mark.skipif(not os.access(PHID, os.X_OK), reason="phid is not built; see PHID_BIN"),
]


def written(source, out, *flags):
    done = subprocess.run([PHID, "quantize", str(source), *flags, "--no-quality", "--out",
                           str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return ggml.tensors(out)


def floats(source, out):
    """The source's values as phid understands them."""
    return written(source, out, "--precision", "fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("types")
    floats(SAMPLE, path / "source.gguf")
    return path


@pytest.mark.parametrize("name", FILE_TYPES)
def test_blocks_are_read_exactly(folder, name):
    path = folder / f"{name}.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = 2
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    if name == "MXFP4_MOE":  # means experts, of which there are none here
        params.pure = True
        params.output_tensor_type = params.token_embedding_type = llama_cpp.GGML_TYPE_MXFP4
    source = str(folder / "source.gguf").encode()
    assert llama_cpp.llama_model_quantize(source, str(path).encode(), ctypes.byref(params)) == 0
    stored = ggml.tensors(path)
    read = floats(path, folder / "back.gguf")
    assert FILE_TYPES[name] in {kind for kind, _ in stored.values()}
    assert stored.keys() == read.keys()
    for tensor, (kind, raw) in stored.items():
        right = ggml.decoded(kind, raw)
        got = ggml.decoded(*read[tensor])
        assert read[tensor][0] == "f32" and np.isfinite(right).all()
        assert np.array_equal(got, right), f"{tensor}, {kind}: phid reads other values"


def squared_error(values, kind, raw):
    difference = ggml.decoded(kind, raw).astype(np.float64) - values
    return float((difference * difference).sum())


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q4_k_s",
                                  "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"])
def test_what_is_written_is_closer_than_ggmls(folder, name):
    source = ggml.tensors(folder / "source.gguf")
    ours = {}
    theirs = {}
    for tensor, (kind, raw) in written(SAMPLE, folder / "written.gguf", "--type", name).items():
        if kind == "f32":
            continue
        values = ggml.decoded(*source[tensor])
        cols = 512 if tensor.endswith("ffn_down.weight") else 256
        ours[kind] = ours.get(kind, 0) + squared_error(values, kind, raw)
        theirs[kind] = theirs.get(kind, 0) + squared_error(values, kind,
                                                            ggml.encoded(kind, values, cols))
    for kind, error in ours.items():
        print(f"{name}: {kind} {error / theirs[kind]:.4f} of ggml's squared error")
        assert error <= theirs[kind] * (1 if kind == "q8_0" else 0.995)
