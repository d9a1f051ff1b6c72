"""phid convert: the sample model as a folder of other ecosystems, and back, code for code."""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
PHID = os.environ.get("PHID_BIN", str(ROOT / "build/release/server/phid"))
ASK = ["--raw", "the cat", "--temperature", "0", "--max-tokens", "24"]
FORMATS = ["onnx", "openvino"]
# What a folder of each may hold, that it hands over whole.
HUGGING_FACE = {
    "safetensors": ["fp16", "fp32"],
    "mlx": ["int4", "int4-offset", "int4-128", "int8", "fp16"],
    "gptq": ["int4", "int4-offset", "int4-128", "int8"],
    "compressed-tensors": ["int4", "int4-128", "int8"],
}
CODINGS = {
    "int4": ["--precision", "int4"],
    "int4-offset": ["--precision", "int4", "--asymmetric", "--group-size", "64"],
    "int4-128": ["--precision", "int4", "--group-size", "128"],
    "int8": ["--precision", "int8"],
    "fp16": ["--precision", "fp16"],
    "fp32": ["--precision", "fp32"],
}


def phid(*arguments, fails=False):
    done = subprocess.run([PHID, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def convert(source, out, form, *options):
    return json.loads(phid("convert", source, out, "--format", form, "--json", *options))


def values(folder, out):
    """All that the folder's codes stand for; files of other formats have other names in them."""
    phid("quantize", folder, "--precision", "fp32", "--no-quality", "--out", out)
    tensors = json.loads(phid("inspect", out, "--json"))["tensors"]
    return out.read_bytes()[-sum(tensor["bytes"] for tensor in tensors):]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("form", FORMATS)
def test_there_and_onward(form, coding, tmp_path):
    first = convert(SAMPLE, tmp_path / "first", form, *CODINGS[coding])
    assert first["matrices"] == 18
    assert first["exact"] == (18 if coding.startswith("fp") else 0)
    before = values(tmp_path / "first", tmp_path / "first.gguf")
    for onward in FORMATS:
        folder = tmp_path / f"then-{onward}"
        then = convert(tmp_path / "first", folder, onward)
        assert (then["exact"], then["requantized"]) == (18, 0)
        assert values(folder, tmp_path / f"{onward}.gguf") == before


@pytest.mark.parametrize("form, coding", [(form, coding) for form, codings in HUGGING_FACE.items()
                                          for coding in codings])
def test_hugging_face_there_and_again(form, coding, tmp_path):
    """What is read of a folder is what was written, and it converts to itself without loss."""
    convert(SAMPLE, tmp_path / "first", form, *CODINGS[coding])
    said = phid("inspect", tmp_path / "first")
    assert {"safetensors": "safetensors", "mlx": "" if coding == "fp16" else "MLX", "gptq": "GPTQ",
            "compressed-tensors": "compressed-tensors"}[form] in said
    before = values(tmp_path / "first", tmp_path / "first.gguf")
    then = convert(tmp_path / "first", tmp_path / "second", form)
    assert then["requantized"] == 0
    assert values(tmp_path / "second", tmp_path / "second.gguf") == before
    answer = phid("generate", tmp_path / "second", *ASK)
    assert answer == phid("generate", tmp_path / "first", *ASK)
    if coding in ("int8", "fp16", "fp32"):
        assert answer == phid("generate", SAMPLE, *ASK)


@pytest.mark.parametrize("source", ["onnx", "openvino"])
@pytest.mark.parametrize("form", ["mlx", "gptq", "compressed-tensors"])
def test_codes_go_over(form, source, tmp_path):
    convert(SAMPLE, tmp_path / "source", source, *CODINGS["int4"])
    then = convert(tmp_path / "source", tmp_path / "then", form)
    assert (then["matrices"], then["requantized"]) == (18, 0)
    assert values(tmp_path / "then", tmp_path / "then.gguf") == \
        values(tmp_path / "source", tmp_path / "source.gguf")
    back = convert(tmp_path / "then", tmp_path / "back", source)
    assert back["requantized"] == 0
    assert values(tmp_path / "back", tmp_path / "back.gguf") == \
        values(tmp_path / "source", tmp_path / "source.gguf")


@pytest.mark.parametrize("form", FORMATS)
def test_answers(form, tmp_path):
    for coding in ("fp32", "int8"):
        convert(SAMPLE, tmp_path / coding, form, *CODINGS[coding])
        assert phid("generate", tmp_path / coding, *ASK) == phid("generate", SAMPLE, *ASK)


def test_more_bits_cost_less(tmp_path):
    errors = [convert(SAMPLE, tmp_path / coding, "onnx", *CODINGS[coding])["weight_rmse"]
              for coding in ("int4-128", "int4", "int8", "fp32")]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


@pytest.mark.parametrize("arguments, says", [
    ([SAMPLE, "out"], "--format is missing"),
    ([SAMPLE, "--format", "onnx"], "name a source and a folder"),
    ([SAMPLE, "out", "--format", "tflite"], "it must be onnx, openvino, safetensors"),
    ([SAMPLE, "out", "--format", "onnx", "--precision", "int5"], "it must be int4, int8, fp16 or fp32"),
    ([SAMPLE, "out", "--format", "onnx", "--precision", "int4", "--group-size", "48"],
     "must be 16, 32, 64, 128 or 256"),
    ([SAMPLE, "out", "--format", "onnx", "--precision", "int8", "--asymmetric"], "int4 only"),
    (["/nowhere", "out", "--format", "onnx"], "nowhere"),
])
def test_refusals(arguments, says, tmp_path):
    arguments = [tmp_path / "out" if argument == "out" else argument for argument in arguments]
    assert says in phid("convert", *arguments, fails=True)
    assert not (tmp_path / "out").exists()


def test_gguf_lacks_the_tokenizer_file(tmp_path):
    phid("quantize", SAMPLE, "--precision", "int4", "--no-quality", "--out", tmp_path / "a.gguf")
    said = phid("convert", tmp_path / "a.gguf", tmp_path / "out", "--format", "onnx", fails=True)
    assert "no tokenizer.json" in said
