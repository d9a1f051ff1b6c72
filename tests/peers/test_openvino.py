"""OpenVINO runs the folders that phid writes, and says the same tokens; texts become the same ids
as with the Python `tokenizers` package.

Needs the program openvino_folder of tests/unit.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from conftest import make_phi2, make_phimoe

np = pytest.importorskip("numpy")
openvino = pytest.importorskip("openvino")
genai = pytest.importorskip("openvino_genai")
pytest.importorskip("openvino_tokenizers")

sys.path.insert(0, str(pathlib.Path(__file__).parent))
texts_of = importlib.import_module("test_tokenizers")
unit_program = importlib.import_module("programs").unit_program

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
GOLDEN = ROOT / "tests" / "golden"
PHID = os.environ.get("PHID_BIN", str(ROOT / "build" / "release" / "server" / "phid"))

TOKENS = 64
PROMPTS = [
    "Kate lived in a small house",
    "One day a little dog",
    "<|user|>What is 12 + 7?<|end|><|assistant|>",
]
# Everything in fp32, so that nothing but the files can differ.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32",
         "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
CODED = [("int8", 0), ("int8-sym", 0), ("int8", 64), ("int4", 0), ("int4", 32), ("int4", 64),
         ("int4", 128), ("int4-sym", 0), ("int4-sym", 32), ("int4-sym", 128)]
# phid rounds activations to 8 bits where weights are codes: how far apart, in logits, the two best
# tokens may be where it takes the other one.
MARGIN = {"int8": 0.05, "int4": 0.1}
# The values of codes are fp16 in the graph, as nncf has it: half a unit of its eleven bits.
ERROR_MAX = 2e-3

pytestmark = pytest.mark.skipif(not os.access(PHID, os.X_OK), reason="phid is not built")


def run(*arguments):
    done = subprocess.run([unit_program("openvino_folder"), *map(str, arguments)], capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("openvino")

    def make(source, kind, group=0):
        out = base / f"{source.parent.name}-{source.name}-{kind}-{group}"
        if not out.exists():
            run("write", source, out, kind, group)
        return out
    return make


def continued_by_phid(prompt, source=SAMPLE):
    done = subprocess.run([PHID, "generate", str(source), prompt, "--raw", "--temperature", "0",
                           "--max-tokens", str(TOKENS), "--json"],
                          capture_output=True, text=True, timeout=300, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return [event["token"] for event in events if "token" in event]


def end_tokens(source):
    """The ids that end an answer, as the model's own files say."""
    files = [source / name for name in ("generation_config.json", "config.json")]
    ids = [json.loads(path.read_text()).get("eos_token_id") for path in files if path.exists()][0]
    return set(ids if isinstance(ids, list) else [ids])


