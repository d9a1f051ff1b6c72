"""The Phi-3 forward pass in PyTorch, with Hugging Face's tensor names.

Fused qkv_proj and gate_up_proj, grouped heads, half-split rotary positions over
the whole head, RMSNorm, SwiGLU, no biases, separate output head.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "vocab_size": 1024,
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
    "max_position_embeddings": 1024, "original_max_position_embeddings": 1024,
    "initializer_range": 0.02, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "rope_scaling": None, "partial_rotary_factor": 1.0, "sliding_window": None,
    "tie_word_embeddings": False, "attention_bias": False, "attention_dropout": 0.0,
    "embd_pdrop": 0.0, "resid_pdrop": 0.0, "use_cache": True, "torch_dtype": "float16",
}


def fake_quantize(weight, bits, group):
    """Rounds groups along the input side to signed integers, scaled by their largest."""
    top = 2 ** (bits - 1) - 1
    groups = weight.detach().reshape(-1, group)
    scale = groups.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / top
    return ((groups / scale).round().clamp(-top - 1, top) * scale).reshape(weight.shape)


class QuantLinear(nn.Linear):
    """A linear layer that can train with its weights rounded to INT4 (straight through)."""

    rounding = False

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x):
        if not QuantLinear.rounding:
            return F.linear(x, self.weight)
        rounded = fake_quantize(self.weight, 4, 32)
        return F.linear(x, self.weight + (rounded - self.weight).detach())


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.heads = cfg["num_attention_heads"]
        self.kv_heads = cfg["num_key_value_heads"]
        self.size = cfg["hidden_size"] // self.heads
        self.qkv_proj = QuantLinear(cfg["hidden_size"],
                                    (self.heads + 2 * self.kv_heads) * self.size)
        self.o_proj = QuantLinear(self.heads * self.size, cfg["hidden_size"])

    def forward(self, x, cos, sin, mask):
        batch, length, _ = x.shape
        qkv = self.qkv_proj(x).view(batch, length, -1, self.size).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        q = rotate(q, cos, sin) * (1.0 / math.sqrt(self.size))
        k = rotate(k, cos, sin)
        # Query heads that share a key head are stacked along the positions.
        shared = self.heads // self.kv_heads
        q = q.reshape(batch, self.kv_heads, shared * length, self.size)
        scores = (q @ k.transpose(-1, -2)).view(batch, self.heads, length, length) + mask
        probs = scores.softmax(-1).view(batch, self.kv_heads, shared * length, length)
        out = (probs @ v).view(batch, self.heads, length, self.size)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.gate_up_proj = QuantLinear(cfg["hidden_size"], 2 * cfg["intermediate_size"])
        self.down_proj = QuantLinear(cfg["intermediate_size"], cfg["hidden_size"])

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(up * F.silu(gate))


class Layer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg["hidden_size"], cfg["rms_norm_eps"])
        self.self_attn = Attention(cfg)
        self.post_attention_layernorm = RMSNorm(cfg["hidden_size"], cfg["rms_norm_eps"])
        self.mlp = MLP(cfg)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.embed_tokens = nn.Embedding(cfg["vocab_size"], cfg["hidden_size"])
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg["num_hidden_layers"]))
        self.norm = RMSNorm(cfg["hidden_size"], cfg["rms_norm_eps"])


class Phi3(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.model = Trunk(cfg)
        self.lm_head = nn.Linear(cfg["hidden_size"], cfg["vocab_size"], bias=False)
        deep = cfg["initializer_range"] / math.sqrt(2 * cfg["num_hidden_layers"])
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=deep if out else cfg["initializer_range"])
        size = cfg["hidden_size"] // cfg["num_attention_heads"]
        inverse = cfg["rope_theta"] ** (-torch.arange(0, size, 2).float() / size)
        angles = torch.arange(cfg["max_position_embeddings"]).float()[:, None] * inverse
        self.cos, self.sin = angles.cos(), angles.sin()

    def forward(self, ids):
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.lm_head(self.model.norm(x))
