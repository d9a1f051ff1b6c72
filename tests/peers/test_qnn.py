"""The folder for Qualcomm's NPUs: no NPU is here, so that it is held to what can be held without one.
ONNX's own checker takes every graph, and ONNX Runtime GenAI runs the pipeline on its CPU provider,
where QuantizeLinear rounds just as it says; its answers are measured by the fp32 graph's logits and
by the reference implementation's.
"""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

og = pytest.importorskip("onnxruntime_genai")
ort = pytest.importorskip("onnxruntime")
np = pytest.importorskip("numpy")
tokenizers = pytest.importorskip("tokenizers")

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
GOLDEN = ROOT / "tests" / "golden"
PHID = pathlib.Path(os.environ.get("PHID_BIN", ROOT / "build" / "release" / "server" / "phid"))
WINDOW = 64
TOKENS = 48
LONG = "It was a sunny day, and Sam walked to the barn. He had a red ball and a small dog. " * 4
PROMPTS = [
    "Kate lived in a small house",
    "One",
    "<|user|>What is 12 + 7?<|end|><|assistant|>",
    LONG,
]
# How far, in the fp32 graph's logits, a token may be from the best one: 8-bit weights and caches.
MARGIN = 0.15

pytestmark = pytest.mark.skipif(not os.access(PHID, os.X_OK),
                                reason="phid is not built; see PHID_BIN")


