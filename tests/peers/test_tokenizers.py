"""Token ids against the Python `tokenizers` package, over texts of many scripts and random ones.

Needs the programs tokenize_lines and tokenizer_folder of tests/unit, and tokenizer.json files:
models/phi-sample always, ../shared/data/tokenizers where it is there.
"""

import importlib
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

tokenizers = pytest.importorskip("tokenizers")
sys.path.insert(0, str(pathlib.Path(__file__).parent))
unit_program = importlib.import_module("programs").unit_program
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "models"))
without = importlib.import_module("gguf_file").without

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("PHID_SHARED_DIR", ROOT.parent / "shared"))


def tokenizer_dirs():
    found = [ROOT / "models" / "phi-sample"]
    data = SHARED / "data" / "tokenizers"
    found += sorted(p.parent for p in data.glob("*/tokenizer.json")) if data.is_dir() else []
    return found


# Ranges of assigned characters that text really has, and those that splitters get wrong.
RANGES = [
    (0x20, 0x7E), (0x20, 0x7E), (0x41, 0x7A), (0x30, 0x39), (0xA0, 0xFF), (0x100, 0x24F),
    (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x5FF), (0x600, 0x6FF),
    (0x900, 0x97F), (0xE00, 0xE7F), (0x1780, 0x17FF), (0x1100, 0x11FF), (0x1C50, 0x1C7F),
    (0x2000, 0x206F), (0x2070, 0x209F), (0x2100, 0x218F), (0x2190, 0x23FF), (0x3000, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF),
    (0x10330, 0x1034A), (0x1D400, 0x1D7FF), (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F6FF), (0x20000, 0x20FFF),
]
SNIPPETS = [
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\t\t", "\u0085", "\u00a0", "\u180e", "\u200b",
    "\u2028", "\u3000", "\u1680", "\x0b", "\x0c", "\x1c", "\x1f", "'s", "'S", "'\u017f", "'ll", "'LL", "'Re", "n't",
    "'d", "123", "1234567", "\u00bd", "\u0663", "\u216b", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>",
    "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x41>",
    "\u2581", "\u2581\u2581", "word", "Hello", "world", "ABCdef", "iPhone", "//", "...", "!?", "=>",
    "e\u0301", "\U0001f468\u200d\U0001f469", "\u01c5", "\u02b0", "\u00df", "\u212a", "\ufeff", "\ufffd",
]


def random_text(rng):
    parts = []
    for _ in range(rng.randrange(1, 24)):
        if rng.random() < 0.5:
            parts.append(rng.choice(SNIPPETS))
        else:
            low, high = rng.choice(RANGES)
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 9))))
    return "".join(parts)


def texts():
    rng = random.Random(20261124)
    made = [random_text(rng) for _ in range(4000)]
    made += ["a" * 5000, " " * 3000, "ab " * 2000, "\n" * 500, "\u4e16" * 2000]
    made += [f"x{a}{b}y" for a in SNIPPETS for b in SNIPPETS]
    return made


def ours(directory, lines, *options):
    data = b"".join(line.encode("utf-8") + b"\0" for line in lines)
    answer = subprocess.run([unit_program("tokenize_lines"), directory, *options], input=data, check=True,
                            stdout=subprocess.PIPE).stdout.decode("ascii").split("\n")[:-1]
    assert len(answer) == len(lines)
    return answer


def reference_ids(reference, added, text):
    """Ids with added tokens numbered as the file says: the package numbers those that are not in
    the vocabulary on from its end, which differs where a file leaves gaps."""
    ids = reference.encode(text, add_special_tokens=False).ids
    return [added.get(reference.id_to_token(number), number) for number in ids]


@pytest.mark.parametrize("directory", tokenizer_dirs(), ids=lambda p: p.name)
def test_ids_equal(directory):
    reference = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    with open(directory / "tokenizer.json", encoding="utf-8") as source:
        added = {token["content"]: token["id"] for token in json.load(source)["added_tokens"]}
    lines = texts()
    wrong = []
    for text, answer in zip(lines, ours(directory, lines)):
        want = reference_ids(reference, added, text)
        if want != [int(part) for part in answer.split()]:
            wrong.append((text, want, answer))
    assert not wrong, f"{len(wrong)} of {len(lines)} differ, such as {wrong[0]!r}"


@pytest.mark.parametrize("directory", tokenizer_dirs(), ids=lambda p: p.name)
def test_text_equal(directory):
    reference = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    lines = texts()
    wrong = []
    for text, answer in zip(lines, ours(directory, lines, "--decode")):
        want = reference.decode(reference.encode(text, add_special_tokens=False).ids,
                                skip_special_tokens=True)
        if want.encode("utf-8").hex() != answer:
            wrong.append((text, want, bytes.fromhex(answer)))
    assert not wrong, f"{len(wrong)} of {len(lines)} differ, such as {wrong[0]!r}"


# Rows of the vocabulary that the model of each tokenizer has, and the name by which a GGUF says
# that its special tokens swallow the white space after them.
GGUF_OF = {
    "phi-sample": (1024, "phi-3 sample"), "phi-2": (51200, "phi-2"), "phi-3-mini": (32064, "Phi-3-mini"),
    "phi-3-medium": (32064, "Phi-3-medium"), "phi-4": (100352, "phi-4"), "phi-4-mini": (200064, "phi-4-mini"),
}


def ids_by_content(directory):
    with open(directory / "tokenizer.json", encoding="utf-8") as source:
        return {token["content"]: token["id"] for token in json.load(source)["added_tokens"]}


@pytest.mark.parametrize("directory", tokenizer_dirs(), ids=lambda p: p.name)
def test_rebuilt_from_gguf(directory, tmp_path):
    """A GGUF's arrays become a tokenizer.json with the ids of the GGUF, and with those of the
    tokenizer.json that the GGUF was made from, but for white space that tokens of Phi-4 swallow:
    a GGUF cannot say so."""
    rows, name = GGUF_OF[directory.name]
    program = unit_program("tokenizer_folder")
    subprocess.run([program, directory, tmp_path / "whole.gguf", str(rows), name], check=True)
    without(tmp_path / "whole.gguf", tmp_path / "arrays.gguf", "tokenizer.huggingface.json")
    subprocess.run([program, tmp_path / "whole.gguf", tmp_path / "whole"], check=True)
    assert (tmp_path / "whole/tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()
    subprocess.run([program, tmp_path / "arrays.gguf", tmp_path / "made"], check=True)
    assert (tmp_path / "made/tokenizer.model").exists() == directory.name.startswith("phi-3-")
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "made/tokenizer.json"))
    first = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    added = ids_by_content(directory)
    lines = texts()
    swallow = any(token.lstrip or token.rstrip for token in first.get_added_tokens_decoder().values())
    exact = not swallow or "phi-3" in name.lower()
    for text, answer in zip(lines, ours(tmp_path / "arrays.gguf", lines)):
        got = made.encode(text, add_special_tokens=False)
        assert got.ids == [int(part) for part in answer.split()], text
        if exact or "<" not in text:
            assert got.ids == reference_ids(first, added, text), text
            assert made.decode(got.ids) == first.decode(first.encode(text, add_special_tokens=False).ids), text
    for content, number in added.items():
        assert made.token_to_id(content) == number
        assert made.encode(content, add_special_tokens=False).ids == [number]
