#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets safetensors, gguf, hf_config, hf_folder, tokenizer_gguf and
packed.

They are small, valid files (and a few that are just wrong), so that mutations start close to what
the readers accept. Usage: make_formats_seeds.py [CORPUS_DIRECTORY]
"""
import json
import os
import struct
import sys

ROOT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "corpus")


def write(target, name, data):
    os.makedirs(os.path.join(ROOT, target), exist_ok=True)
    with open(os.path.join(ROOT, target, name), "wb") as out:
        out.write(data)


def safetensors(tensors, metadata=None):
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += bytes(i & 255 for i in range(size))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, item):
    if kind == "u32":
        return struct.pack("<II", 4, item)
    if kind == "f32":
        return struct.pack("<If", 6, item)
    if kind == "bool":
        return struct.pack("<IB", 7, item)
    if kind == "str":
        return struct.pack("<I", 8) + text(item)
    if kind == "strs":
        return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(text(s) for s in item)
    code, letter = {"i32s": (5, "i"), "f32s": (6, "f"), "u8s": (0, "B"), "f64s": (12, "d")}[kind]
    return struct.pack("<IIQ", 9, code, len(item)) + struct.pack(f"<{len(item)}{letter}", *item)


BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
          10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
          15: (256, 292), 19: (256, 50), 20: (32, 18), 23: (256, 136), 30: (1, 2), 39: (32, 17)}


def gguf(values, tensors, version=3):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, kind, item in values:
        head += text(key) + value(kind, item)
    offset, data = 0, b""
    for name, kind, dims in tensors:  # dims as GGUF lists them: contiguous first
        head += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        head += struct.pack("<IQ", kind, offset)
        elements, size = BLOCKS[kind]
        count = dims[0] // elements * size
        for dim in dims[1:]:
            count *= dim
        part = bytes(i * 7 & 63 for i in range(count))
        part += b"\0" * (-len(part) % 32)
        data, offset = data + part, offset + len(part)
    head += b"\0" * (-len(head) % 32)
    return head + data


def phi3(split=False, long_rope=False):
    """The smallest phi3 model: one layer, one head of 2, two tokens."""
    values = [
        ("general.architecture", "str", "phi3"),
        ("phi3.context_length", "u32", 8),
        ("phi3.embedding_length", "u32", 2),
        ("phi3.block_count", "u32", 1),
        ("phi3.feed_forward_length", "u32", 2),
        ("phi3.attention.head_count", "u32", 1),
        ("phi3.attention.layer_norm_rms_epsilon", "f32", 1e-5),
        ("phi3.attention.sliding_window", "u32", 3),
        ("tokenizer.ggml.eos_token_id", "u32", 1),
        ("phid.eos_token_ids", "i32s", [0, 1]),
    ]
    tensors = [
        ("token_embd.weight", 1, [2, 2]),
        ("blk.0.attn_norm.weight", 0, [2]),
        ("blk.0.attn_output.weight", 1, [2, 2]),
        ("blk.0.ffn_norm.weight", 0, [2]),
        ("blk.0.ffn_down.weight", 30, [2, 2]),
        ("output_norm.weight", 0, [2]),
    ]
    if split:
        tensors += [(f"blk.0.attn_{p}.weight", 1, [2, 2]) for p in "qkv"]
        tensors += [("blk.0.ffn_gate.weight", 1, [2, 2]), ("blk.0.ffn_up.weight", 1, [2, 2])]
    else:
        tensors += [("blk.0.attn_qkv.weight", 1, [2, 6]), ("blk.0.ffn_up.weight", 1, [2, 4])]
        tensors += [("output.weight", 0, [2, 2])]
    if long_rope:
        values += [("phi3.rope.scaling.attn_factor", "f32", 1.19)]
        tensors += [("rope_factors_long.weight", 0, [1]), ("rope_factors_short.weight", 0, [1])]
    return gguf(values, tensors)


def phi3_blocks(kind, v_kind):
    """One layer of 256 columns in blocks; attn_v in blocks of another type."""
    values = [
        ("general.architecture", "str", "phi3"),
        ("phi3.context_length", "u32", 8),
        ("phi3.embedding_length", "u32", 256),
        ("phi3.block_count", "u32", 1),
        ("phi3.feed_forward_length", "u32", 2),
        ("phi3.attention.head_count", "u32", 1),
        ("phi3.attention.key_length", "u32", 2),
        ("phi3.attention.value_length", "u32", 2),
        ("phi3.rope.dimension_count", "u32", 2),
        ("phi3.attention.layer_norm_rms_epsilon", "f32", 1e-5),
        ("tokenizer.ggml.eos_token_id", "u32", 1),
    ]
    tensors = [
        ("token_embd.weight", kind, [256, 2]),
        ("blk.0.attn_norm.weight", 0, [256]),
        ("blk.0.attn_q.weight", kind, [256, 2]),
        ("blk.0.attn_k.weight", kind, [256, 2]),
        ("blk.0.attn_v.weight", v_kind, [256, 2]),
        ("blk.0.attn_output.weight", 1, [2, 256]),
        ("blk.0.ffn_norm.weight", 0, [256]),
        ("blk.0.ffn_up.weight", kind, [256, 4]),
        ("blk.0.ffn_down.weight", 1, [2, 256]),
        ("output_norm.weight", 0, [256]),
    ]
    return gguf(values, tensors)


def phimoe():
    """One layer of two experts, 16 wide."""
    values = [
        ("general.architecture", "str", "phimoe"),
        ("phimoe.context_length", "u32", 8),
        ("phimoe.embedding_length", "u32", 16),
        ("phimoe.block_count", "u32", 1),
        ("phimoe.feed_forward_length", "u32", 16),
        ("phimoe.attention.head_count", "u32", 1),
        ("phimoe.attention.layer_norm_rms_epsilon", "f32", 1e-5),
        ("phimoe.expert_count", "u32", 2),
        ("phimoe.expert_used_count", "u32", 2),
        ("phid.router_jitter_noise", "f32", 0.01),
        ("phid.rope.attn_factor_long", "f32", 1.25),
    ]
    norms = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]
    tensors = [("token_embd.weight", 1, [16, 2]), ("output.weight", 1, [16, 2]),
               ("blk.0.attn_qkv.weight", 1, [16, 48]), ("blk.0.attn_output.weight", 1, [16, 16]),
               ("blk.0.ffn_gate_inp.weight", 0, [16, 2])]
    tensors += [(f"{norm}.{part}", 0, [16]) for norm in norms for part in ("weight", "bias")]
    tensors += [(f"blk.0.ffn_{part}_exps.weight", 30, [16, 16, 2])
                for part in ("gate", "up", "down")]
    return gguf(values, tensors)


write("safetensors", "three", safetensors(
    [("b", "F16", [2, 3], 12), ("a", "F32", [2], 8), ("c", "BF16", [], 2)], {"format": "pt"}))
write("safetensors", "others", safetensors(
    [("q", "I32", [2], 8), ("e", "U8", [0, 4], 0), ("f", "F4", [4], 2), ("g", "F8_E4M3", [1, 1, 3], 3)]))
write("safetensors", "empty", safetensors([]))
write("safetensors", "hole", struct.pack("<Q", 60) +
      b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}      ' + bytes(8))

write("gguf", "values", gguf([
    ("a", "u32", 7), ("b", "f32", 1.5), ("c", "bool", 1), ("d", "str", "text"),
    ("e", "strs", ["one", "", "three"]), ("f", "i32s", [-1, 2]), ("g", "f32s", [0.5]),
    ("h", "u8s", [1, 2, 3]), ("i", "f64s", [2.5]), ("general.alignment", "u32", 64)], []))
write("gguf", "types", gguf([], [
    ("q8", 8, [32, 2]), ("q4", 2, [64]), ("q41", 3, [32]), ("k", 12, [256])], version=2))
write("gguf", "more_types", gguf([], [
    (f"t{kind}", kind, [BLOCKS[kind][0], 1])
    for kind in (6, 7, 10, 11, 12, 13, 14, 15, 19, 20, 23, 39)]))
write("gguf", "phi3_q4_k", phi3_blocks(12, 14))
write("gguf", "phi3_q2_k", phi3_blocks(10, 11))
write("gguf", "phi3_q5_0", phi3_blocks(6, 7))
write("gguf", "phi3_iq4", phi3_blocks(20, 23))
write("gguf", "phi3_mxfp4", phi3_blocks(39, 15))
write("gguf", "phi3_q5_k", phi3_blocks(13, 14))
write("gguf", "phi3", phi3())
write("gguf", "phimoe", phimoe())
write("gguf", "phi3_split", phi3(split=True))
write("gguf", "phi3_long", phi3(long_rope=True))

TINY = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "vocab_size": 96, "max_position_embeddings": 128,
        "bos_token_id": 1, "eos_token_id": 2}
LONG = dict(TINY, original_max_position_embeddings=64, sliding_window=17, rms_norm_eps=1e-6,
            partial_rotary_factor=0.5, tie_word_embeddings=True, _name_or_path="a/b",
            rope_scaling={"type": "su", "short_factor": [1, 2], "long_factor": [3.5, 4]})
NEWER = dict(TINY, head_dim=16, rope_parameters={
    "rope_type": "longrope", "rope_theta": 5e5, "partial_rotary_factor": 0.25,
    "original_max_position_embeddings": 32, "attention_factor": 1.5,
    "short_factor": [1, 2], "long_factor": [3, 4]})
GENERATION = {"eos_token_id": [2, 5], "pad_token_id": 0}
INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a": "shard", "b": "shard"}}


def directory(*parts):
    return b"\0".join(json.dumps(part, separators=(",", ":")).encode() for part in parts)


write("hf_config", "tiny", directory(TINY, GENERATION, INDEX))
write("hf_config", "long", directory(LONG, GENERATION, INDEX))
write("hf_config", "newer", directory(NEWER, GENERATION, INDEX))
write("hf_config", "refused", directory(
    {"architectures": ["PhiForCausalLM"], "model_type": "phi"}, GENERATION,
    {"weight_map": {"a": "../shard"}}))


# The smallest model whose matrices are of codes: one layer of 32 columns.
SMALL = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 32,
         "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
         "intermediate_size": 32, "vocab_size": 8, "max_position_embeddings": 16}
MATRICES = {"model.embed_tokens.": 8, "model.layers.0.self_attn.qkv_proj.": 64,
            "model.layers.0.self_attn.o_proj.": 32, "model.layers.0.mlp.gate_up_proj.": 64,
            "model.layers.0.mlp.down_proj.": 32, "lm_head.": 8}
NORMS = ["model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
         "model.norm.weight"]


def folder(name, section, arrays, everywhere=True, **config):
    """arrays: what stands for NAMEweight, as (suffix, dtype, shape by rows, bytes)."""
    tensors = [(norm, "F32", [32], 128) for norm in NORMS]
    for stem, rows in MATRICES.items():
        if everywhere or stem.startswith("model.layers"):
            tensors += [(stem + suffix, dtype, shape(rows), size(rows))
                        for suffix, dtype, shape, size in arrays]
        else:
            tensors += [(stem + "weight", "F16", [rows, 32], rows * 64)]
    text = json.dumps(dict(SMALL, **section, **config), separators=(",", ":")).encode()
    write("hf_folder", name, text + b"\0" + safetensors(tensors))


folder("plain", {}, [("weight", "BF16", lambda n: [n, 32], lambda n: n * 64)])
folder("mlx", {"quantization": {"group_size": 32, "bits": 4}}, [
    ("weight", "U32", lambda n: [n, 4], lambda n: n * 16),
    ("scales", "F16", lambda n: [n, 1], lambda n: n * 2),
    ("biases", "F16", lambda n: [n, 1], lambda n: n * 2)])
folder("mxfp4", {"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}, [
    ("weight", "U32", lambda n: [n, 4], lambda n: n * 16),
    ("scales", "U8", lambda n: [n, 1], lambda n: n)])
folder("gptq", {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 16}}, [
    ("qweight", "I32", lambda n: [4, n], lambda n: n * 16),
    ("scales", "F16", lambda n: [2, n], lambda n: n * 4),
    ("qzeros", "I32", lambda n: [2, n // 8], lambda n: n),
    ("g_idx", "I32", lambda n: [32], lambda n: 128)], everywhere=False)
folder("awq", {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}, [
    ("qweight", "I32", lambda n: [32, n // 8], lambda n: n * 16),
    ("scales", "F16", lambda n: [1, n], lambda n: n * 2),
    ("qzeros", "I32", lambda n: [1, n // 8], lambda n: n // 2)], everywhere=False)
for bits in (4, 8):
    folder(f"compressed_{bits}", {"quantization_config": {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": bits}}}}}, [
        ("weight_packed", "I32", lambda n, b=bits: [n, b], lambda n, b=bits: n * b * 4),
        ("weight_scale", "BF16", lambda n: [n, 2], lambda n: n * 4)], everywhere=False)

# phimoe: experts one by one, and as MLX stacks them.
EXPERTS = dict(SMALL, architectures=["PhiMoEForCausalLM"], model_type="phimoe",
               num_local_experts=2)


def experts(name, matrix, expert, **config):
    """matrix, expert: of a stem, the arrays that stand for it."""
    layer, moe = "model.layers.0.", "model.layers.0.block_sparse_moe."
    norms = ["model.norm.", layer + "input_layernorm.", layer + "post_attention_layernorm."]
    tensors = [(norm + part, "F32", [32], 128) for norm in norms for part in ("weight", "bias")]
    for stem, rows in (("model.embed_tokens.", 8), ("lm_head.", 8),
                       (layer + "self_attn.q_proj.", 32), (layer + "self_attn.k_proj.", 16),
                       (layer + "self_attn.v_proj.", 16), (layer + "self_attn.o_proj.", 32),
                       (moe + "gate.", 2)):
        tensors += matrix(stem, rows)
    tensors += expert(moe)
    text = json.dumps(dict(EXPERTS, **config), separators=(",", ":")).encode()
    write("hf_folder", name, text + b"\0" + safetensors(tensors))


experts("experts", lambda stem, rows: [(stem + "weight", "BF16", [rows, 32], rows * 64)],
        lambda moe: [(f"{moe}experts.{e}.w{w}.weight", "BF16", [32, 32], 2048)
                     for e in range(2) for w in (1, 2, 3)])
experts("experts_mlx",
        lambda stem, rows: [(stem + "weight", "U32", [rows, 4], rows * 16),
                            (stem + "scales", "F16", [rows, 1], rows * 2),
                            (stem + "biases", "F16", [rows, 1], rows * 2)],
        lambda moe: [(f"{moe}switch_mlp.{part}_proj.{array}", dtype, [2, 32, last], size)
                     for part in ("gate", "up", "down")
                     for array, dtype, last, size in (("weight", "U32", 4, 1024),
                                                      ("scales", "F16", 1, 128),
                                                      ("biases", "F16", 1, 128))],
        quantization={"group_size": 32, "bits": 4})

PIECES = ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "b", "c", "ab", "\u2581ab", "aab"]
write("tokenizer_gguf", "scores", gguf([
    ("general.name", "str", "Phi-3"), ("tokenizer.ggml.model", "str", "llama"),
    ("tokenizer.ggml.tokens", "strs", PIECES),
    ("tokenizer.ggml.scores", "f32s", [0, 0, 0, 0, -8, -7, -6, -5, -1, -2, -1]),
    ("tokenizer.ggml.token_type", "i32s", [2, 3, 4, 6, 1, 1, 1, 1, 1, 1, 1]),
    ("tokenizer.ggml.bos_token_id", "u32", 1), ("tokenizer.ggml.eos_token_id", "u32", 2),
    ("tokenizer.ggml.add_bos_token", "bool", 1), ("tokenizer.ggml.add_space_prefix", "bool", 1),
    ("tokenizer.chat_template", "str", "{{ messages }}")], []))
for pre in ("gpt-2", "dbrx", "gpt-4o", "starcoder", "default"):
    write("tokenizer_gguf", "bytes-" + pre, gguf([
        ("tokenizer.ggml.model", "str", "gpt2"), ("tokenizer.ggml.pre", "str", pre),
        ("tokenizer.ggml.tokens", "strs", ["a", "b", "c", "\u0120", "ab", "\u0120a", "<|end|>", "1"]),
        ("tokenizer.ggml.merges", "strs", ["a b", "\u0120 a"]),
        ("tokenizer.ggml.token_type", "i32s", [1, 1, 1, 1, 1, 1, 3, 1])], []))


def packed(tensors, data_offset=4096):
    """tensors: name, kind, group, rows, cols, flags, offset, bytes. The target puts the sum in."""
    end = data_offset + (tensors[-1][6] + tensors[-1][7] if tensors else 0)
    head = b"PHIPACK\0" + struct.pack("<II", 1, 128 + 112 * len(tensors))
    head += b"blocks16".ljust(16, b"\0") + bytes(range(64))
    head += struct.pack("<QQIIQ", end, data_offset, len(tensors), 0, 0)
    for name, kind, group, rows, cols, flags, offset, size in tensors:
        head += name.encode().ljust(64, b"\0")
        head += struct.pack("<IIIIIIQQQ", kind, group, rows, cols, flags, 0, offset, size, 7)
    return head


write("packed", "kinds", packed([
    ("token_embd.weight", 1, 32, 17, 64, 0, 0, 2176), ("a", 0, 32, 16, 32, 1, 2176, 320 + 64),
    ("output_norm.weight", 4, 0, 1, 5, 2, 2560, 64), ("f", 2, 0, 3, 4, 0, 2624, 128)]))
write("packed", "overlap", packed([("a", 4, 0, 16, 4, 0, 0, 256), ("b", 4, 0, 16, 4, 0, 128, 256)]))
write("packed", "empty", packed([]))
