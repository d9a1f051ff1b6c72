"""A small model in every format that is read, cut short and changed byte by byte: each command
either does its work or ends with one line that names what is wrong, and leaves nothing behind.

PHID_DAMAGE multiplies the number of changes; 1 is what the suite runs.
"""

import json
import os
import random
import shutil
import struct
import subprocess

import numpy
import pytest

import test_quantized_folders as folders
from conftest import binary, make_model, read_safetensors, write_torch

# Of each file, and for each of the two ways.
CHANGES = 8 * int(os.environ.get("PHID_DAMAGE", "1"))
CUTS = 4 * int(os.environ.get("PHID_DAMAGE", "1"))
TIMEOUT_S = 60

# Folder, how phid writes it, and the files that say where everything is.
WRITTEN = {
    "mlx": (["--format", "mlx", "--precision", "int4"], ["model.safetensors", "config.json"]),
    "gptq": (["--format", "gptq", "--precision", "int4"], ["model.safetensors", "config.json"]),
    "compressed": (["--format", "compressed-tensors", "--precision", "int8"],
                   ["model.safetensors", "config.json"]),
    "onnx": (["--format", "onnx", "--precision", "int4"],
             ["model.onnx", "genai_config.json", "model.onnx.data"]),
    "openvino": (["--format", "openvino", "--precision", "int4"],
                 ["openvino_model.xml", "openvino_model.bin", "config.json"]),
}
FORMATS = ["safetensors", "pytorch", "gguf", "awq", *WRITTEN]


def phid(*arguments):
    return subprocess.run([str(binary()), *map(str, arguments)], capture_output=True, text=True,
                          errors="replace", timeout=TIMEOUT_S, check=False)


def must(*arguments):
    done = phid(*arguments)
    assert done.returncode == 0, done.stderr


def write_awq(plain, folder):
    """phid writes none; the layers' matrices in groups of 32."""
    stored = {}
    for name, weight in folders.read_safetensors(plain / "model.safetensors").items():
        stored[name] = weight
        if weight.ndim == 2 and ".layers." in name:
            wide = (weight.astype(numpy.uint32) << 16).view(numpy.float32)
            stored.pop(name)
            stored.update(folders.awq(name.removesuffix("weight"), wide, 32)[0])
    section = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    config = {**json.loads((plain / "config.json").read_text()), "quantization_config": section}
    folders.make_folder(folder, stored, **config)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    top = tmp_path_factory.mktemp("damage")
    plain = make_model(top / "safetensors")
    torch = make_model(top / "pytorch")
    write_torch(torch / "pytorch_model.bin", read_safetensors(torch / "model.safetensors"))
    (torch / "model.safetensors").unlink()
    write_awq(plain, top / "awq")
    (top / "gguf").mkdir()
    must("quantize", plain, "--type", "q4_0", "--no-quality", "--out", top / "gguf" / "model.gguf")
    for name, (options, _) in WRITTEN.items():
        must("convert", plain, top / name, *options)
    return top


def subjects(models, form):
    """What the commands are given, and the files to damage."""
    folder = models / form
    if form == "gguf":
        return folder / "model.gguf", [folder / "model.gguf"]
    names = {"safetensors": ["model.safetensors", "config.json", "tokenizer.json"],
             "pytorch": ["pytorch_model.bin"], "awq": ["model.safetensors", "config.json"]}
    return folder, [folder / name for name in names.get(form) or WRITTEN[form][1]]


def header_bytes(path):
    """Where the part ends that a change is most likely to be noticed in."""
    data = path.read_bytes()
    if path.name == "model.safetensors":
        return 8 + struct.unpack("<Q", data[:8])[0]
    if path.name == "model.gguf":
        return min(len(data), 1 << 16)
    return len(data)


def damages(path, rng):
    """(what was done, the bytes), a deterministic choice."""
    data = path.read_bytes()
    head = min(header_bytes(path), len(data))
    places = [0, 1, head - 1, head, len(data) - 1] + [rng.randrange(head) for _ in range(CUTS)]
    for place in places[:CUTS]:
        yield f"cut at {place}", data[:place]
    for i in range(CHANGES):
        # Beginnings are where counts and lengths stand.
        place = rng.randrange(64 if i % 4 == 0 else head if i % 4 < 3 else len(data))
        place = min(place, len(data) - 1)
        value = (data[place] ^ (1 << rng.randrange(8)), 0xFF, 0, data[place] ^ 0x80)[i % 4]
        yield f"{value:#x} at {place}", data[:place] + bytes([value]) + data[place + 1:]
        if i % 8 == 7:
            yield f"eight at {place}", data[:place] + b"\xff" * 8 + data[place + 8:]


