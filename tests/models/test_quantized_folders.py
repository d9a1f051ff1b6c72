"""Hugging Face folders whose weights are quantized: MLX, GPTQ, AWQ, auto-round, compressed-tensors.

Each is packed here, by numpy, from codes made of the sample model's weights; the values that phid reads must
be the very values that the codes stand for, and the model must answer as it does.
"""

import json
import os
import pathlib
import shutil
import struct
import subprocess

import numpy
import pytest

from conftest import make_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
PHID = os.environ.get("PHID_BIN", str(ROOT / "build/release/server/phid"))
NUMPY_TYPES = {"F32": numpy.float32, "F16": numpy.float16, "I32": numpy.int32, "U32": numpy.uint32,
               "I8": numpy.int8, "U8": numpy.uint8, "BF16": numpy.uint16}
TYPE_NAMES = {numpy.dtype(value): name for name, value in NUMPY_TYPES.items()}
AWQ_ROWS = [0, 2, 4, 6, 1, 3, 5, 7]


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = numpy.frombuffer(data[8 + length + begin:8 + length + end], NUMPY_TYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, blobs, at = {}, [], 0
    for name, values in tensors.items():
        blob = numpy.ascontiguousarray(values).tobytes()
        header[name] = {"dtype": TYPE_NAMES[values.dtype], "shape": list(values.shape),
                        "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def encode(weight, bits, group, symmetric):
    """Codes [N, K], fp16 scales and integer zero points [N, K / group]."""
    rows, cols = weight.shape
    x = weight.astype(numpy.float32).reshape(rows, cols // group, group)
    top = 2 ** bits - 1
    low, high = numpy.minimum(x.min(2), 0), numpy.maximum(x.max(2), 0)
    if symmetric:
        scales = (numpy.maximum(-low, high) / (top // 2)).astype(numpy.float16)
        zeros = numpy.full(scales.shape, (top + 1) // 2)
    else:
        scales = ((high - low) / top).astype(numpy.float16)
        zeros = numpy.rint(-low / scales.astype(numpy.float32)).astype(int)
    q = numpy.rint(x / scales.astype(numpy.float32)[..., None]) + zeros[..., None]
    return numpy.clip(q, 0, top).astype(numpy.int64).reshape(rows, cols), scales, zeros


def decode(q, scales, zeros, group):
    wide = scales.astype(numpy.float64)
    values = (q - numpy.repeat(zeros, group, 1)) * numpy.repeat(wide, group, 1)
    return values.astype(numpy.float32)


def words(values, bits):
    """The last axis packed into 32-bit words, low bits first."""
    count = 32 // bits
    grouped = values.reshape(*values.shape[:-1], -1, count).astype(numpy.uint64)
    shifts = numpy.arange(count, dtype=numpy.uint64) * numpy.uint64(bits)
    return (grouped << shifts).sum(-1).astype(numpy.uint32)


def mlx(stem, weight, bits, group):
    q, scales, zeros = encode(weight, bits, group, False)
    biases = (-zeros * scales.astype(numpy.float32)).astype(numpy.float16)
    wide = numpy.repeat(scales.astype(numpy.float64), group, 1)
    value = (q * wide + numpy.repeat(biases.astype(numpy.float64), group, 1)).astype(numpy.float32)
    return {stem + "weight": words(q, bits), stem + "scales": scales, stem + "biases": biases}, value


def gptq(stem, weight, bits, group, order=None, less=1):
    q, scales, zeros = encode(weight, bits, group, False)
    zeros = numpy.maximum(zeros, 1)
    index = numpy.arange(weight.shape[1]) // group
    if order is not None:
        index = index[order]
    value = ((q - zeros[:, index]) * scales.astype(numpy.float64)[:, index]).astype(numpy.float32)
    return {stem + "qweight": words(q, bits).T.astype(numpy.uint32).view(numpy.int32),
            stem + "qzeros": words((zeros - less).T, bits).view(numpy.int32),
            stem + "scales": scales.T, stem + "g_idx": index.astype(numpy.int32)}, value


def awq(stem, weight, group):
    q, scales, zeros = encode(weight, 4, group, False)

    def across(values):
        turned = values.T.reshape(values.shape[1], -1, 8)[:, :, AWQ_ROWS]
        return words(turned.reshape(values.shape[1], -1), 4).view(numpy.int32)

    return {stem + "qweight": across(q), stem + "qzeros": across(zeros), stem + "scales": scales.T}, \
        decode(q, scales, zeros, group)


def compressed(stem, weight, bits, group):
    q, scales, zeros = encode(weight, bits, group, True)
    value = decode(q, scales, zeros, group)
    if bits == 8 and group == weight.shape[1]:
        return {stem + "weight": (q - 128).astype(numpy.int8), stem + "weight_scale": scales}, value
    return {stem + "weight_packed": words(q, bits).view(numpy.int32), stem + "weight_scale": scales,
            stem + "weight_shape": numpy.array(weight.shape, numpy.int32)}, value


def compressed_zeros(stem, weight, bits, group, packed=True):
    """Asymmetric: zero points in words over the rows, or as bytes beside codes that are bytes."""
    q, scales, zeros = encode(weight, bits, group, False)
    middle = 1 << (bits - 1)
    value = decode(q, scales, zeros, group)
    if not packed:
        return {stem + "weight": (q - middle).astype(numpy.int8), stem + "weight_scale": scales,
                stem + "weight_zero_point": (zeros - middle).astype(numpy.int8)}, value
    padded = numpy.zeros((-(-zeros.shape[0] * bits // 32) * 32 // bits, zeros.shape[1]), numpy.int64)
    padded[:zeros.shape[0]] = zeros
    return {stem + "weight_packed": words(q, bits).view(numpy.int32), stem + "weight_scale": scales,
            stem + "weight_zero_point": numpy.ascontiguousarray(words(padded.T, bits).T).view(numpy.int32),
            stem + "weight_g_idx": numpy.full(weight.shape[1], -1, numpy.int32),
            stem + "weight_shape": numpy.array(weight.shape, numpy.int32)}, value


def config_groups(bits, symmetric=True):
    return {"group_0": {"targets": ["Linear"],
                        "weights": {"num_bits": bits, "type": "int", "symmetric": symmetric}}}


ORDER = numpy.random.default_rng(3)
LAYOUTS = {
    "mlx-4": (lambda s, w: mlx(s, w, 4, 64), "quantization", {"group_size": 64, "bits": 4}, "MLX", True),
    "mlx-8": (lambda s, w: mlx(s, w, 8, 32), "quantization", {"group_size": 32, "bits": 8}, "MLX", True),
    "mlx-16": (lambda s, w: mlx(s, w, 4, 16), "quantization", {"group_size": 16, "bits": 4}, "MLX", True),
    "mlx-2": (lambda s, w: mlx(s, w, 2, 32), "quantization", {"group_size": 32, "bits": 2}, "MLX", True),
    "gptq-4": (lambda s, w: gptq(s, w, 4, 128), "quantization_config",
               {"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ", False),
    "gptq-8": (lambda s, w: gptq(s, w, 8, 64), "quantization_config",
               {"quant_method": "gptq", "bits": 8, "group_size": 64}, "GPTQ", False),
    "gptq-order": (lambda s, w: gptq(s, w, 4, 64, ORDER.permutation(w.shape[1])), "quantization_config",
                   {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True}, "GPTQ", False),
    "awq": (lambda s, w: awq(s, w, 64), "quantization_config",
            {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}, "AWQ", False),
    "auto-round-gptq": (lambda s, w: gptq(s, w, 4, 128), "quantization_config",
                        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4},
                        "GPTQ", False),
    "auto-round-zeros": (lambda s, w: gptq(s, w, 8, 64, less=0), "quantization_config",
                         {"quant_method": "auto-round", "packing_format": "auto_round", "bits": 8},
                         "GPTQ", False),
    "auto-round-awq": (lambda s, w: awq(s, w, 64), "quantization_config",
                       {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4},
                       "AWQ", False),
    "compressed-4": (lambda s, w: compressed(s, w, 4, 128), "quantization_config",
                     {"quant_method": "compressed-tensors", "format": "pack-quantized",
                      "config_groups": config_groups(4)}, "compressed-tensors", False),
    "compressed-8": (lambda s, w: compressed(s, w, 8, w.shape[1]), "quantization_config",
                     {"quant_method": "compressed-tensors", "format": "int-quantized",
                      "config_groups": config_groups(8)}, "compressed-tensors", False),
    "compressed-zeros-4": (lambda s, w: compressed_zeros(s, w, 4, 32), "quantization_config",
                           {"quant_method": "compressed-tensors", "format": "pack-quantized",
                            "config_groups": config_groups(4, False)}, "compressed-tensors", False),
    "compressed-zeros-8": (lambda s, w: compressed_zeros(s, w, 8, w.shape[1], False), "quantization_config",
                           {"quant_method": "compressed-tensors", "format": "int-quantized",
                            "config_groups": config_groups(8, False)}, "compressed-tensors", False),
}


def make_folder(folder, tensors, **config):
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (SAMPLE / name).exists():
            shutil.copy(SAMPLE / name, folder)
    whole = {**json.loads((SAMPLE / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps(whole))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def phid(*arguments):
    done = subprocess.run([PHID, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fp32(folder, out):
    phid("quantize", folder, "--precision", "fp32", "--no-quality", "--out", out)
    return out.read_bytes()


@pytest.fixture(name="sample", scope="module")
def read_sample():
    return read_safetensors(SAMPLE / "model.safetensors")


def build(sample, layout, tmp_path):
    """The folder, and one with the values that its codes stand for."""
    pack, key, section, _, everything = LAYOUTS[layout]
    stored, plain = {}, {}
    for name, weight in sample.items():
        plain[name] = weight.astype(numpy.float32)
        in_layer = ".layers." in name
        if weight.ndim == 2 and (everything or in_layer):
            arrays, plain[name] = pack(name.removesuffix("weight"), weight)
            stored.update(arrays)
        else:
            stored[name] = weight
    # Of one name, which goes into the result.
    return (make_folder(tmp_path / "stored" / "model", stored, **{key: section}),
            make_folder(tmp_path / "plain" / "model", plain))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values(layout, sample, tmp_path):
    stored, plain = build(sample, layout, tmp_path)
    assert fp32(stored, tmp_path / "stored.gguf") == fp32(plain, tmp_path / "plain.gguf")
    assert LAYOUTS[layout][3] in phid("inspect", stored)


@pytest.mark.parametrize("layout", ["mlx-8", "gptq-8", "compressed-8"])
def test_answers(layout, sample, tmp_path):
    stored, _ = build(sample, layout, tmp_path)
    ask = ["--raw", "the cat", "--temperature", "0", "--max-tokens", "24"]
    assert phid("generate", stored, *ask) == phid("generate", SAMPLE, *ask)


@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("layout", ["gptq-4", "gptq-8", "awq", "compressed-4", "compressed-8",
                                    "compressed-zeros-4", "compressed-zeros-8"])
def test_convert_is_exact(layout, form, sample, tmp_path):
    stored, _ = build(sample, layout, tmp_path)
    said = json.loads(phid("convert", stored, tmp_path / "model", "--format", form, "--json"))
    assert (said["exact"], said["requantized"]) == (18, 0)
    assert fp32(tmp_path / "model", tmp_path / "there.gguf")[-4096:] == \
        fp32(stored, tmp_path / "here.gguf")[-4096:]


def refusal(sample, tmp_path, change, **section):
    arrays = {name: weight for name, weight in sample.items() if ".layers." not in name}
    for name, weight in sample.items():
        if ".layers." in name and weight.ndim == 2:
            arrays.update(gptq(name.removesuffix("weight"), weight, 4, 64)[0])
        elif ".layers." in name:
            arrays[name] = weight
    change(arrays)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 64, **section}
    folder = make_folder(tmp_path / "bad", arrays, quantization_config=config)
    done = subprocess.run([PHID, "inspect", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return done.stderr


STEM = "model.layers.1.mlp.down_proj."


@pytest.mark.parametrize("change, section, says", [
    (lambda a: None, {"quant_method": "bitsandbytes"}, '"bitsandbytes"; supported: "gptq"'),
    (lambda a: None, {"quant_method": "awq", "version": "gemv"}, '"gemv"; supported: "gemm"'),
    (lambda a: None, {"bits": 3}, "3"),
    (lambda a: None, {"bits": 8}, "is right"),
    (lambda a: None, {"checkpoint_format": "marlin"}, '"marlin"; supported'),
    (lambda a: a.pop(STEM + "scales"), {}, STEM + 'scales" is missing'),
    (lambda a: a.pop(STEM + "qzeros"), {}, STEM + 'qzeros" is missing'),
    (lambda a: a.pop(STEM + "qweight"), {}, STEM + 'weight" is missing'),
    (lambda a: a.update({STEM + "qweight": a[STEM + "qweight"][:-1]}), {}, STEM + 'qweight" has shape'),
    (lambda a: a.update({STEM + "scales": a[STEM + "scales"].astype(numpy.int8)}), {}, "dtype I8"),
    (lambda a: a.update({STEM + "g_idx": a[STEM + "g_idx"] + 1}), {}, "group index of column"),
])
def test_refusals(change, section, says, sample, tmp_path):
    assert says in refusal(sample, tmp_path, change, **section)


def test_asymmetric_without_zero_points(sample, tmp_path):
    stored, _ = build(sample, "compressed-4", tmp_path)
    config = json.loads((stored / "config.json").read_text())
    config["quantization_config"]["config_groups"] = config_groups(4, False)
    (stored / "config.json").write_text(json.dumps(config))
    done = subprocess.run([PHID, "inspect", str(stored)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert 'weight_zero_point" is missing' in done.stderr


TARGETS = ["onnx", "openvino", "safetensors", "mlx", "gptq", "compressed-tensors", "gguf"]


def floats(path, out):
    """All values, in the order in which a GGUF has them."""
    phid("quantize", path, "--precision", "fp32", "--no-quality", "--out", out)
    tensors = json.loads(phid("inspect", out, "--json"))["tensors"]
    return numpy.frombuffer(out.read_bytes()[-sum(tensor["bytes"] for tensor in tensors):], numpy.float32)


def words_apart(packed):
    shifts = numpy.arange(8, dtype=numpy.uint32) * numpy.uint32(4)
    return (packed.view(numpy.uint32)[..., None] >> shifts & numpy.uint32(15)).reshape(len(packed), -1).astype(int)


@pytest.mark.parametrize("form", TARGETS)
def test_odd_codes_go_over(form, sample, tmp_path):
    """A tied head, rows whose scale is 0 and negative scales, as Q4_0 has them."""
    stored = {}
    for name, weight in sample.items():
        if "lm_head" in name:
            continue
        if weight.ndim == 1 or ".layers." not in name:
            stored[name] = weight
            continue
        stem = name.removesuffix("weight")
        arrays, _ = compressed(stem, weight, 4, 32)
        q, scales = words_apart(arrays[stem + "weight_packed"]), arrays[stem + "weight_scale"].copy()
        scales[::7] = 0
        # w = s (q - 8) = -s (16 - q - 8), where q is not 0.
        turned = (q.reshape(len(q), -1, 32).min(2) > 0) & (numpy.arange(len(q))[:, None] % 3 == 0)
        q = numpy.where(numpy.repeat(turned, 32, 1), 16 - q, q)
        assert turned.any()
        arrays[stem + "weight_packed"] = words(q, 4).view(numpy.int32)
        arrays[stem + "weight_scale"] = numpy.where(turned, -scales, scales)
        stored.update(arrays)
    source = make_folder(tmp_path / "source", stored, tie_word_embeddings=True, quantization_config={
        "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": config_groups(4)})
    out = tmp_path / ("out.gguf" if form == "gguf" else "out")
    said = json.loads(phid("convert", source, out, "--format", form, "--json"))
    assert (said["matrices"], said["exact"]) == (17, 17)
    before, after = floats(source, tmp_path / "a.gguf"), floats(out, tmp_path / "b.gguf")
    assert numpy.array_equal(before, after)
    assert (before == 0).sum() > before.size // 9
    described = json.loads(phid("inspect", out, "--json"))
    assert "output.weight" not in [tensor["name"] for tensor in described["tensors"]]


@pytest.mark.parametrize("form", TARGETS)
def test_bf16_goes_over(form, sample, tmp_path):
    """bf16 stays where the format has it, and becomes fp16 for ONNX and OpenVINO."""
    stored = {name: (weight.astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)
              for name, weight in sample.items()}
    source = make_folder(tmp_path / "source", stored)
    out = tmp_path / ("out.gguf" if form == "gguf" else "out")
    said = json.loads(phid("convert", source, out, "--format", form, "--json"))
    kept = form not in ("onnx", "openvino")
    assert (said["exact"], said["requantized"]) == (18 if kept else 0, 0)
    before, after = floats(source, tmp_path / "a.gguf"), floats(out, tmp_path / "b.gguf")
    assert numpy.array_equal(before if kept else before.astype(numpy.float16).astype(numpy.float32), after)


@pytest.mark.parametrize("form, exact", [
    ("onnx", 0), ("openvino", 18), ("safetensors", 18), ("mlx", 0), ("gguf", 0)])
def test_groups_of_16_go_over(form, exact, sample, tmp_path):
    """MLX reads groups of 16, and its own tools do not write them."""
    source, _ = build(sample, "mlx-16", tmp_path)
    out = tmp_path / ("out.gguf" if form == "gguf" else "out")
    said = json.loads(phid("convert", source, out, "--format", form, "--json"))
    assert (said["exact"], said["requantized"]) == (exact, 18 - exact)
    before, after = floats(source, tmp_path / "a.gguf"), floats(out, tmp_path / "b.gguf")
    error = numpy.sqrt(((before - after) ** 2).sum() / (before ** 2).sum())
    assert error == 0 if exact else 0 < error < 0.12


def build_large(sample, bits, scale_type, factor, tmp_path):
    """Symmetric codes of the layers' matrices, with scales of 11 bits up to `factor`."""
    stored = {}
    for name, weight in sample.items():
        stored[name] = weight
        if weight.ndim == 2 and ".layers." in name:
            stem = name.removesuffix("weight")
            arrays, _ = compressed(stem, weight, bits, 32)
            scales = arrays[stem + "weight_scale"].astype(numpy.float32)
            arrays[stem + "weight_scale"] = (
                (scales / scales.max()).astype(numpy.float16).astype(numpy.float32) * factor).astype(scale_type)
            stored.pop(name)
            stored.update(arrays)
    return make_folder(tmp_path / "source", stored, quantization_config={
        "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": config_groups(bits)})


def fails(*arguments):
    done = subprocess.run([PHID, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr


LARGE = [(form, []) for form in TARGETS] + [("onnx", ["--provider", "cuda"]), ("mlx", ["--precision", "int8"])]


@pytest.mark.parametrize("form, options", LARGE, ids=[" ".join([form, *options[1:]]) for form, options in LARGE])
@pytest.mark.parametrize("bits, scale", [(4, 32768.0), (8, 1024.0)])
def test_large_scales_go_over(bits, scale, form, options, sample, tmp_path):
    """Eight times such a scale, or 128 times, which MLX's biases are, is more than fp16 has."""
    source = build_large(sample, bits, numpy.float16, scale, tmp_path)
    out = tmp_path / ("out.gguf" if form == "gguf" else "out")
    said = json.loads(phid("convert", source, out, "--format", form, "--json", *options))
    assert said["exact"] >= 16
    before, after = floats(source, tmp_path / "a.gguf"), floats(out, tmp_path / "b.gguf")
    assert numpy.isfinite(after).all() and before.max() > 65504
    if options == ["--precision", "int8"]:  # the embedding and the head are coded anew
        before, after = before[numpy.abs(before) > 100], after[numpy.abs(before) > 100]
    assert numpy.array_equal(before, after)


@pytest.mark.parametrize("form", ["onnx", "openvino", "mlx", "compressed-tensors"])
def test_scales_beyond_fp16_go_over(form, sample, tmp_path):
    source = build_large(sample, 4, numpy.float32, 2.0 ** 20, tmp_path)
    said = json.loads(phid("convert", source, tmp_path / "out", "--format", form, "--json"))
    assert said["exact"] == 18
    assert numpy.array_equal(floats(source, tmp_path / "a.gguf"), floats(tmp_path / "out", tmp_path / "b.gguf"))


@pytest.mark.parametrize("form, options", [("gptq", []), ("gguf", []), ("onnx", ["--provider", "cuda"])],
                         ids=["gptq", "gguf", "cuda"])
def test_scales_beyond_fp16_are_refused(form, options, sample, tmp_path):
    """Where the format has fp16 only: never an infinite scale."""
    source = build_large(sample, 4, numpy.float32, 2.0 ** 20, tmp_path)
    out = tmp_path / ("out.gguf" if form == "gguf" else "out")
    says = fails("convert", source, out, "--format", form, *options)
    assert "tensor 'blk.0." in says and ("too large for a scale of F16" in says or "beyond what Q4_0" in says)
    assert not out.exists()


@pytest.mark.parametrize("form", ["safetensors", "mlx", "onnx", "openvino"])
def test_weights_beyond_fp16_are_refused(form, sample, tmp_path):
    name = "model.layers.1.mlp.down_proj.weight"
    stored = {key: weight.astype(numpy.float32) for key, weight in sample.items()}
    stored[name][2, 3] = 70000.0
    source = make_folder(tmp_path / "source", stored)
    says = fails("convert", source, tmp_path / "out", "--format", form, "--precision", "fp16")
    assert "70000" in says and "blk.1.ffn_down.weight" in says and "fp16" in says
    assert not (tmp_path / "out").exists()


def test_gptq_of_a_tall_matrix(tmp_path):
    """Its rows lie across the file, and are written in several pieces."""
    source = make_model(tmp_path / "source", hidden=256, ffn=16640)
    phid("quantize", source, "--precision", "int8", "--no-quality", "--out", tmp_path / "a.gguf")
    said = json.loads(phid("convert", tmp_path / "a.gguf", tmp_path / "gptq", "--format", "gptq", "--json"))
    assert said["requantized"] == 0
    before, after = floats(tmp_path / "a.gguf", tmp_path / "b"), floats(tmp_path / "gptq", tmp_path / "c")
    assert numpy.array_equal(before, after)
