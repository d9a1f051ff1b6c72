"""phi2 and phimoe in llama.cpp: it reads what phid writes, phid reads what llama.cpp writes, and both
continue a prompt with the same tokens. Of phi3 that is shown by test_runtimes.py and test_exporters.py.

Where weights have 4 or 8 bits, both engines also round the activations to 8 bits, but each in its
own way: there a step whose two best tokens lie closer together than that rounding may go either way.
"""

import ctypes
import json
import os
import pathlib
import subprocess

import pytest

from conftest import read_safetensors

llama_cpp = pytest.importorskip("llama_cpp")
np = pytest.importorskip("numpy")

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
PHID = os.environ.get("PHID_BIN", str(ROOT / "build" / "release" / "server" / "phid"))

TOKENS = 64
PROMPTS = [
    "Kate lived in a small house",
    "One day a little dog",
    "It was a sunny day, and Sam walked to the barn.",
    "<|user|>What is 12 + 7?<|end|><|assistant|>",
]

def end_tokens():
    """The ids that end an answer, as the model's own files say."""
    path = SAMPLE / "generation_config.json"
    ids = json.loads(path.read_text())["eos_token_id"] if path.exists() else []
    return set(ids if isinstance(ids, list) else [ids])


END_TOKENS = end_tokens()

pytestmark = [
    pytest.mark.skipif(not SAMPLE.is_dir(), reason="models/phi-sample is not there"),
    pytest.mark.skipif(not os.access(PHID, os.X_OK), reason="phid is not built; see PHID_BIN"),
]


