#!/usr/bin/env python3
"""Makes small random Phi-3 checkpoints and the answers that transformers gives for them.

Each case is a directory: config.json and model.safetensors, and expected.json with logits at chosen
positions of two prompts and 256 greedy tokens after each. tests/unit/engine/model/test_golden.c
holds the engine to them; tests/peers/test_transformers.py holds them to the transformers installed.

The reference runs in float32 on the CPU, eager attention, and without a cache: every greedy step is
a pass over the whole text so far. That is the definition of LongRoPE's switch too: a text longer
than the original context is computed with the long factors from its first token on.

Run by hand:  make_phi3.py [CASE...]
The committed files were made with Python 3.11, torch 2.6.0 and transformers 4.53.3. Partial rotary
embeddings need transformers 4.49 or later.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import Phi3Config, Phi3ForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
STEPS = 256
# The two best logits of every greedy step differ by more than this, so that comparing tokens means
# something; and a run that repeats one phrase would test little.
MARGIN_MIN = 1e-3
DISTINCT_MIN = 40
ORIGINAL = 64

BASE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 512,
    "original_max_position_embeddings": 512, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attention_dropout": 0.0,
}


def longrope(pairs):
    return {
        "type": "longrope",
        "short_factor": [round(1.0 + 0.04 * i, 4) for i in range(pairs)],
        "long_factor": [round(1.0 + 0.9 * i, 4) for i in range(pairs)],
    }


LONG = {"original_max_position_embeddings": ORIGINAL}

# name: (changes to the configuration, dtype of the file, lengths of the two prompts)
CASES = {
    "grouped": ({}, torch.float16, (12, 48)),
    "heads": ({"num_hidden_layers": 1, "num_key_value_heads": 4}, torch.float32, (1, 33)),
    "partial": ({"num_attention_heads": 2, "num_key_value_heads": 1, "partial_rotary_factor": 0.75},
                torch.bfloat16, (12, 48)),
    "longrope": ({**LONG, "rope_scaling": longrope(8)}, torch.float16, (40, 90)),
    "window": ({"sliding_window": 16}, torch.float16, (9, 70)),
    "tied": ({"tie_word_embeddings": True, "num_hidden_layers": 1}, torch.float32, (12, 48)),
    "mini": ({**LONG, "rope_scaling": longrope(6), "partial_rotary_factor": 0.75,
              "tie_word_embeddings": True, "hidden_size": 96, "intermediate_size": 160,
              "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 3},
             torch.float16, (64, 65)),
}
# Made from another case by storing its fused matrices apart; it has that case's answers.
SPLIT = ("split", "grouped")


@torch.no_grad()
def filled(model, last_norm, spread):
    """The model with random weights, those of matrices within `spread` of what keeps sizes."""
    for name, value in model.named_parameters():
        if name == last_norm:
            # Large, so that the logits, and with them the margins, are.
            value.copy_(4.0 + 0.8 * torch.randn_like(value))
        elif name.endswith("norm.weight"):
            value.copy_(1.0 + 0.2 * torch.randn_like(value))
        elif name.endswith(".bias"):
            value.normal_(0.0, 0.3)
        elif "embed" in name or "lm_head" in name:
            value.normal_(0.0, 0.35)
        else:
            value.normal_(0.0, spread / value.shape[-1] ** 0.5)
    return model


def random_model(changes, seed):
    torch.manual_seed(seed)
    return filled(Phi3ForCausalLM(Phi3Config(**{**BASE, **changes})), "model.norm.weight", 2.0)


def save(model, directory, dtype):
    directory.mkdir(exist_ok=True)
    model.to(dtype).save_pretrained(directory, safe_serialization=True)
    (directory / "generation_config.json").unlink(missing_ok=True)


def load(directory):
    model = Phi3ForCausalLM.from_pretrained(directory, torch_dtype=torch.float32,
                                            attn_implementation="eager")
    return model.eval()


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0]


def greedy(model, prompt, margin_min=0.0):
    """Greedy tokens, and the least distance between the two best logits; stops where that falls
    below margin_min."""
    ids = list(prompt)
    margin = float("inf")
    for _ in range(STEPS):
        best = logits_of(model, ids)[-1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        if margin < margin_min:
            break
        ids.append(int(best.indices[0]))
    return ids[len(prompt):], margin


def answers(model, prompts, margin_min=0.0):
    """expected.json's content; each prompt's logits in the middle and at the end."""
    runs = []
    for prompt in prompts:
        logits = logits_of(model, prompt)
        tokens, margin = greedy(model, prompt, margin_min)
        positions = sorted({len(prompt) // 2, len(prompt) - 1})
        runs.append({
            "prompt": prompt,
            "logits": [{"position": p, "values": [float(f"{x:.9g}") for x in logits[p].tolist()]}
                       for p in positions],
            "greedy": tokens,
            "margin": float(f"{margin:.6g}"),
        })
        if margin < margin_min:
            break
    return {"runs": runs}


def good(expected):
    return all(run["margin"] >= MARGIN_MIN and len(set(run["greedy"])) >= DISTINCT_MIN
               for run in expected["runs"])


def write(directory, expected):
    text = json.dumps(expected, separators=(",", ":"))
    (directory / "expected.json").write_text(text.replace('{"prompt"', '\n{"prompt"') + "\n")


def make(name, directory, case, random_model, load):
    """Tries seeds until one gives answers that are worth comparing."""
    changes, dtype, lengths = case
    for seed in range(1, 200):
        save(random_model(changes, seed), directory, dtype)
        generator = torch.Generator().manual_seed(seed)
        prompts = [torch.randint(3, BASE["vocab_size"], (n,), generator=generator).tolist()
                   for n in lengths]
        expected = answers(load(directory), prompts, MARGIN_MIN)
        print(name, "seed", seed, [(r["margin"], len(set(r["greedy"]))) for r in expected["runs"]],
              flush=True)
        if good(expected):
            write(directory, expected)
            return
    raise SystemExit(f"{name}: no seed gives clear margins")


def split_apart():
    name, source = SPLIT
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    config = json.loads((HERE / source / "config.json").read_text())
    d = config["hidden_size"] // config["num_attention_heads"]
    rows = [config["num_attention_heads"] * d, config["num_key_value_heads"] * d,
            config["num_key_value_heads"] * d]
    parts = {}
    for key, value in load_file(HERE / source / "model.safetensors").items():
        if "qkv_proj" in key:
            for part, piece in zip("qkv", value.split(rows)):
                parts[key.replace("qkv_proj", f"{part}_proj")] = piece.contiguous()
        elif "gate_up_proj" in key:
            for part, piece in zip(("gate", "up"), value.chunk(2)):
                parts[key.replace("gate_up_proj", f"{part}_proj")] = piece.contiguous()
        else:
            parts[key] = value
    save_file(parts, directory / "model.safetensors", {"format": "pt"})
    for copied in ("config.json", "expected.json"):
        shutil.copy(HERE / source / copied, directory / copied)


def main(names):
    torch.set_num_threads(1)
    for name in names or CASES:
        if name != SPLIT[0]:
            make(name, HERE / name, CASES[name], random_model, load)
    if not names or SPLIT[0] in names:
        split_apart()


if __name__ == "__main__":
    main(sys.argv[1:])
