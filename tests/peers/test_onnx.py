"""ONNX Runtime GenAI runs the folders that the ONNX writer makes, and continues a prompt with the
tokens of the reference implementation and of phid, which reads those folders too.

Where weights have 4 or 8 bits, both engines also round the activations to 8 bits, but each in its
own way: there, a step whose two best tokens lie closer together than that rounding may go either
way. How much it is, ONNX Runtime shows itself: on the same values in fp32, as far as its logits move.
At FP32 and FP16 every token must be the same.
"""

import json
import os
import pathlib
import subprocess

import pytest

from conftest import make_phi2, make_phimoe

og = pytest.importorskip("onnxruntime_genai")
ort = pytest.importorskip("onnxruntime")
np = pytest.importorskip("numpy")
tokenizers = pytest.importorskip("tokenizers")

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
GOLDEN = ROOT / "tests" / "golden"
PHID = pathlib.Path(os.environ.get("PHID_BIN", ROOT / "build" / "release" / "server" / "phid"))
EXPORT = PHID.parents[1] / "tests" / "unit" / "onnx_export"

TOKENS = 64
PROMPTS = [
    "Kate lived in a small house",
    "One day a little dog",
    "It was a sunny day, and Sam walked to the barn.",
    "<|user|>What is 12 + 7?<|end|><|assistant|>",
]

# Arguments of tests/tools/onnx_export.c.
KINDS = {
    "fp32": ["32"],
    "fp16": ["16"],
    "int8": ["8", "32"],
    "int8-zeros": ["8", "64", "zeros"],
    "int4": ["4", "32"],
    "int4-zeros": ["4", "32", "zeros"],
    "int4-128": ["4", "128"],
}
# How far apart, in logits, the two best tokens may be where the engines choose differently.
CUDA_MARGIN = {"fp16": 0.05, "int8": 0.1, "int4": 0.25}
# The same for folders for the CPU, where ONNX Runtime's own rounding is larger.
MARGIN = {"int8": 0.05, "int4": 0.25}

pytestmark = pytest.mark.skipif(not os.access(EXPORT, os.X_OK), reason=f"{EXPORT} is not built")


def export(checkpoint, folder, *args):
    done = subprocess.run([EXPORT, checkpoint, folder, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module", params=["phi3", "phi2", "phimoe"])
def source(request, tmp_path_factory):
    """The sample model; and a random one of each of the other architectures, that does not end these
    answers, and whose routers come to no near tie over them in fp32."""
    if request.param == "phi3":
        return SAMPLE
    folder = tmp_path_factory.mktemp("other") / request.param
    return make_phi2(folder, seed=4) if request.param == "phi2" else make_phimoe(folder, ffn=128, seed=4)


def exported(folders, source, kind):
    folder = folders / f"{source.name}-{kind}"
    if not folder.exists():
        export(source, folder, *KINDS[kind])
    return folder


def greedy(model, prompt, count):
    """The tokens that ONNX Runtime GenAI continues with, the one that ends the text left out."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + count, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(prompt, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt):]


def phid(path, prompt):
    """What phid generates: the tokens, and why it stopped."""
    done = subprocess.run([PHID, "generate", path, prompt, "--raw", "--temperature", "0",
                           "--max-tokens", str(TOKENS), "--json"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return [event["token"] for event in events if "token" in event], events[-1]


def tokens_of(prompt):
    """The prompt's tokens, as phid counts them with whatever folder of the sample model."""
    return [int(token) for token in tokenizers.Tokenizer.from_file(
        str(SAMPLE / "tokenizer.json")).encode(prompt).ids]


def logits(folder, tokens):
    """The logits after each token, from the graph itself."""
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    feed = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, len(tokens)), np.int64)}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            kind = np.float16 if value.type == "tensor(float16)" else np.float32
            feed[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), kind)
    return session.run(["logits"], feed)[0][0]


