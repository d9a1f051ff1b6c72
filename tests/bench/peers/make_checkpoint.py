#!/usr/bin/env python3
"""Writes a Phi-3 checkpoint of a given shape with random weights, as Hugging Face lays it out.

Speed and memory do not depend on what the weights say, only on their number and kind, so that the
engines can be compared without the published weights. Values are normal with a small deviation:
activations stay finite at any depth. The file is streamed: a tensor is in memory at a time.

    make_checkpoint.py --shape phi-3-mini [--layers N] OUT
"""

import argparse
import json
import pathlib
import shutil
import struct
import sys
import zlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[3]
STD = 0.02
# Rows of a large matrix are made and written this many values at a time.
CHUNK_VALUES = 1 << 24

# Phi-3-mini-4k-instruct's dimensions. Its context is 4096; here it has room for an answer after a
# prompt of 4096 tokens.
SHAPES = {
    "phi-3-mini": {
        "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4608, "sliding_window": 2047,
        "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000,
    },
    # For tests of the programs here. 256 divides what K-quants need divided.
    "tiny": {
        "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 1024, "sliding_window": None,
        "bos_token_id": 1013, "eos_token_id": 1013, "pad_token_id": 1013,
    },
}


def config_of(shape, layers):
    config = {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_act": "silu",
        "attention_bias": False, "attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
        "initializer_range": STD, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": None, "partial_rotary_factor": 1.0, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_cache": True, **SHAPES[shape],
    }
    config["original_max_position_embeddings"] = config["max_position_embeddings"]
    if layers:
        config["num_hidden_layers"] = layers
    return config


def tensors_of(config):
    """Names and shapes, in the order of the file."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    fused = hidden + 2 * config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "self_attn.qkv_proj.weight", (fused, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_up_proj.weight", (2 * ffn, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)


def bf16(values):
    """float32 rounded to the nearest bfloat16; no NaN comes here."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_tensor(out, name, shape):
    count = int(np.prod(shape))
    if len(shape) == 1:
        out.write(bf16(np.ones(count, np.float32)).tobytes())
        return
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(name.encode())))
    for begin in range(0, count, CHUNK_VALUES):
        values = rng.standard_normal(min(CHUNK_VALUES, count - begin), dtype=np.float32)
        out.write(bf16(values * np.float32(STD)).tobytes())


def write_weights(path, config):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors_of(config):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape),
                        "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors_of(config):
            write_tensor(out, name, shape)
    partial.rename(path)


def copy_tokenizer(out, vocab_size):
    """Phi-3's own if it lies beside the project and fits, else the sample model's. Rows of the
    vocabulary that no token names are padding, as they are in the published model."""
    places = [ROOT.parent / "shared/data/tokenizers/phi-3-mini", ROOT / "models/phi-sample"]
    if vocab_size < 32011:
        places.pop(0)
    source = next(place for place in places if (place / "tokenizer.json").is_file())
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="phi-3-mini")
    parser.add_argument("--layers", type=int, default=0, help="default: those of the shape")
    arguments = parser.parse_args()
    weights = arguments.out / "model.safetensors"
    if weights.exists():
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = config_of(arguments.shape, arguments.layers)
    copy_tokenizer(arguments.out, config["vocab_size"])
    (arguments.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (arguments.out / "generation_config.json").write_text(json.dumps(
        {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}) + "\n")
    write_weights(weights, config)
    print(f"{arguments.out}: {weights.stat().st_size / 1e9:.2f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()
