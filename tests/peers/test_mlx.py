"""MLX reads what phid writes, and phid what MLX writes: the same values, element for element."""

import json
import os
import pathlib
import re
import shutil
import struct
import subprocess

import numpy
import pytest

mx = pytest.importorskip("mlx.core")

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
            values = mx.dequantize(part(arrays[f"{stem}.weight"]),
                                   part(arrays[f"{stem}.scales"]).astype(mx.float32),
                                   part(arrays[f"{stem}.biases"]).astype(mx.float32),
                                   group_size=coding["group_size"], bits=coding["bits"])
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
