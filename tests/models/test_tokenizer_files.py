"""A model's tokenizer in every format that phid writes, and back in a GGUF: the same ids, the same text.

The sample model's, and those of ../shared/data/tokenizers where they are there.
"""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy
import pytest

import test_quantized_folders as folders
from conftest import make_model
from gguf_file import without

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "peers"))
unit_program = importlib.import_module("programs").unit_program

SAMPLE = ROOT / "models" / "phi-sample"
SHARED = pathlib.Path(os.environ.get("PHID_SHARED_DIR", ROOT.parent / "shared")) / "data" / "tokenizers"
# Rows of the vocabulary of the model that each is of.
VOCABULARIES = {"phi-sample": 1024, "phi-3-mini": 32064, "phi-4": 100352}
FORMATS = {"onnx": ["--precision", "int4"], "openvino": ["--precision", "int8"], "safetensors": [],
           "mlx": ["--precision", "int4"], "gptq": ["--precision", "int4"],
           "compressed-tensors": ["--precision", "int8"], "gguf": ["--precision", "int8"]}
PIECES = [
    "", " ", "  ", "\n\n", "\t", "\r\n", "Hello, world", " the cat's", "DON'T", "1234567", "x=3.14e-5;", "naïve café",
    "Straße", "\u4f60\u597d\uff0c\u4e16\u754c", "\u0417\u0434\u0440\u0430\u0432", "\u0645\u0631\u062d\u0628\u0627",
    "\U0001f468\u200d\U0001f469", "e\u0301", "\ufffd", "\u00a0", "\u3000", "\u2581", "<|end|>", "<|user|>\n",
    "<|assistant|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x41>", "def f(x):\n    return x\n",
]
TEXTS = [a + b + c for a in PIECES for b in PIECES for c in ("", " end")]


def tokenizers():
    return [SAMPLE] + [SHARED / name for name in VOCABULARIES if (SHARED / name / "tokenizer.json").is_file()]


def model_with(tokenizer, folder):
    """A small phi3 model that has it."""
    make_model(folder)
    rows = VOCABULARIES[tokenizer.name]
    config = json.loads((folder / "config.json").read_text())
    tensors = folders.read_safetensors(folder / "model.safetensors")
    few = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = few[numpy.arange(rows) % len(few)]
    folders.write_safetensors(folder / "model.safetensors", tensors)
    config["vocab_size"] = rows
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    for path in tokenizer.iterdir():
        if path.name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(path, folder)
    return folder


def answers(path, *options):
    """Of each text its ids, or with --decode the text that these stand for."""
    data = b"".join(text.encode() + b"\0" for text in TEXTS)
    made = subprocess.run([unit_program("tokenize_lines"), str(path), *options], input=data, check=True,
                          stdout=subprocess.PIPE).stdout.split(b"\n")[:-1]
    assert len(made) == len(TEXTS)
    return made


def same(left, right):
    wrong = [(text, a, b) for text, a, b in zip(TEXTS, left, right) if a != b]
    assert not wrong, f"{len(wrong)} of {len(TEXTS)} differ, such as {wrong[0]!r}"


@pytest.fixture(scope="module", params=tokenizers(), ids=lambda path: path.name)
def model(request, tmp_path_factory):
    """(the folder, its ids, its texts)"""
    folder = model_with(request.param, tmp_path_factory.mktemp("tokenizer") / "model")
    return folder, answers(folder), answers(folder, "--decode")


@pytest.mark.parametrize("form", FORMATS)
def test_there_and_back(form, model, tmp_path):
    source, ids, texts = model
    assert len(set(ids)) > len(TEXTS) // 2
    there = tmp_path / ("there.gguf" if form == "gguf" else "there")
    folders.phid("convert", source, there, "--format", form, *FORMATS[form])
    same(answers(there), ids)
    same(answers(there, "--decode"), texts)
    folders.phid("convert", there, tmp_path / "back.gguf", "--format", "gguf")
    same(answers(tmp_path / "back.gguf"), ids)


def test_of_arrays(model, tmp_path):
    """Another program's GGUF has arrays and no tokenizer.json: a folder's file is made of them."""
    folders.phid("convert", model[0], tmp_path / "whole.gguf", "--format", "gguf")
    arrays = without(tmp_path / "whole.gguf", tmp_path / "arrays.gguf", "tokenizer.huggingface.json")
    folders.phid("convert", arrays, tmp_path / "made", "--format", "safetensors")
    same(answers(tmp_path / "made"), answers(arrays))
    same(answers(tmp_path / "made", "--decode"), answers(arrays, "--decode"))