def phid(*args):
    done = subprocess.run([PHID, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


def continued(path, prompt):
    """What phid generates: the tokens, and why it stopped."""
    lines = phid("generate", path, prompt, "--raw", "--temperature", 0, "--max-tokens", TOKENS,
                 "--json").splitlines()
    events = [json.loads(line) for line in lines]
    return [event["token"] for event in events if "token" in event], events[-1]


def opened(path, in_fp32):
    kv_type = llama_cpp.GGML_TYPE_F32 if in_fp32 else None
    return llama_cpp.Llama(str(path), n_ctx=512, n_batch=512, n_threads=2, logits_all=True,
                           verbose=False, type_k=kv_type, type_v=kv_type)


def logits_of(model, head, tokens):
    """What comes after `head` and after each of the tokens."""
    model.reset()
    model.eval(head + tokens)
    return np.array(model.scores[len(head) - 1:len(head) + len(tokens)])


# How far apart, in logits, the two best tokens may be where phid and llama.cpp choose differently; which
# looks GELU up in a table of fp16.
MARGIN = {"fp32": 0.01, "int8": 0.05, "k": 0.25}


def compare(path, precision):
    """Holds phid's greedy tokens against llama.cpp's logits for the very same text."""
    margin = MARGIN[precision]
    model = opened(path, precision == "fp32")
    differing = 0
    steps = 0
    for prompt in PROMPTS:
        tokens, end = continued(path, prompt)
        head = model.tokenize(prompt.encode(), add_bos=True, special=True)
        assert len(head) == end["prompt_tokens"], "the prompt's tokens differ"
        assert len(tokens) == TOKENS or end["finish_reason"] == "stop"
        logits = logits_of(model, head, tokens)
        best = logits.argmax(axis=1)
        for step, token in enumerate(tokens):
            steps += 1
            gap = logits[step, best[step]] - logits[step, token]
            assert gap <= margin, (
                f"{prompt!r}, step {step}: phid took {token}, llama.cpp {best[step]}, "
                f"whose logit is {gap:.4f} higher")
            differing += int(token != best[step])
        if end["finish_reason"] == "stop":
            assert int(best[len(tokens)]) in END_TOKENS, "llama.cpp would have gone on"
    model.close()
    assert differing <= steps // 20


PHI2_KINDS = {
    "fp32": ("fp32", ["--precision", "fp32"]),
    "int8": ("int8", ["--precision", "int8"]),
    "q4_k_m": ("k", ["--type", "q4_k_m"]),
}


@pytest.mark.parametrize("kind", PHI2_KINDS)
def test_phi2_continues_alike(folder, phi2_dir, kind):
    precision, options = PHI2_KINDS[kind]
    path = folder / f"phi2-{kind}.gguf"
    phid("quantize", phi2_dir, *options, "--no-quality", "--out", path)
    compare(path, precision)


def test_phi2_of_llama_cpp_continues_alike(folder, phi2_dir):
    source = folder / "phi2-source.gguf"
    path = folder / "phi2-llama.gguf"
    phid("quantize", phi2_dir, "--precision", "fp32", "--no-quality", "--out", source)
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = 2
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(),
                                            ctypes.byref(params))
    assert failed == 0
    compare(path, "k")


def floats(folder):
    """The tensors of a folder in bfloat16."""
    return {name: (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
            .reshape(shape).astype(np.float64)
            for name, (_, shape, data) in read_safetensors(folder / "model.safetensors").items()}


def phimoe_as_llama_cpp_has_it(folder, ids):
    """Logits of phimoe by llama.cpp's formulas, which are not transformers': norms keep the mean,
    and the two experts' shares are those of a softmax, made to add up to 1."""
    config = json.loads((folder / "config.json").read_text())
    tensors = floats(folder)
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    d = config["hidden_size"] // heads

    def norm(x, name):
        scale = np.sqrt((x * x).mean(axis=-1, keepdims=True) + config["rms_norm_eps"])
        return x / scale * tensors[name + ".weight"] + tensors[name + ".bias"]

    def linear(x, name):
        return x @ tensors[name + ".weight"].T + tensors[name + ".bias"]

    def turned(x):
        angles = np.arange(len(ids))[:, None] * config["rope_theta"] ** (-np.arange(0, d, 2) / d)
        a, b = x[..., :d // 2], x[..., d // 2:]
        c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)

    def attended(h, prefix):
        q, k, v = (linear(h, f"{prefix}{part}_proj").reshape(len(ids), -1, d) for part in "qkv")
        k, v = (np.repeat(part, heads // kv, axis=1) for part in (turned(k), v))
        scores = np.einsum("qhd,khd->hqk", turned(q), k) / np.sqrt(d)
        scores[:, np.triu(np.ones((len(ids), len(ids)), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", shares / shares.sum(axis=-1, keepdims=True), v)
        return linear(mixed.reshape(len(ids), -1), prefix + "o_proj")

    def experts(h, prefix):
        out = np.zeros_like(h)
        scores = np.exp(h @ tensors[prefix + "gate.weight"].T)
        for t, row in enumerate(h):
            best = np.argsort(scores[t])[-2:]
            for e in best:
                w1, w2, w3 = (tensors[f"{prefix}experts.{e}.w{i}.weight"] for i in (1, 2, 3))
                gate = w1 @ row
                made = w2 @ (gate / (1 + np.exp(-gate)) * (w3 @ row))
                out[t] += scores[t][e] / scores[t][best].sum() * made
        return out

    x = tensors["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        x = x + attended(norm(x, prefix + "input_layernorm"), prefix + "self_attn.")
        x = x + experts(norm(x, prefix + "post_attention_layernorm"), prefix + "block_sparse_moe.")
    return linear(norm(x, "model.norm"), "lm_head")


@pytest.mark.parametrize("options, allowed", [
    (["--precision", "fp32"], 1e-3), (["--precision", "int8"], 0.05)])
def test_llama_cpp_reads_phimoe(folder, phimoe_dir, options, allowed):
    """What it computes of our file is what its formulas give of the source's weights."""
    path = folder / f"phimoe-{options[1]}.gguf"
    phid("quantize", phimoe_dir, *options, "--no-quality", "--out", path)
    model = llama_cpp.Llama(str(path), n_ctx=512, n_threads=2, logits_all=True, verbose=False)
    ids = model.tokenize(PROMPTS[2].encode(), add_bos=False)
    model.eval(ids)
    logits = np.array(model.scores[:len(ids)], np.float64)
    model.close()
    right = phimoe_as_llama_cpp_has_it(phimoe_dir, ids)
    assert np.abs(logits - right).max() <= allowed * np.abs(right).max()


def test_phid_reads_phimoe_of_llama_cpp(folder, phimoe_dir):
    """Copied by llama.cpp it is the same model to phid."""
    source = folder / "phimoe-source.gguf"
    path = folder / "phimoe-llama.gguf"
    phid("quantize", phimoe_dir, "--precision", "fp32", "--no-quality", "--out", source)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(),
                                            ctypes.byref(params))
    assert failed == 0
    for prompt in PROMPTS:
        assert continued(path, prompt)[0] == continued(source, prompt)[0]
