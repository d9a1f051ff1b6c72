#!/usr/bin/env python3
"""Makes small random checkpoints of the phi2 architecture (transformers' PhiForCausalLM) and the
answers that transformers gives for them; make_phi3.py says what those are and how they are used.

Run by hand:  make_phi2.py [CASE...]
The committed files were made with Python 3.11, torch 2.15.0 and transformers 5.5.4.
"""

import pathlib
import sys

import torch
from transformers import PhiConfig, PhiForCausalLM

import make_phi3 as common

HERE = pathlib.Path(__file__).resolve().parent

BASE = {
    "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 256, "max_position_embeddings": 512,
    "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attention_dropout": 0.0,
}

# name: (changes to the configuration, dtype of the file, lengths of the two prompts)
CASES = {
    # Phi-2's heads: 80 wide, of which 32 dimensions turn.
    "phi2": ({"hidden_size": 160, "num_attention_heads": 2, "num_key_value_heads": 2,
              "partial_rotary_factor": 0.4, "intermediate_size": 128, "num_hidden_layers": 1},
             torch.float16, (12, 48)),
    "phi2-grouped": ({"num_key_value_heads": 2}, torch.bfloat16, (1, 33)),
}


def random_model(changes, seed):
    torch.manual_seed(seed)
    return common.filled(PhiForCausalLM(PhiConfig(**{**BASE, **changes})),
                         "model.final_layernorm.weight", 2.0)


def load(directory):
    model = PhiForCausalLM.from_pretrained(directory, dtype=torch.float32,
                                           attn_implementation="eager")
    return model.eval()


def main(names):
    torch.set_num_threads(1)
    for name in names or CASES:
        common.make(name, HERE / name, CASES[name], random_model, load)


if __name__ == "__main__":
    main(sys.argv[1:])
