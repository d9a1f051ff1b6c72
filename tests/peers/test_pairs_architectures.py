"""As test_pairs.py, of small random models of phi2 and phimoe, whose matrices other formats have in
parts, or one for each expert: what phid says of them must be what the readers see.
"""

import importlib
import pathlib
import sys

import pytest

from conftest import make_phi2, make_phimoe

pytest.importorskip("mlx.core")
sys.path.insert(0, str(pathlib.Path(__file__).parent))
pairs = importlib.import_module("test_pairs")
readers = importlib.import_module("readers")

INT4 = ["--precision", "int4", "--group-size"]
SOURCES = {
    "gguf-q4_0": ("gguf", [*INT4, "32"]),
    "gguf-q4_k_m": ("gguf", ["--type", "q4_k_m"]),
    "mlx": ("mlx", [*INT4, "32", "--asymmetric"]),
    "gptq": ("gptq", [*INT4, "64"]),
    "compressed-tensors": ("compressed-tensors", [*INT4, "32", "--asymmetric"]),
    "openvino": ("openvino", [*INT4, "64", "--asymmetric"]),
    "openvino-int8": ("openvino", ["--precision", "int8"]),
    "onnx": ("onnx", [*INT4, "32", "--asymmetric"]),
    "onnx-int8": ("onnx", ["--precision", "int8"]),
    "safetensors": ("safetensors", ["--precision", "fp16"]),
}
MATRICES = {"phi2": 4 * 2 + 2, "phimoe": 6 * 2 + 2}
# Those that ONNX Runtime and QNN are not written for.
WITHOUT = {"phi2": {"QNN"}, "phimoe": {"ONNX for CUDA", "QNN"}}

pytestmark = pairs.pytestmark


@pytest.fixture(name="models", scope="module")
def make_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"phi2": make_phi2(folder / "phi2"), "phimoe": make_phimoe(folder / "phimoe")}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("architecture", MATRICES)
def test_what_phid_says_is_so(architecture, source, models, tmp_path):
    form, options = SOURCES[source]
    path = pairs.path_of(tmp_path, form, "source")
    pairs.converted(form, *options)(models[architecture], path)
    before = readers.read(form, path)
    assert len(before) == MATRICES[architecture]
    for target in pairs.TARGETS:
        if target not in WITHOUT[architecture]:
            pairs.convert_to(target, path, before, tmp_path)