def compare_tokens(path, backend, wanted_of):
    """The pipeline's tokens are those that phid continues the same prompts with."""
    pipeline = genai.LLMPipeline(str(path), "CPU", ATTENTION_BACKEND=backend,
                                 INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32")
    config = genai.GenerationConfig()
    config.max_new_tokens = TOKENS
    config.do_sample = False
    config.stop_token_ids = end_tokens(path)
    config.set_eos_token_id(min(config.stop_token_ids))
    tokenizer = pipeline.get_tokenizer()
    for prompt in PROMPTS:
        found = list(pipeline.generate(tokenizer.encode(prompt), config).tokens[0])
        wanted = continued_by_phid(prompt, wanted_of)
        assert found[:len(wanted)] == wanted
        assert set(found[len(wanted):]) <= config.stop_token_ids


@pytest.mark.parametrize("backend", ["SDPA", "PA"])
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_the_pipeline_says_what_phid_says(folder, kind, backend):
    compare_tokens(folder(SAMPLE, kind), backend, SAMPLE)


@pytest.fixture(scope="module", params=[make_phi2, make_phimoe], ids=["phi2", "phimoe"])
def other(request, tmp_path_factory):
    """A random model of each of the other architectures: one that does not end these answers, and
    whose routers come to no near tie over them in fp32."""
    return request.param(tmp_path_factory.mktemp("other") / request.param.__name__[5:], seed=4)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    base = tmp_path_factory.mktemp("converted")

    def make(source, *options):
        out = base / "-".join([source.parent.name, source.name, *options])
        if not out.exists():
            subprocess.run([PHID, "convert", str(source), str(out), "--format", "openvino",
                            *options], capture_output=True, timeout=300, check=True)
        return out
    return make


@pytest.mark.parametrize("backend", ["SDPA", "PA"])
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_other_architectures_in_the_pipeline(converted, other, kind, backend):
    path = converted(other, "--precision", kind)
    compare_tokens(path, backend, path)


def logits_of(path, ids, steps=8):
    """Of a prompt and of some tokens after it, one at a time, so that the states are used."""
    request = openvino.Core().compile_model(path / "openvino_model.xml", "CPU",
                                            EXACT).create_infer_request()
    found = []
    past = 0
    head = max(1, len(ids) - steps)
    for part in [ids[:head], *[[token] for token in ids[head:]]]:
        request.infer({"input_ids": np.array([part], np.int64),
                       "attention_mask": np.ones((1, past + len(part)), np.int64),
                       "position_ids": np.arange(past, past + len(part), dtype=np.int64)[None],
                       "beam_idx": np.zeros(1, np.int32)})
        found.append(request.get_tensor("logits").data[0].copy())
        past += len(part)
    return np.concatenate(found)


def compare_values(folder, coded):
    """OpenVINO makes of codes what it makes of the values that phid has for them."""
    ids = np.random.default_rng(3).integers(0, 1000, 60).tolist()
    found = logits_of(coded, ids)
    wanted = logits_of(folder(coded, "fp32"), ids)
    assert np.abs(found - wanted).max() <= ERROR_MAX * np.abs(wanted).max()


@pytest.mark.parametrize("kind,group", CODED)
def test_openvino_multiplies_codes_out_as_we_do(folder, kind, group):
    compare_values(folder, folder(SAMPLE, kind, group))


@pytest.mark.parametrize("kind,group", [
    ("int8", 0), ("int8-sym", 64), ("int4", 0), ("int4", 16), ("int4-sym", 0),
])
def test_openvino_multiplies_codes_of_other_architectures(folder, other, kind, group):
    """Experts' among them."""
    compare_values(folder, folder(other, kind, group))


def compare_codes(path, margin, share=0.0):
    """phid loads the folder, and takes the tokens that OpenVINO finds likeliest in it; all but a
    share of them."""
    tokenizer = genai.Tokenizer(str(path))
    gaps = []
    for prompt in PROMPTS:
        tokens = continued_by_phid(prompt, path)
        head = tokenizer.encode(prompt).input_ids.data[0].tolist()
        logits = logits_of(path, head + tokens)[len(head) - 1:]
        gaps += [row.max() - row[token] for token, row in zip(tokens, logits)]
    wide = [gap for gap in gaps if gap > margin]
    assert len(wide) <= share * len(gaps), wide


@pytest.mark.parametrize("kind,group", CODED)
def test_phid_says_what_openvino_says(folder, kind, group):
    compare_codes(folder(SAMPLE, kind, group), MARGIN[kind.removesuffix("-sym")])


@pytest.mark.parametrize("precision,options", [
    ("int8", ["--group-size", "-1"]), ("int8", ["--group-size", "-1", "--asymmetric"]),
    ("int8", ["--group-size", "64", "--asymmetric"]), ("int4", ["--group-size", "-1"]),
])
def test_codes_as_asked_for(folder, converted, precision, options):
    """The codings of optimum-intel that phid does not choose by itself."""
    path = converted(SAMPLE, "--precision", precision, *options)
    compare_values(folder, path)
    compare_codes(path, MARGIN[precision])


@pytest.mark.parametrize("precision,options", [
    ("int8", []), ("int4", ["--asymmetric", "--group-size", "32"]), ("int4", ["--group-size", "64"]),
])
def test_codes_of_other_architectures(folder, converted, other, precision, options):
    """They stay what they are when the folder is written again. Whether an expert takes part is all
    or nothing: where phid's rounding of activations brings a score across that line, it goes on
    otherwise; 4 tokens in 192 were seen."""
    path = converted(other, "--precision", precision, *options)
    again = converted(path)
    assert (again / "openvino_model.bin").read_bytes() == (path / "openvino_model.bin").read_bytes()
    compare_values(folder, path)
    compare_codes(path, MARGIN[precision], share=0.03 if other.name == "phimoe" else 0.0)


def constants_of(path):
    """Sizes and types of what OpenVINO holds in memory when it has compiled a folder."""
    core = openvino.Core()
    model = core.compile_model(path / "openvino_model.xml", "CPU", EXACT).get_runtime_model()
    infos = [(node, node.get_rt_info()) for node in model.get_ops()]
    return [(int(np.prod(node.get_output_shape(0))), info["runtimePrecision"].astype(str))
            for node, info in infos if info["layerType"].astype(str) == "Const"]


def compare_offsets(folder, source, kind, tmp_path):
    first, path = tmp_path / "first.gguf", tmp_path / "made"
    for arguments in (["quantize", source, "--type", kind, "--no-quality", "--out", first],
                      ["convert", first, path, "--format", "openvino"]):
        subprocess.run([PHID, *map(str, arguments)], capture_output=True, timeout=300, check=True)
    compare_values(folder, path)
    sizes = constants_of(path)
    assert max(count for count, stored in sizes if stored not in ("u4", "i8")) < 1024 * 256 / 8
    return path


@pytest.mark.parametrize("kind", ["q4_1", "q5_1", "q4_k_m"])
def test_offsets_stay_beside_codes(folder, kind, tmp_path):
    """OpenVINO takes zero points that are no codes, and multiplies with the codes as they are: no matrix
    becomes floats when it is loaded."""
    compare_codes(compare_offsets(folder, SAMPLE, kind, tmp_path), MARGIN["int4"])


@pytest.mark.parametrize("kind", ["q4_1", "q4_k_m"])
def test_offsets_of_other_architectures(folder, other, kind, tmp_path):
    """Experts' among them."""
    compare_offsets(folder, other, kind, tmp_path)


@pytest.mark.parametrize("case", [path.parent.name for path in sorted(GOLDEN.glob("*/expected.json"))])
def test_logits_of_the_reference(folder, case):
    """Of every architecture; grouped heads, windows, partial rotation, LongRoPE on both sides of
    its original context."""
    expected = json.loads((GOLDEN / case / "expected.json").read_text())
    path = folder(GOLDEN / case, "fp32")
    for wanted in expected["runs"]:
        found = logits_of(path, wanted["prompt"], steps=0)
        for entry in wanted["logits"]:
            right = np.array(entry["values"])
            error = np.abs(found[entry["position"]] - right).max() / np.abs(right).max()
            assert error <= 1e-4


@pytest.mark.parametrize("source", texts_of.tokenizer_dirs(), ids=lambda path: path.name)
def test_texts_become_the_same_ids(folder, source, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    mixed = tmp_path / source.name
    mixed.mkdir()
    for path in [*SAMPLE.glob("model.safetensors"), *SAMPLE.glob("*config.json"),
                 *source.glob("token*.json")]:
        link = mixed / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    path = folder(mixed, "fp16")
    core = openvino.Core()
    encode = core.compile_model(path / "openvino_tokenizer.xml", "CPU")
    decode = core.compile_model(path / "openvino_detokenizer.xml", "CPU")
    reference = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    with open(source / "tokenizer.json", encoding="utf-8") as text:
        added = {token["content"]: token["id"] for token in json.load(text)["added_tokens"]}
    wrong = []
    # The library takes text that spells a byte piece for that piece.
    for text in [line for line in texts_of.texts()[:2000] if line and "<0x" not in line]:
        wanted = texts_of.reference_ids(reference, added, text)
        found = encode([text])["input_ids"][0].tolist()
        said = decode(np.array([wanted], np.int64))["string_output"].tolist()[0] if wanted else ""
        right = reference.decode(reference.encode(text, add_special_tokens=False).ids,
                                 skip_special_tokens=True)
        if found != wanted or said != right:
            wrong.append((text, wanted, found, right, said))
    assert not wrong, f"{len(wrong)} differ, such as {wrong[0]!r}"