def follows(folder, widened, head, ours, margin):
    """Whether the graph finds phid's tokens likeliest, but for steps where rounding activations
    matters: by no more than twice what it moves the graph's logits from those of the same values in
    fp32, once in each engine. Says how many of phid's tokens are not the graph's, and how many of
    the graph's not those in fp32."""
    rows = logits(folder, head + ours)[len(head) - 1:-1]
    exact = logits(widened, head + ours)[len(head) - 1:-1]
    bound = min(2 * np.abs(rows - exact).max(), margin)
    gaps = [row.max() - row[token] for row, token in zip(rows, ours)]
    assert max(gaps) <= bound, f"step {int(np.argmax(gaps))}: {max(gaps)} of {bound}"
    return sum(gap > 0 for gap in gaps), (rows.argmax(axis=1) != exact.argmax(axis=1)).sum()


@pytest.mark.skipif(not os.access(PHID, os.X_OK), reason="phid is not built; see PHID_BIN")
@pytest.mark.parametrize("kind", KINDS)
def test_continues_as_phid_does(folders, source, kind):
    folder = exported(folders, source, kind)
    precision = kind.split("-")[0]
    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    is_coded = not precision.startswith("fp")
    widened = folders / f"{folder.name}-widened"
    if is_coded:
        export(folder, widened, "32")
    differing = turned = steps = 0
    for prompt in PROMPTS:
        ours, end = phid(folder if is_coded else source, prompt)
        assert len(ours) == TOKENS or end["finish_reason"] == "stop"
        head = [int(token) for token in tokenizer.encode(prompt)]
        assert len(head) == end["prompt_tokens"], "the prompt's tokens differ"
        if is_coded:
            steps += len(ours)
            # Whether an expert takes part is all or nothing, so there rounding may move logits far.
            margin = np.inf if source.name == "phimoe" else MARGIN[precision]
            here = follows(folder, widened, head, ours, margin)
            differing, turned = differing + here[0], turned + here[1]
            continue
        theirs = greedy(model, head, TOKENS)
        assert theirs[:len(ours)] == ours, prompt
        assert len(theirs) == TOKENS or end["finish_reason"] == "stop"
    # Each engine turns as many by rounding as the other; the random model has more near ties.
    assert differing <= max(steps // 20, 2 * turned)


@pytest.mark.skipif(not os.access(PHID, os.X_OK), reason="phid is not built; see PHID_BIN")
@pytest.mark.parametrize("precision", CUDA_MARGIN)
def test_folder_for_cuda(folders, source, precision):
    """All floats are fp16; ONNX Runtime has kernels for that on the CPU too, and they follow phid's
    tokens, read from the same folder."""
    folder = folders / f"{source.name}-cuda-{precision}"
    if source.name == "phimoe":
        pytest.skip("phimoe has no folder for CUDA")
    done = subprocess.run([PHID, "convert", source, folder, "--format", "onnx", "--provider", "cuda",
                           "--precision", precision], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    config = json.loads((folder / "genai_config.json").read_text())
    assert config["model"]["decoder"]["session_options"]["provider_options"] == \
        [{"cuda": {"enable_cuda_graph": "0"}}]
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for value in session.get_inputs() + session.get_outputs():
        is_index = value.name in ("input_ids", "attention_mask")
        assert value.type == ("tensor(int64)" if is_index else "tensor(float16)"), value.name
    for prompt in PROMPTS:
        ours, _ = phid(folder, prompt)
        head = tokens_of(prompt)
        rows = logits(folder, head + ours)[len(head) - 1:].astype(np.float32)
        for step, token in enumerate(ours):
            gap = rows[step].max() - rows[step, token]
            assert gap <= CUDA_MARGIN[precision], f"{prompt!r}, step {step}: {token}: {gap}"


@pytest.mark.parametrize("name", ["grouped", "longrope", "split", "tied", "window", "heads", "phi2",
                                  "phimoe", "phimoe-close"])
def test_golden(folders, name):
    folder = folders / f"golden-{name}"
    export(GOLDEN / name, folder, "32")
    model = og.Model(str(folder))
    config = json.loads((folder / "config.json").read_text())
    original = config["original_max_position_embeddings"] if config["rope_scaling"] else 1 << 30
    ends = json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"]
    for run in json.loads((GOLDEN / name / "expected.json").read_text())["runs"]:
        right = run["greedy"]
        if len(run["prompt"]) <= original:
            # Crossing it, ONNX Runtime keeps keys that the reference makes anew.
            right = right[:original - len(run["prompt"])]
        theirs = greedy(model, run["prompt"], len(right))
        assert theirs == right[:len(theirs)]
        assert len(theirs) == len(right) or right[len(theirs)] == ends
