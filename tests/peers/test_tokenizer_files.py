"""What goes along with the weights: the tokenizer, the chat template and the tokens that end an answer,
in each format, as the format's own runtime reads them.

A model comes as a folder of Hugging Face's, or as a GGUF that holds nothing but GGUF's own keys. The
first is held to what `tokenizers` and transformers make of the source, the second to what llama.cpp
makes of it. What was found is a table in docs/formats.md (tables.py).
"""

import dataclasses
import functools
import importlib
import json
import os
import pathlib
import random
import subprocess
import sys
import typing

import pytest

llama_cpp = pytest.importorskip("llama_cpp")
og = pytest.importorskip("onnxruntime_genai")
genai = pytest.importorskip("openvino_genai")
pytest.importorskip("openvino_tokenizers")
transformers = pytest.importorskip("transformers")
llama_chat = importlib.import_module("llama_cpp.llama_chat_format")

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "models"))
tables = importlib.import_module("tables")
test_tokenizers = importlib.import_module("test_tokenizers")
on_cpu = importlib.import_module("test_qnn").on_cpu
without = importlib.import_module("gguf_file").without

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
PHID = os.environ.get("PHID_BIN", str(ROOT / "build" / "release" / "server" / "phid"))
TEXTS = 400
# The template knows these roles; what a user writes is text, even where it spells a token.
CONVERSATIONS = [
    [{"role": "user", "content": "What is 12 + 7?"}],
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " Hi\n"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},
     {"role": "user", "content": "The end of <|end|> is é 世."}],
]

pytestmark = pytest.mark.skipif(not os.access(PHID, os.X_OK), reason="phid is not built")


@dataclasses.dataclass
class Reader:
    """A runtime that has loaded a model's tokenizer."""
    ids: typing.Callable  # of a text, which may spell special tokens
    text: typing.Callable  # of ids, special tokens left out
    chat: typing.Callable  # of messages, with the beginning of an answer
    ends: set  # ids that end an answer