def check(command, done, names, out):
    says = f"phid {' '.join(map(str, command))}: {done.returncode}\n{done.stderr}"
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, says
    assert done.returncode in (0, 1), says
    if done.returncode == 0:
        return
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"phid {command[0]}: ")]
    assert len(lines) == 1, says
    assert any(name in lines[0] for name in names), says
    if out is not None:
        left = [path for path in out.parent.iterdir() if path.name.startswith(out.name)]
        assert not left, f"{says}\nleft: {left}"


@pytest.mark.parametrize("form", FORMATS)
def test_damaged(form, models, tmp_path):
    source, files = subjects(models, form)
    commands = [["inspect", source],
                ["quantize", source, "--precision", "int8", "--no-quality", "--threads", "1",
                 "--out", tmp_path / "out.gguf"],
                ["convert", source, tmp_path / "out", "--format", "safetensors", "--threads", "1"]]
    for path in files:
        rng = random.Random(f"{form} {path.name}")
        whole = path.read_bytes()
        # Messages name the file, or the tensor, layer or key that it is about.
        names = {path.name, "tensor", "config.json", source.name}
        try:
            for i, (what, data) in enumerate(damages(path, rng)):
                path.write_bytes(data)
                command = commands[i % 3]
                out = command[command.index("--out") + 1] if command[0] == "quantize" else None
                try:
                    done = phid(*command)
                except subprocess.TimeoutExpired:
                    pytest.fail(f"{path.name}, {what}: {command[0]} takes more than {TIMEOUT_S} s")
                try:
                    check(command, done, names, out)
                except AssertionError as error:
                    raise AssertionError(f"{path.name}, {what}: {error}") from None
                for made in (tmp_path / "out.gguf", *(tmp_path / "out").glob("*")):
                    made.unlink(missing_ok=True)
        finally:
            path.write_bytes(whole)


def test_window_of_all_bits(models, tmp_path):
    """A number that is allowed to be large is told as it is."""
    data = (models / "gguf" / "model.gguf").read_bytes()
    key = b"phi3.attention.sliding_window" + struct.pack("<I", 4)
    place = data.index(key) + len(key)
    (tmp_path / "wide.gguf").write_bytes(data[:place] + b"\xf0\xff\xff\xff" + data[place + 4:])
    done = phid("inspect", tmp_path / "wide.gguf", "--json")
    assert json.loads(done.stdout)["model"]["window"] == 0xFFFFFFF0


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def fields(data, begin, end):
    """(key, where its length or number stands, where its content does, where it ends) of a message."""
    def number(at):
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 0x80:
                return value, at
    while begin < end:
        key, place = number(begin)
        value, content = number(place)
        begin = content + (value if key & 7 == 2 else 0)
        assert key & 7 in (0, 2)
        yield key >> 3, place, content, begin


@pytest.mark.parametrize("where, put, says", [
    ("graph", lambda length: varint(1 << 40), "a length runs past the end of what it is in"),
    ("graph", lambda length: varint(length + 100), "a length runs past the end of what it is in"),
    ("graph", lambda length: varint((1 << 64) - 1), "a length runs past the end of what it is in"),
    ("node", lambda length: varint(1 << 20), "a length runs past the end of what it is in"),
    ("node", lambda length: varint((1 << 63) + length), "a length runs past the end of what it is in"),
    ("graph", lambda length: b"\x80" * 10 + b"\x01", "a number has more than 64 bits"),
    ("node", lambda length: b"\xff" * 9 + b"\x7f", "a number has more than 64 bits"),
])
def test_lengths_of_onnx(where, put, says, models, tmp_path):
    """Lengths beyond the file and beyond what they are in, numbers beyond 64 bits: the byte is named."""
    source = tmp_path / "onnx"
    shutil.copytree(models / "onnx", source)
    data = (source / "model.onnx").read_bytes()
    _, place, content, end = next(field for field in fields(data, 0, len(data)) if field[0] == 7)
    if where == "node":
        _, place, content, end = next(field for field in fields(data, content, end) if field[0] == 1)
    (source / "model.onnx").write_bytes(data[:place] + put(end - content) + data[content:])
    for command in (["inspect", source], ["convert", source, tmp_path / "out", "--format", "safetensors"]):
        done = phid(*command)
        assert done.returncode == 1
        assert f"model.onnx: byte {place}: {says}" in done.stderr
    assert not (tmp_path / "out").exists()
