"""MLX reads what phid writes, and phid what MLX writes: the same values, element for element."""

import json
import os
import pathlib
import shutil
import struct
import subprocess

import numpy
import pytest

mx = pytest.importorskip("mlx.core")

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
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
        kind = numpy.float32 if entry["dtype"] == "F32" else numpy.float16
        values = numpy.frombuffer(data[8 + length + begin:8 + length + end], kind)
        found[name] = values.reshape(entry["shape"]).astype(numpy.float32)
    return found


def check(folder, tmp_path):
    section = json.loads((folder / "config.json").read_text())["quantization"]
    arrays = mx.load(str(folder / "model.safetensors"))
    ours = phid_values(folder, tmp_path / "plain")
    quantized = 0
    for name, right in ours.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.scales" in arrays:
            coding = section.get(stem, section)
            values = mx.dequantize(arrays[name], arrays[f"{stem}.scales"].astype(mx.float32),
                                   arrays[f"{stem}.biases"].astype(mx.float32),
                                   group_size=coding["group_size"], bits=coding["bits"])
            quantized += 1
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