def by_transformers(path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    ends = transformers.GenerationConfig.from_pretrained(str(path)).eos_token_id
    return Reader(lambda text: tokenizer.encode(text, add_special_tokens=False),
                  lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
                  lambda messages: tokenizer.apply_chat_template(messages, tokenize=False,
                                                                 add_generation_prompt=True),
                  set(ends if isinstance(ends, list) else [ends]))


def by_onnxruntime(path):
    pipeline = json.loads((path / "genai_config.json").read_text())["model"]["decoder"].get("pipeline")
    model = on_cpu(path, path.with_name(f"{path.name}-cpu")) if pipeline else og.Model(str(path))
    tokenizer = og.Tokenizer(model)

    def streamed(ids):
        """Of nothing but special tokens `decode` makes a replacement character."""
        stream = tokenizer.create_stream()
        return "".join(stream.decode(number) for number in ids)

    return Reader(lambda text: [int(number) for number in tokenizer.encode(text)],
                  streamed,
                  lambda messages: tokenizer.apply_chat_template(json.dumps(messages),
                                                                 add_generation_prompt=True),
                  {int(number) for number in tokenizer.eos_token_ids})


def by_openvino(path):
    tokenizer = genai.Tokenizer(str(path))
    config = genai.GenerationConfig(str(path / "generation_config.json"))
    return Reader(
        lambda text: tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist(),
        lambda ids: tokenizer.decode(ids) if ids else "",
        lambda messages: tokenizer.apply_chat_template(messages, add_generation_prompt=True),
        set(config.stop_token_ids))


def by_llama_cpp(path):
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(model.model)
    count = llama_cpp.llama_vocab_n_tokens(vocab)
    pieces = {key: model.detokenize([int(model.metadata[f"tokenizer.ggml.{key}_token_id"])],
                                    special=True).decode() for key in ("bos", "eos")}
    formatter = llama_chat.Jinja2ChatFormatter(model.metadata["tokenizer.chat_template"],
                                               pieces["eos"], pieces["bos"])
    return Reader(lambda text: model.tokenize(text.encode(), add_bos=False, special=True),
                  lambda ids: model.detokenize(ids, special=False).decode(errors="replace"),
                  lambda messages: formatter(messages=messages).prompt,
                  {number for number in range(count) if llama_cpp.llama_vocab_is_eog(vocab, number)})


# Format, what reads it and its name.
TARGETS = [
    ("gguf", by_llama_cpp, "llama.cpp"),
    ("onnx", by_onnxruntime, "onnxruntime-genai"),
    ("qnn", by_onnxruntime, "onnxruntime-genai"),
    ("openvino", by_openvino, "openvino-genai"),
    ("mlx", by_transformers, "transformers"),
    ("gptq", by_transformers, "transformers"),
    ("compressed-tensors", by_transformers, "transformers"),
    ("safetensors", by_transformers, "transformers"),
]
TITLES = {"gguf": "GGUF", "onnx": "ONNX", "qnn": "QNN", "openvino": "OpenVINO", "mlx": "MLX", "gptq": "GPTQ"}
# What a folder has anyway: graphs, weights and the model's description.
MODEL_FILES = ("config.json", "model", "openvino_model", "context", "iterator", "embeddings", "lm_head")


def run(*arguments):
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@functools.cache
def texts():
    """Of many scripts, with special tokens anywhere, and what the template makes of a conversation."""
    made = random.Random(20261127).sample(test_tokenizers.texts(), TEXTS)
    made += [content for content in test_tokenizers.ids_by_content(SAMPLE)]
    reader = by_transformers(SAMPLE)
    return made + [reader.chat(messages) for messages in CONVERSATIONS]


@pytest.fixture(name="sources", scope="module")
def make_sources(tmp_path_factory):
    """Path of each source, and what its own runtime makes of it."""
    folder = tmp_path_factory.mktemp("sources")
    run(PHID, "convert", SAMPLE, folder / "whole.gguf", "--format", "gguf")
    without(folder / "whole.gguf", folder / "arrays.gguf", "tokenizer.huggingface.json")
    return {"folder": (SAMPLE, by_transformers(SAMPLE)),
            "GGUF": (folder / "arrays.gguf", by_llama_cpp(folder / "arrays.gguf"))}


def swallows(text):
    """Whether white space stands behind a token that swallows it: GGUF has no word for that."""
    return any(part[:1].isspace() for token in ("assistant", "system", "end", "user")
               for part in text.split(f"<|{token}|>")[1:])


def has_odd_space(text):
    """White space that ONNX Runtime's tokenizer does not count as such."""
    return any(char.isspace() and char not in " \t\n\v\f\r" for char in text)


def files(path):
    """Those that go along; a detokenizer's and its weights are of one kind."""
    if path.is_file():
        return "in the file"
    found = {entry.name for entry in path.iterdir() if not entry.name.startswith(MODEL_FILES)}
    return ", ".join(f"`{name}`" for name in sorted(found) if not name.endswith(".bin"))


def differing(reader, right):
    """The texts whose ids differ, and those whose ids become another text again."""
    of_ids = [text for text in texts() if reader.ids(text) != right.ids(text)]
    of_text = [text for text in texts() if reader.text(right.ids(text)) != right.text(right.ids(text))]
    return of_ids, of_text


SEEN = {}


@pytest.mark.parametrize("form, read, name", TARGETS, ids=[target[0] for target in TARGETS])
@pytest.mark.parametrize("source", ["folder", "GGUF"])
def test_what_goes_along(source, form, read, name, sources, tmp_path):
    path, right = sources[source]
    out = tmp_path / ("out.gguf" if form == "gguf" else "out")
    run(PHID, "convert", path, out, "--format", form)
    reader = read(out)
    of_ids, of_text = differing(reader, right)
    expected = {"llama.cpp": swallows, "onnxruntime-genai": has_odd_space}.get(name, lambda text: False)
    wrong = [text for text in of_ids if not expected(text)] + of_text
    assert not wrong, f"{len(wrong)} differ, such as {wrong[0]!r}"
    for messages in CONVERSATIONS:
        assert reader.chat(messages) == right.chat(messages)
    ends = sources["folder"][1].ends
    assert reader.ends <= ends
    SEEN[source, form] = (f"{len(texts()) - len(of_ids)} of {len(texts())}",
                          f"{len(reader.ends)} of {len(ends)}", files(out))


def test_docs():
    """After the others: the table in the docs is what they found, of both sources the same but for ids."""
    if len(SEEN) < 2 * len(TARGETS):
        pytest.skip("not all of this file's tests were run")
    rows = []
    for form, _, name in TARGETS:
        folder, gguf = SEEN["folder", form], SEEN["GGUF", form]
        assert folder[1:] == gguf[1:], f"{form}: {folder}, {gguf}"
        rows.append([TITLES.get(form, form), name, folder[0], gguf[0], *folder[1:]])
    tables.check_table("docs/formats.md", "what-goes-along", tables.table(
        ["to", "read by", "texts of a folder", "of a GGUF", "ends", "files"], rows))
