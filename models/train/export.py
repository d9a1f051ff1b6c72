"""Writes the model folder: Hugging Face's files, weights as F16 safetensors."""

import json
import os
import struct

import torch

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=False, indent=1)
        out.write("\n")


def write_text_files(folder, cfg, tokenizer):
    """Everything but the weights."""
    end_of_text = tokenizer.special["<|endoftext|>"]
    stops = [end_of_text, tokenizer.special["<|assistant|>"], tokenizer.special["<|end|>"]]
    full = dict(cfg, bos_token_id=end_of_text, eos_token_id=end_of_text,
                pad_token_id=end_of_text)
    write_json(os.path.join(folder, "config.json"), full)
    write_json(os.path.join(folder, "generation_config.json"), {
        "_from_model_config": True, "bos_token_id": end_of_text, "eos_token_id": stops,
        "pad_token_id": end_of_text})
    write_json(os.path.join(folder, "tokenizer.json"), tokenizer.tokenizer_json())
    decoder = {str(token.pop("id")): token for token in tokenizer.added_tokens()}
    write_json(os.path.join(folder, "tokenizer_config.json"), {
        "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": decoder, "bos_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>", "model_max_length": cfg["max_position_embeddings"],
        "pad_token": "<|endoftext|>", "padding_side": "left",
        "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>"})
    write_json(os.path.join(folder, "special_tokens_map.json"), {
        name: "<|endoftext|>" for name in ("bos_token", "eos_token", "pad_token", "unk_token")})


def write_safetensors(path, tensors):
    """F16, sorted by name; written beside and renamed so that it is never half there."""
    header, data, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors):
        half = tensors[name].detach().to(torch.float16).contiguous()
        if not torch.isfinite(half).all():
            raise ValueError(name + ": does not fit F16")
        raw = half.numpy().tobytes()
        header[name] = {"dtype": "F16", "shape": list(half.shape),
                        "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path + ".part", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(data))
    os.replace(path + ".part", path)


def read_safetensors(path):
    """The tensors widened to float32 (F16 files only, which is what is written here)."""
    with open(path, "rb") as source:
        data = source.read()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        flat = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float16)
        tensors[name] = flat.float().reshape(entry["shape"])
    return tensors
