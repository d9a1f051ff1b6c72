"""MLX reads what phid writes, and phid what MLX writes: the same values, element for element."""

import ctypes
import importlib
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

import numpy
import pytest

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
tree_unflatten = pytest.importorskip("mlx.utils").tree_unflatten

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
STACKS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
PHID = os.environ.get("PHID_BIN", str(ROOT / "build/release/server/phid"))


def phid(*arguments):
    done = subprocess.run([PHID, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def phid_values(folder, out):
    """All matrices and vectors as phid reads them, in fp32."""
    out.parent.mkdir(exist_ok=True)
    phid("convert", folder, out, "--format", "safetensors", "--precision", "fp32")
    data = (out / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__")
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = data[8 + length + begin:8 + length + end]
        if entry["dtype"] == "BF16":
            values = (numpy.frombuffer(raw, numpy.uint16).astype(numpy.uint32) << 16).view("f4")
        else:
            values = numpy.frombuffer(raw, {"F32": "f4", "F16": "f2"}[entry["dtype"]])
        found[name] = values.reshape(entry["shape"]).astype(numpy.float32)
    return found


def place(name):
    """The module of MLX's that holds a matrix, and how to take it from an array of it."""
    expert = re.fullmatch(r"(.*)\.experts\.(\d+)\.(w[123])\.weight", name)
    if not expert:
        return name.removesuffix(".weight"), lambda array: array
    index = int(expert[2])
    return f"{expert[1]}.switch_mlp.{STACKS[expert[3]]}", lambda array: array[index]


def check(folder, tmp_path):
    section = json.loads((folder / "config.json").read_text())["quantization"]
    arrays = mx.load(str(folder / "model.safetensors"))
    ours = phid_values(folder, tmp_path / "plain")
    quantized = 0
    for name, right in ours.items():
        stem, part = place(name)
        if f"{stem}.scales" in arrays:
            coding = section.get(stem, section)
            mode = coding.get("mode", "affine")
            params = [part(arrays[f"{stem}.{what}"]) for what in ("scales", "biases") if f"{stem}.{what}" in arrays]
            if mode == "affine":
                params = [array.astype(mx.float32) for array in params]
            values = mx.dequantize(part(arrays[f"{stem}.weight"]), *params, group_size=coding["group_size"],
                                   bits=coding["bits"], mode=mode, dtype=mx.float32)
            quantized += 1
        elif f"{stem}.weight" in arrays:
            values = part(arrays[f"{stem}.weight"]).astype(mx.float32)
        else:
            values = arrays[name].astype(mx.float32)
        numpy.testing.assert_allclose(right, numpy.array(values), rtol=1e-6, atol=1e-7, err_msg=name)
    return quantized


@pytest.mark.parametrize("options", [["int4"], ["int4", "--asymmetric", "--group-size", "64"],
                                     ["int4", "--group-size", "128"], ["int8"]])
def test_mlx_reads(options, tmp_path):
    phid("convert", SAMPLE, tmp_path / "model", "--format", "mlx", "--precision", *options)
    assert check(tmp_path / "model", tmp_path) == 18


@pytest.mark.parametrize("bits, group", [(4, 64), (4, 32), (8, 64), (3, 64), (6, 32), (2, 128)])
def test_phid_reads(bits, group, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SAMPLE / name, folder)
    config = json.loads((SAMPLE / "config.json").read_text())
    config["quantization"] = {"group_size": group, "bits": bits}
    (folder / "config.json").write_text(json.dumps(config))
    arrays = {}
    for name, value in mx.load(str(SAMPLE / "model.safetensors")).items():
        arrays[name] = value
        if value.ndim == 2:
            stem = name.removesuffix(".weight")
            arrays[name], arrays[f"{stem}.scales"], arrays[f"{stem}.biases"] = \
                mx.quantize(value, group_size=group, bits=bits)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    assert check(folder, tmp_path) == 18


def test_mlx_reads_experts(phimoe_dir, tmp_path):
    """Four of three matrices in each of two layers, and q, k, v, o; the embedding and the head."""
    phid("convert", phimoe_dir, tmp_path / "model", "--format", "mlx", "--precision", "int4")
    assert check(tmp_path / "model", tmp_path) == 2 * (4 * 3 + 4) + 2


def test_phid_reads_experts(phimoe_dir, tmp_path):
    """As mlx-lm quantizes them: stacked, and the router too."""
    folder = tmp_path / "model"
    shutil.copytree(phimoe_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"group_size": 32, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    found = mx.load(str(phimoe_dir / "model.safetensors"))
    for name in [name for name in found if ".experts.0." in name]:
        stem, _ = place(name)
        parts = [found.pop(name.replace(".experts.0.", f".experts.{expert}."))
                 for expert in range(4)]
        found[f"{stem}.weight"] = mx.stack(parts)
    arrays = {}
    for name, value in found.items():
        arrays[name] = value
        if value.ndim > 1:
            stem = name.removesuffix(".weight")
            arrays[name], arrays[f"{stem}.scales"], arrays[f"{stem}.biases"] = \
                mx.quantize(value, group_size=32, bits=4)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    assert check(folder, tmp_path) == 2 * (4 * 3 + 4 + 1) + 2


def mxfp4_folder(folder, is_mx=lambda name: True, embedding_bits=8):
    """The sample model as mlx quantizes it: MXFP4, and 8 bits by 32 where that is not asked for."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SAMPLE / name, folder)
    section = {"mode": "mxfp4", "group_size": 32, "bits": 4}
    arrays = {}
    for name, value in mx.load(str(SAMPLE / "model.safetensors")).items():
        arrays[name] = value
        stem = name.removesuffix(".weight")
        if value.ndim == 2 and is_mx(name):
            arrays[name], arrays[f"{stem}.scales"] = mx.quantize(value, mode="mxfp4")
        elif value.ndim == 2:
            arrays[name], arrays[f"{stem}.scales"], arrays[f"{stem}.biases"] = \
                mx.quantize(value, group_size=32, bits=embedding_bits)
            section[stem] = {"mode": "affine", "group_size": 32, "bits": embedding_bits}
    config = {**json.loads((SAMPLE / "config.json").read_text()), "quantization": section}
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


def unsigned_zeros(words):
    """Codes without the sign of a zero, which phid does not keep."""
    codes = numpy.array(words).view(numpy.uint8)
    low, high = codes & 15, codes >> 4
    return numpy.where(low == 8, 0, low) | numpy.where(high == 8, 0, high) << 4


@pytest.mark.parametrize("is_mx", [lambda name: True, lambda name: ".layers." in name,
                                   lambda name: ".layers." not in name], ids=["all", "layers", "ends"])
def test_mxfp4_there_and_again(is_mx, tmp_path):
    """Code for code, beside matrices of another mode, and as mlx multiplies both out."""
    source = mxfp4_folder(tmp_path / "source", is_mx)
    assert check(source, tmp_path / "a") == 18
    said = json.loads(phid("convert", source, tmp_path / "out", "--format", "mlx", "--json"))
    assert (said["exact"], said["requantized"]) == (18, 0)
    assert check(tmp_path / "out", tmp_path / "b") == 18
    before, after = (mx.load(str(folder / "model.safetensors")) for folder in (source, tmp_path / "out"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        if value.dtype == mx.uint32 and name.replace(".weight", ".biases") not in before:
            assert numpy.array_equal(unsigned_zeros(value), unsigned_zeros(after[name])), name
        else:
            assert mx.array_equal(value, after[name]), name


def test_mxfp4_of_a_gguf(tmp_path):
    """What llama.cpp writes as MXFP4 is mlx's."""
    llama_cpp = pytest.importorskip("llama_cpp")
    phid("quantize", SAMPLE, "--precision", "fp32", "--no-quality", "--out", tmp_path / "source.gguf")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure = llama_cpp.LLAMA_FTYPE_MOSTLY_MXFP4_MOE, True
    params.output_tensor_type = params.token_embedding_type = llama_cpp.GGML_TYPE_MXFP4
    assert llama_cpp.llama_model_quantize(str(tmp_path / "source.gguf").encode(),
                                          str(tmp_path / "m.gguf").encode(), ctypes.byref(params)) == 0
    said = json.loads(phid("convert", tmp_path / "m.gguf", tmp_path / "out", "--format", "mlx", "--json"))
    assert said["exact"] == 18
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization"] == \
        {"mode": "mxfp4", "group_size": 32, "bits": 4}
    assert check(tmp_path / "out", tmp_path) == 18
    ours, theirs = phid_values(tmp_path / "m.gguf", tmp_path / "a"), phid_values(tmp_path / "out", tmp_path / "b")
    for name, values in ours.items():
        numpy.testing.assert_array_equal(values, theirs[name], err_msg=name)


def loaded(folder, values):
    """The folder's matrices as modules, by the way in which mlx-lm's loader takes it: quantized as
    config.json says, layer by layer, and with nothing missing and nothing left over."""
    section = json.loads((folder / "config.json").read_text())["quantization"]
    arrays = mx.load(str(folder / "model.safetensors"))
    modules = {}
    for name, value in values.items():
        stem = name.removesuffix(".weight")
        modules[stem] = nn.RMSNorm(len(value)) if value.ndim == 1 else \
            nn.Embedding(*value.shape) if "embed_tokens" in stem else \
            nn.Linear(value.shape[1], value.shape[0], bias=False)
    root = nn.Module()
    for name, part in tree_unflatten(list(modules.items())).items():
        setattr(root, name, part)

    def predicate(path, module):
        if path in section:
            return section[path]
        return hasattr(module, "to_quantized") and f"{path}.scales" in arrays

    nn.quantize(root, group_size=section["group_size"], bits=section["bits"], mode=section["mode"],
                class_predicate=predicate)
    root.load_weights(list(arrays.items()), strict=True)
    return dict(root.named_modules())


@pytest.mark.parametrize("options", [["int4", "--group-size", "64"], ["int4", "--asymmetric"], ["int8"], "mxfp4"])
def test_modules(options, tmp_path):
    """The head has 8 bits where the layers have 4: each module computes with its own."""
    source = SAMPLE
    if options == "mxfp4":
        source = mxfp4_folder(tmp_path / "source", lambda name: ".layers." in name)
    phid("convert", source, tmp_path / "model", "--format", "mlx",
         *([] if options == "mxfp4" else ["--precision", *options]))
    ours = phid_values(tmp_path / "model", tmp_path / "plain")
    modules = loaded(tmp_path / "model", ours)
    found = {(module.bits, module.mode) for module in modules.values() if hasattr(module, "bits")}
    assert found == {(8, "affine")} | {"int8": set(), "mxfp4": {(4, "mxfp4")}}.get(
        options if options == "mxfp4" else options[0], {(4, "affine")})
    for name, right in ours.items():
        module = modules[name.removesuffix(".weight")]
        if right.ndim == 1:
            continue
        if isinstance(module, nn.QuantizedEmbedding):
            got, want = module(mx.arange(len(right))), right
        else:
            x = numpy.random.default_rng(1).standard_normal((3, right.shape[1])).astype(numpy.float32)
            got, want = module(mx.array(x)), x @ right.T
        numpy.testing.assert_allclose(numpy.array(got.astype(mx.float32)), want, rtol=2e-3, atol=2e-3, err_msg=name)


def test_mlx_lm_routes_phimoe_otherwise(tmp_path, monkeypatch):
    """The two shares of mlx-lm's phimoe are a softmax's, which add up to 1, where SparseMixer's do not:
    so it is another function. Of the same weights it computes what transformers does with such shares."""
    pytest.importorskip("mlx_lm")
    pytest.importorskip("torch")
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    runtimes, sources = map(importlib.import_module, ("runtimes", "sources"))
    modeling = importlib.import_module("transformers.models.phimoe.modeling_phimoe")

    def shares_of_a_softmax(scores, *_, **__):
        best = scores.topk(2, dim=-1)
        return best.values.softmax(-1), best.indices

    source = sources.Models(tmp_path)["phimoe"]
    phid("convert", source.path, tmp_path / "mlx", "--format", "mlx", "--precision", "int4")
    phid("convert", tmp_path / "mlx", tmp_path / "right", "--format", "safetensors", "--precision", "fp32")
    # Longer than LongRoPE's original context: mlx-lm has the long factors only.
    ids = sources.ids_of(sources.PROMPTS[2])
    theirs = runtimes.MlxLm(tmp_path / "mlx", source).logits(ids)
    right = sources.Reference(tmp_path / "right")
    sparse = right.logits(ids)
    monkeypatch.setattr(modeling, "sparsemixer", shares_of_a_softmax)
    soft = right.logits(ids)
    size = numpy.abs(soft).max()
    assert numpy.abs(theirs - soft).max() <= 1e-4 * size
    assert numpy.abs(theirs - sparse).max() > 0.1 * size, "docs/formats.md says that it differs"
