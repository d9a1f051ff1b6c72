#!/usr/bin/env python3
"""Makes small random checkpoints of the phimoe architecture (transformers' PhimoeForCausalLM) and
the answers that transformers gives for them; make_phi3.py says what those are and how they are
used.

Run by hand:  make_phimoe.py [CASE...]
The committed files were made with Python 3.11, torch 2.15.0 and transformers 5.5.4.
"""

import pathlib
import sys

import torch
from transformers import PhimoeConfig, PhimoeForCausalLM

import make_phi3 as common

HERE = pathlib.Path(__file__).resolve().parent

BASE = {
    "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 512,
    "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.01,
    "attention_bias": True, "lm_head_bias": True, "attention_dropout": 0.0,
}

LONG = {**common.longrope(8), "rope_type": "longrope", "rope_theta": 10000.0,
        "original_max_position_embeddings": common.ORIGINAL,
        "short_mscale": 1.1, "long_mscale": 1.25}

# name: (changes to the configuration, dtype of the file, lengths of the two prompts)
CASES = {
    "phimoe": ({"rope_parameters": LONG}, torch.float16, (40, 90)),
    # Scores that lie close together: both of SparseMixer's shares are less than 1.
    "phimoe-close": ({"num_hidden_layers": 1, "num_local_experts": 8, "router_jitter_noise": 0.2,
                      "attention_bias": False, "lm_head_bias": False, "sliding_window": 24},
                     torch.bfloat16, (1, 33)),
}


def random_model(changes, seed):
    torch.manual_seed(seed)
    return common.filled(PhimoeForCausalLM(PhimoeConfig(**{**BASE, **changes})),
                         "model.norm.weight", 1.5)


def load(directory):
    model = PhimoeForCausalLM.from_pretrained(directory, dtype=torch.float32,
                                              attn_implementation="eager")
    return model.eval()


def main(names):
    torch.set_num_threads(1)
    for name in names or CASES:
        common.make(name, HERE / name, CASES[name], random_model, load)


if __name__ == "__main__":
    main(sys.argv[1:])
