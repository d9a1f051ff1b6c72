"""The models that other runtimes and phid run in turn: the sample model, and random ones that each
have something that it has not. All have its tokenizer.

What is right for one of them is what transformers computes of its weights in fp32, without a cache:
a text longer than LongRoPE's original context is computed with the long factors from its first token
on, and a shorter one with the short ones.
"""

import dataclasses
import json
import pathlib
import shutil
import sys

import tokenizers
import torch
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "golden"))
make_phi3 = __import__("make_phi3")

SAMPLE = ROOT / "models" / "phi-sample"
STEPS = 64
# A multiple of 256: llama.cpp, which goes by the context that it is opened with, rounds that up.
ORIGINAL = 256

# Its threads wait by spinning, where other tests want the cores.
torch.set_num_threads(1)

_tokenizer = tokenizers.Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
_config = json.loads((SAMPLE / "config.json").read_text())


def _long_text():
    """More tokens than ORIGINAL."""
    text = (SAMPLE / "heldout.txt").read_text(encoding="utf-8").replace("\n", " ")
    return text[:1400].rsplit(" ", 1)[0]


PROMPTS = ["Kate lived in a small house", "<|user|>What is 12 + 7?<|end|><|assistant|>", _long_text()]


def ids_of(text):
    return _tokenizer.encode(text).ids


assert len(ids_of(PROMPTS[2])) > ORIGINAL


@dataclasses.dataclass(frozen=True)
class Source:
    """A model's folder, in fp16."""
    name: str
    path: pathlib.Path
    original: int  # LongRoPE's original context; None without
    ends: tuple    # the ids that end a text


# name: (what it has that the sample model has not, changes to the configuration, size of random
# matrices, seed). A seed is one whose greedy tokens lie clear of the next best, and do not end the
# text. Attention is not as sharp as the golden models', so that rounded activations do not decide
# what is attended to; but where the embedding is the head, layers that add little repeat a token.
CASES = {
    "grouped": ("8 heads, 2 for keys", {"num_attention_heads": 8, "num_key_value_heads": 2}, 1.0, 4),
    "partial": ("3/4 of a head rotated", {"partial_rotary_factor": 0.75}, 1.0, 4),
    "longrope": ("LongRoPE, on both sides of its original context",
                 {"original_max_position_embeddings": ORIGINAL,
                  "rope_scaling": make_phi3.longrope(32)}, 1.0, 4),
    "tied": ("the embedding is the head", {"tie_word_embeddings": True}, 1.4, 8),
}
# Twice the width of the feed-forward is not the size of the vocabulary: onnxruntime-genai's builder
# takes any matrix with as many rows for the head.
BASE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": _config["vocab_size"],
        "max_position_embeddings": 1024, "original_max_position_embeddings": 1024,
        **{f"{name}_token_id": _config[f"{name}_token_id"] for name in ("bos", "eos", "pad")}}


def _source(name, path, original):
    ends = json.loads((path / "generation_config.json").read_text())["eos_token_id"]
    return Source(name, path, original, tuple(ends))


def _random_source(name, directory):
    _, changes, spread, seed = CASES[name]
    path = directory / name
    path.mkdir()
    torch.manual_seed(seed)
    model = make_phi3.filled(Phi3ForCausalLM(Phi3Config(**{**BASE, **changes})),
                             "model.norm.weight", spread)
    make_phi3.save(model, path, torch.float16)
    # As the published models have it; transformers 5 writes rope_parameters, which others do not know.
    config = json.loads((path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config.update({key: rope[key] for key in ("rope_theta", "partial_rotary_factor",
                                              "original_max_position_embeddings") if key in rope})
    config["rope_scaling"] = changes.get("rope_scaling")
    (path / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                 "generation_config.json"):
        shutil.copy(SAMPLE / file, path / file)
    return _source(name, path, ORIGINAL if "rope_scaling" in changes else None)


class Models(dict):
    """name -> Source; of CASES, made in a directory when it is first asked for."""

    def __init__(self, directory):
        super().__init__(sample=_source("sample", SAMPLE, None))
        self.directory = directory

    def __missing__(self, name):
        self[name] = _random_source(name, self.directory)
        return self[name]


NAMES = ["sample", *CASES]


class Reference:
    """transformers, in fp32, on the weights of a folder."""

    def __init__(self, path):
        self.model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager").eval()

    @torch.no_grad()
    def logits(self, ids):
        return self.model(torch.tensor([ids]), use_cache=False).logits[0].numpy()

    @torch.no_grad()
    def greedy(self, prompt, steps):
        """The tokens, and the least distance between the two best logits."""
        ids = list(prompt)
        margin = float("inf")
        for _ in range(steps):
            best = self.model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
        return ids[len(prompt):], margin