def convert(source, folder, form, *options):
    done = subprocess.run([PHID, "convert", source, folder, "--format", form, *options],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def on_cpu(folder, to, eos=None):
    """The same folder without the provider's options, which its own graphs are not touched by."""
    shutil.copytree(folder, to)
    config = json.loads((to / "genai_config.json").read_text())
    for stage in config["model"]["decoder"]["pipeline"]:
        for model in stage.values():
            options = model.pop("session_options", None)
            assert model["filename"] == "embeddings.onnx" or list(
                options["provider_options"][0]) == ["qnn"]
    config["model"]["eos_token_id"] = eos or config["model"]["eos_token_id"]
    (to / "genai_config.json").write_text(json.dumps(config))
    return og.Model(str(to))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder, and the fp32 graph that its answers are measured by."""
    root = tmp_path_factory.mktemp("qnn")
    convert(SAMPLE, root / "qnn", "qnn")
    convert(SAMPLE, root / "fp32", "onnx", "--precision", "fp32")
    return root


def tokens_of(prompt):
    return [int(token) for token in tokenizers.Tokenizer.from_file(
        str(SAMPLE / "tokenizer.json")).encode(prompt).ids]


def generator_of(model, prompt, max_length):
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=max_length, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(prompt, dtype=np.int32))
    return generator


def right_logits(folder, tokens):
    """Those of the fp32 graph after each token."""
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    feed = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, len(tokens)), np.int64)}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feed[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    return session.run(["logits"], feed)[0][0]


def test_continues_as_fp32_does(folders, tmp_path):
    model = on_cpu(folders / "qnn", tmp_path / "cpu")
    differing = steps = 0
    for prompt in PROMPTS:
        head = tokens_of(prompt)
        generator = generator_of(model, head, 1024)
        ours = []
        while not generator.is_done() and len(ours) < TOKENS:
            generator.generate_next_token()
            ours.append(int(generator.get_next_tokens()[0]))
        rows = right_logits(folders / "fp32", head + ours)[len(head) - 1:]
        for step, token in enumerate(ours):
            gap = rows[step].max() - rows[step, token]
            assert gap <= MARGIN, f"{prompt!r}, step {step}: {token}: {gap}"
            differing += int(token != rows[step].argmax())
            steps += 1
    assert steps > TOKENS
    assert differing <= steps // 20


def test_the_whole_context_is_used(tmp_path, folders):
    """A prompt of one window, and tokens up to the last place."""
    convert(SAMPLE, tmp_path / "short", "qnn", "--context-length", "128")
    # A token that never comes ends the text.
    model = on_cpu(tmp_path / "short", tmp_path / "cpu", eos=1015)
    head = tokens_of(LONG)[:WINDOW]
    generator = generator_of(model, head, 128)
    ours = []
    while not generator.is_done():
        generator.generate_next_token()
        ours.append(int(generator.get_next_tokens()[0]))
    assert len(ours) == 128 - WINDOW
    rows = right_logits(folders / "fp32", head + ours)[WINDOW - 1:]
    for step, token in enumerate(ours):
        assert rows[step].max() - rows[step, token] <= MARGIN, step


# What the QNN provider of onnxruntime 1.2x has a builder for (docs/formats.md).
OPERATORS = {"Add", "Concat", "DequantizeLinear", "Gemm", "MatMul", "Mul", "QuantizeLinear",
             "RMSNormalization", "Reshape", "ScatterElements", "Sigmoid", "Softmax", "Split", "Sub",
             "Transpose"}


def test_graphs_are_sound(folders):
    onnx = pytest.importorskip("onnx")
    names = sorted(path.name for path in (folders / "qnn").glob("*.onnx"))
    assert names == ["context.onnx", "embeddings.onnx", "iterator.onnx", "lm_head_context.onnx",
                     "lm_head_iterator.onnx"]
    for name in names:
        path = str(folders / "qnn" / name)
        onnx.checker.check_model(path, full_check=True)
        graph = onnx.load(path, load_external_data=False).graph
        if name == "embeddings.onnx":
            continue
        assert {node.op_type for node in graph.node} <= OPERATORS
        assert {node.domain for node in graph.node} == {""}
        for value in [*graph.input, *graph.output]:
            assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim), value.name
        made = {output: node for node in graph.node for output in node.output}
        used = {name: node for node in graph.node for name in node.input}
        plain = {"QuantizeLinear", "DequantizeLinear"}
        held = {tensor.name for tensor in graph.initializer} | {"cache_index"}
        for node in graph.node:
            if node.op_type not in plain:
                assert all(name in held or made[name].op_type == "DequantizeLinear"
                           for name in node.input), node.name
                assert all(used[name].op_type == "QuantizeLinear"
                           for name in node.output), node.name


def small_tokenizer(folder):
    """256 tokens, those of text and its commonest pairs, in an order of their own: what measures a
    model that has no tokenizer, on as many of its tokens as can be."""
    text = (ROOT / "docs" / "api.md").read_text()
    letters = ["\u0120", "\u010a", *map(chr, range(33, 127))]
    pairs = {}
    for a, b in zip(text, text[1:]):
        if a.isascii() and a.isalpha() and b.isascii() and b.isalpha():
            pairs[a, b] = pairs.get((a, b), 0) + 1
    common = sorted(pairs, key=pairs.get, reverse=True)[:256 - len(letters)]
    pieces = letters + [a + b for a, b in common]
    assert len(set(pieces)) == 256
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False,
                  "vocab": {piece: i * 77 % 256 for i, piece in enumerate(pieces)},
                  "merges": [f"{a} {b}" for a, b in common]}}))


@pytest.mark.parametrize("name", ["grouped", "partial", "longrope", "window", "heads", "tied"])
def test_golden(name, tmp_path):
    """The reference implementation's logits, within what 8 and 16 bits keep of them. These models'
    attention is sharp: where two keys score alike, 8 bits may choose the other one once."""
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / name, source)
    small_tokenizer(source)
    convert(source, tmp_path / "qnn", "qnn", "--context-length", "128")
    model = on_cpu(tmp_path / "qnn", tmp_path / "cpu")
    config = json.loads((source / "config.json").read_text())
    original = config["original_max_position_embeddings"] if config["rope_scaling"] else 0
    errors = []
    for run in json.loads((GOLDEN / name / "expected.json").read_text())["runs"]:
        # LongRoPE's short factors are in no graph whose context is longer than they serve.
        for right in run["logits"] if len(run["prompt"]) > original else []:
            generator = generator_of(model, run["prompt"][:right["position"] + 1], 128)
            ours = np.array(generator.get_logits()).reshape(-1)
            wanted = np.array(right["values"])
            errors.append(np.sqrt(np.mean((ours - wanted) ** 2) / np.mean(wanted ** 2)))
    assert len(errors) >= 2
    assert sum(error > 0.15 for error in errors) <= len(errors) // 4, errors
