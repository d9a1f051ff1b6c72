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
from transformers import (AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM, PhiConfig,
                          PhiForCausalLM, PhimoeConfig, PhimoeForCausalLM)

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
ENDS = tuple(json.loads((SAMPLE / "generation_config.json").read_text())["eos_token_id"])


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
    architecture: str
    path: pathlib.Path
    original: int  # LongRoPE's original context; None without
    ends: tuple    # the ids that end a text


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What makes its models: transformers' classes, and what all of the models here have."""
    name: str
    config: type
    model: type
    last_norm: str
    base: dict
    published_as: str = None  # where config.json of the published models names another class


# Twice the width of the feed-forward is not the size of the vocabulary: onnxruntime-genai's builder
# takes any matrix with as many rows for the head.
BASE = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": _config["vocab_size"], "max_position_embeddings": 1024,
        **{f"{name}_token_id": _config[f"{name}_token_id"] for name in ("bos", "eos", "pad")}}
PHI3 = Architecture("phi3", Phi3Config, Phi3ForCausalLM, "model.norm",
                    {**BASE, "num_key_value_heads": 2, "intermediate_size": 768,
                     "original_max_position_embeddings": 1024})
PHI2 = Architecture("phi2", PhiConfig, PhiForCausalLM, "model.final_layernorm",
                    {**BASE, "num_key_value_heads": 4, "intermediate_size": 768,
                     "partial_rotary_factor": 0.5})
PHIMOE = Architecture("phimoe", PhimoeConfig, PhimoeForCausalLM, "model.norm",
                      {**BASE, "num_key_value_heads": 2, "intermediate_size": 128,
                       "num_local_experts": 4, "num_experts_per_tok": 2,
                       "router_jitter_noise": 0.2, "attention_bias": True, "lm_head_bias": True},
                      published_as="PhiMoEForCausalLM")
LONGROPE = {"original_max_position_embeddings": ORIGINAL, "rope_scaling": make_phi3.longrope(32)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A random model. The size is that of its matrices. Its seed is one whose greedy tokens lie clear
    of the next best. Attention is not as sharp as the golden models', so that
    rounded activations do not decide what is attended to; but where the embedding is the head, layers
    that add little repeat a token."""
    what: str  # it has that the sample model has not
    architecture: Architecture
    changes: dict
    size: float
    seed: int


CASES = {
    "grouped": Case("8 heads, 2 for keys", PHI3, {"num_attention_heads": 8}, 1.0, 7),
    "partial": Case("3/4 of a head rotated", PHI3, {"partial_rotary_factor": 0.75}, 1.0, 8),
    "longrope": Case("LongRoPE, on both sides of its original context", PHI3, LONGROPE, 1.0, 2),
    "tied": Case("the embedding is the head", PHI3, {"tie_word_embeddings": True}, 1.4, 1),
    "phi2": Case("phi2: LayerNorms, biases, half of a head rotated", PHI2, {}, 1.4, 11),
    "phimoe": Case("phimoe: experts; LongRoPE, with an attention factor on each side", PHIMOE,
                   {"rope_scaling": {**make_phi3.longrope(32), "rope_type": "longrope",
                                     "rope_theta": 10000.0, "short_mscale": 1.1, "long_mscale": 1.25,
                                     "original_max_position_embeddings": ORIGINAL}}, 1.0, 6),
}


# What the router makes of a token's experts, in some order: SparseMixer gives the second best a share in
# the first choice, or the third best in the second, because it is off by a fifth of the better score;
# twice router_jitter_noise is the most.
SCORES = [[9.0, 7.2, 0.0, -9.0], [9.0, 3.0, 2.4, -9.0]]


@torch.no_grad()
def _route(model):
    """Lets a token's embedding alone say which experts it is given, and that clearly: near a tie a
    rounded activation would decide it, and with it all that follows. To this end the router reads
    directions that nothing else writes into, and takes back what the norm before it does to them: its
    mean, weight and bias."""
    decoder = model.model
    size = decoder.embed_tokens.weight.shape
    directions = torch.cat([torch.ones(size[1], 1), torch.randn(size[1], len(SCORES[0]))], 1)
    lines = torch.linalg.qr(directions)[0][:, 1:].T
    order = torch.rand(size[0], len(SCORES[0])).argsort(-1)
    scores = torch.tensor(SCORES)[torch.arange(size[0]) % len(SCORES)].gather(1, order)

    def clear(rows):
        rows -= lines.T @ (lines @ rows)

    clear(decoder.embed_tokens.weight.T)
    decoder.embed_tokens.weight += scores @ lines
    for layer in decoder.layers:
        norm = layer.post_attention_layernorm
        layer.mlp.router.weight.copy_(lines / norm.weight)
        scaled = norm.bias / norm.weight
        clear(scaled)
        norm.bias.copy_(scaled * norm.weight)
        clear(layer.self_attn.o_proj.weight)
        clear(layer.self_attn.o_proj.bias)
        clear(layer.mlp.experts.down_proj)


def _random_source(name, directory):
    case = CASES[name]
    made = case.architecture
    path = directory / name
    path.mkdir()
    torch.manual_seed(case.seed)
    model = make_phi3.filled(made.model(made.config(**{**made.base, **case.changes})),
                             f"{made.last_norm}.weight", case.size)
    if made is PHIMOE:
        _route(model)
    with torch.no_grad():
        # No text ends early, however the weights are rounded.
        model.get_output_embeddings().weight[list(ENDS)] *= 0.1
    make_phi3.save(model, path, torch.float16)
    # As the published models have it; transformers 5 writes rope_parameters, which others do not know.
    config = json.loads((path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config.update({key: rope[key] for key in ("rope_theta", "partial_rotary_factor",
                                              "original_max_position_embeddings") if key in rope})
    config["rope_scaling"] = case.changes.get("rope_scaling")
    if made.published_as:
        config["architectures"] = [made.published_as]
    (path / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                 "generation_config.json"):
        shutil.copy(SAMPLE / file, path / file)
    return Source(name, made.name, path, ORIGINAL if "rope_scaling" in case.changes else None, ENDS)


class Models(dict):
    """name -> Source; of CASES, made in a directory when it is first asked for."""

    def __init__(self, directory):
        super().__init__(sample=Source("sample", "phi3", SAMPLE, None, ENDS))
        self.directory = directory

    def __missing__(self, name):
        self[name] = _random_source(name, self.directory)
        return self[name]


NAMES = ["sample", *CASES]


def names_for(runtime):
    """The models whose architecture a runtime has."""
    return [name for name in NAMES
            if name == "sample" or CASES[name].architecture.name not in runtime.unknown]


class Reference:
    """transformers, in fp32, on the weights of a folder."""

    def __init__(self, path):
        self.model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager").eval()

    @torch.no_grad()
    def logits(self, ids):
        return self.model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
