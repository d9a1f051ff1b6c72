"""Models of the phi2 architecture, as every command of phid sees them."""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHID = os.environ.get("PHID_BIN", str(ROOT / "build/release/server/phid"))
ASK = ["--raw", "the cat", "--temperature", "0", "--max-tokens", "24"]


def phid(*arguments, fails=False):
    done = subprocess.run([PHID, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def values(folder, out):
    phid("quantize", folder, "--precision", "fp32", "--no-quality", "--out", out)
    tensors = json.loads(phid("inspect", out, "--json"))["tensors"]
    return out.read_bytes()[-sum(tensor["bytes"] for tensor in tensors):]


def test_inspect(phi2_dir):
    said = json.loads(phid("inspect", phi2_dir, "--json"))
    assert said["model"]["architecture"] == "phi2"
    assert said["model"]["rotary"] == 32
    names = {tensor["name"]: tensor for tensor in said["tensors"]}
    assert names["blk.0.attn_qkv.bias"]["cols"] == 768
    assert names["blk.1.ffn_up.weight"]["rows"] == 512
    assert "output.bias" in names and "blk.0.ffn_norm.weight" not in names


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_quantize(phi2_dir, precision, tmp_path):
    out = tmp_path / "out.gguf"
    phid("quantize", phi2_dir, "--precision", precision, "--out", out)
    answer = phid("generate", out, *ASK)
    assert answer.strip()
    if precision == "fp32":
        assert answer == phid("generate", phi2_dir, *ASK)


@pytest.mark.parametrize("form, options", [
    ("safetensors", ["--precision", "fp32"]), ("mlx", ["--precision", "int4"]),
    ("gptq", ["--precision", "int4"]), ("compressed-tensors", ["--precision", "int8"]),
])
def test_convert_there_and_again(phi2_dir, form, options, tmp_path):
    phid("convert", phi2_dir, tmp_path / "first", "--format", form, *options)
    phid("convert", tmp_path / "first", tmp_path / "second", "--format", form)
    assert values(tmp_path / "first", tmp_path / "first.gguf") == \
        values(tmp_path / "second", tmp_path / "second.gguf")
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    assert config["architectures"] == ["PhiForCausalLM"]
    if form == "safetensors":
        assert values(tmp_path / "first", tmp_path / "first.gguf") == \
            values(phi2_dir, tmp_path / "source.gguf")


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_graphs_are_refused_by_name(phi2_dir, form, tmp_path):
    said = phid("convert", phi2_dir, tmp_path / "out", "--format", form, fails=True)
    assert f"{form} is written for phi3 models only, and this is phi2" in said
    assert not (tmp_path / "out").exists()
