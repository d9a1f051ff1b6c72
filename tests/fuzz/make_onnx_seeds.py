#!/usr/bin/env python3
"""Writes the seeds of the fuzz target onnx: small graphs of one layer, as ONNX Runtime GenAI's
builder has them, in every kind of weights that is read. Usage: make_onnx_seeds.py [DIRECTORY]
"""
import math
import os
import struct
import sys

ROOT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "corpus", "onnx")

DYNAMIC = 3  # in place of a form of DequantizeLinear
E, H, HKV, D, F, V, CTX, GROUP = 32, 4, 2, 8, 32, 40, 4, 16


def varint(value):
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def data(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def tensor(name, kind, dims, raw, external):
    out = b"".join(number(1, d) for d in dims) + number(2, kind) + data(8, name)
    if not external:
        return out + data(9, raw)
    for key, value in ("location", "model.onnx.data"), ("offset", "0"), ("length", str(len(raw))):
        out += data(13, data(1, key) + data(2, value))
    return out + number(14, 1)


def attribute(name, value):
    if isinstance(value, float):
        return data(5, data(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value) + number(20, 1))
    if isinstance(value, int):
        return data(5, data(1, name) + number(3, value) + number(20, 2))
    return data(5, data(1, name) + value)


def node(op, name, inputs, outputs, **attributes):
    out = b"".join(data(1, i) for i in inputs) + b"".join(data(2, o) for o in outputs)
    out += data(3, name) + data(4, op) + data(7, attributes.pop("domain", ""))
    return data(1, out + b"".join(attribute(k, v) for k, v in attributes.items()))


def tables(rows):
    angles = [p / 10000.0 ** (2 * i / D) for p in range(rows) for i in range(D // 2)]
    return [struct.pack(f"<{len(angles)}f", *(f(a) for a in angles)) for f in (math.cos, math.sin)]


class Graph:
    def __init__(self, bits, external, qdq):
        self.bits, self.external, self.qdq, self.out = bits, external, qdq, b""

    def floats(self, name, *dims):
        count = math.prod(dims)
        half = self.bits == 16
        raw = struct.pack(f"<{count}{'e' if half else 'f'}", *((i % 13 - 6) / 8 for i in range(count)))
        self.out += data(5, tensor(name, 10 if half else 1, dims, raw, self.external))

    def dequantized(self, name, rows, cols):
        """Signed codes [cols][rows], or [rows][cols] and a Transpose."""
        lines = self.qdq == 1
        dims, groups = ([cols, rows], [cols // GROUP, rows]) if lines else ([rows, cols], [rows, cols // GROUP])
        kind, size = (22, rows * cols // 2) if self.bits == 4 else (3, rows * cols)
        codes = bytes(i * 7 & 255 for i in range(size))
        self.out += data(5, tensor(name + ".q", kind, dims, codes, self.external))
        bits, self.bits = self.bits, 32
        self.floats(name + ".s", *groups)
        self.bits = bits
        out = name + (".w" if lines else ".d")
        self.out += node("DequantizeLinear", name + ".dq", [name + ".q", name + ".s"], [out],
                         axis=0 if lines else 1, block_size=GROUP)
        if not lines:
            self.out += node("Transpose", name + ".t", [out], [name + ".w"])
        self.out += node("MatMul", name, [name + ".in", name + ".w"], [name])

    def dynamic(self, name, source, rows, cols):
        """As quantize_dynamic has it: unsigned codes [cols][rows], zero points of rows in a list."""
        made = [name + ".r", name + ".rs", name + ".rz"]
        codes = bytes(i * 7 & 255 for i in range(rows * cols))
        listed = b"".join(varint(i * 5 & 255) for i in range(rows))
        self.out += data(5, tensor(name + ".q", 2, [cols, rows], codes, self.external))
        self.out += data(5, number(1, rows) + number(2, 2) + data(8, name + ".z") + data(5, listed))
        bits, self.bits = self.bits, 32
        self.floats(name + ".s", rows)
        self.bits = bits
        self.out += node("DynamicQuantizeLinear", name + ".dql", [source], made)
        self.out += node("MatMulInteger", name + ".i", [made[0], name + ".q", made[2], name + ".z"], [name + ".i"])
        self.out += node("Cast", name + ".c", [name + ".i"], [name + ".c"], to=1)
        self.out += node("Mul", name + ".ss", [made[1], name + ".s"], [name + ".ss"])
        self.out += node("Mul", name, [name + ".c", name + ".ss"], [name])

    def product(self, name, source, rows, cols):
        if self.qdq == DYNAMIC:
            return self.dynamic(name, source, rows, cols)
        if self.qdq:
            self.out += node("Identity", name + ".id", [source], [name + ".in"])
            return self.dequantized(name, rows, cols)
        if self.bits >= 16:
            self.floats(name + ".w", cols, rows)
            self.out += node("MatMul", name, [source, name + ".w"], [name])
            return
        groups, size = cols // GROUP, cols * self.bits // 8
        zeros = bytes(i & 255 for i in range(rows * -(-groups * self.bits // 8)))
        codes = bytes(i * 7 & 255 for i in range(rows * size))
        self.out += data(5, tensor(name + ".q", 2, [rows, size], codes, self.external))
        self.out += data(5, tensor(name + ".z", 2, [len(zeros)], zeros, self.external))
        bits, self.bits = self.bits, 32
        self.floats(name + ".s", rows, groups)
        self.bits = bits
        self.out += node("MatMulNBits", name, [source, name + ".q", name + ".s", name + ".z"], [name],
                         domain="com.microsoft", K=cols, N=rows, bits=bits, block_size=GROUP)

    def norm(self, name, inputs, outputs, layer=False):
        self.floats(name + ".w", E)
        weights = [name + ".w"]
        if layer:
            self.floats(name + ".b", E)
            weights.append(name + ".b")
        kind = ("Skip" if len(inputs) == 2 else "") + ("" if layer else "Simplified")
        self.out += node(kind + "LayerNormalization", name, inputs + weights, outputs,
                         domain="com.microsoft", epsilon=1e-5)

    def affine(self, name, source, rows, cols):
        self.product(name + ".m", source, rows, cols)
        self.floats(name + ".b", rows)
        self.out += node("Add", name, [name + ".m", name + ".b"], [name])

    def attention(self, inputs):
        self.out += node("GroupQueryAttention", "a",
                         inputs + ["pk", "pv", "total", "total", "cos", "sin"], ["a"],
                         domain="com.microsoft", num_heads=H, kv_num_heads=HKV, do_rotary=1,
                         local_window_size=-1)


    def number(self, name, kind, dims, raw):
        self.out += data(5, tensor(name, kind, dims, raw, False))

    def choice(self, which, pool):
        """Of a router's scores: the best of `pool`, and the shares of those near it."""
        n = which + "."
        self.out += node("ReduceMax", n + "best", [pool, "last"], [n + "best"], keepdims=1)
        self.out += node("ArgMax", n + "index", [pool], [n + "index"], axis=-1)
        self.out += node("Equal", n + "chosen", ["experts", n + "index"], [n + "chosen"])
        self.out += node("Sub", n + "below", [n + "best", "scores"], [n + "below"])
        self.out += node("Max", n + "size", ["magnitude", n + "best"], [n + "size"])
        self.out += node("Div", n + "ratio", [n + "below", n + "size"], [n + "ratio"])
        self.out += node("Greater", n + "far", [n + "ratio", "limit"], [n + "far"])
        self.out += node("Where", n + "near", [n + "far", "low", pool], [n + "near"])
        self.out += node("Softmax", n + "shares", [n + "near"], [n + "shares"], axis=-1)

    def expert(self, number):
        n = f"{number}."
        self.number(n + "n", 7, [], struct.pack("<q", number))
        self.out += node("Gather", n + "share", ["shares", n + "n"], [n + "share"], axis=1)
        self.out += node("NonZero", n + "found", [n + "share"], [n + "found"])
        self.out += node("Transpose", n + "rows", [n + "found"], [n + "rows"])
        self.out += node("GatherND", n + "x", ["tokens", n + "rows"], [n + "x"])
        self.gated(n, n + "x")
        self.out += node("GatherND", n + "taken", [n + "share", n + "rows"], [n + "taken"])
        self.out += node("Unsqueeze", n + "column", [n + "taken", "one"], [n + "column"])
        self.out += node("Mul", n + "weighed", [n + "down", n + "column"], [n + "weighed"])
        self.out += node("ScatterND", n + "sum",
                         [f"{number - 1}.sum" if number else "nothing", n + "rows", n + "weighed"],
                         [n + "sum"], reduction=data(4, "add"))

    def gated(self, n, source):
        self.product(n + "gate", source, F, E)
        self.product(n + "up", source, F, E)
        self.out += node("Sigmoid", n + "sigmoid", [n + "gate"], [n + "sigmoid"])
        self.out += node("Mul", n + "silu", [n + "gate", n + "sigmoid"], [n + "silu"])
        self.out += node("Mul", n + "product", [n + "silu", n + "up"], [n + "product"])
        self.product(n + "down", n + "product", E, F)


def rope(graph, long_rope):
    if not long_rope:
        for name, raw in zip(("cos", "sin"), tables(CTX)):
            graph.out += data(5, tensor(name, 1, [CTX, D // 2], raw, False))
        return
    graph.out += data(5, tensor("original", 7, [], struct.pack("<q", 2), False))
    graph.out += node("Greater", "greater", ["total", "original"], ["is_long"])
    branches = {}
    for branch, rows in ("then_branch", CTX), ("else_branch", 2):
        inner = b""
        for name, raw in zip("cs", tables(rows)):
            value = data(5, data(1, "value") + data(5, tensor(name, 1, [rows, D // 2], raw, False)))
            inner += data(1, data(2, name) + data(4, "Constant") + value) + data(12, data(1, name))
        branches[branch] = data(6, inner)
    graph.out += node("If", "if", ["is_long"], ["cos", "sin"], **branches)


def model(bits, external=False, apart=False, long_rope=False, fused=False, tied=False,
          qdq=0):
    g = Graph(bits, external, qdq)
    g.out += node("Shape", "shape", ["attention_mask"], ["total"])
    rope(g, long_rope)
    if tied:
        g.out += node("GatherBlockQuantized", "embed", ["logits.q", "ids", "logits.s", "logits.z"],
                      ["x"], domain="com.microsoft", bits=bits, block_size=GROUP)
    else:
        g.floats("embed.w", V, E)
        g.out += node("Gather", "embed", ["embed.w", "ids"], ["x"])
    g.norm("n1", ["x"], ["n1"])
    if apart:
        for name, heads in ("q", H), ("k", HKV), ("v", HKV):
            g.product(name, "n1", heads * D, E)
    else:
        g.product("q", "n1", (H + 2 * HKV) * D, E)
    g.attention(["q", "k", "v"] if apart else ["q", "", ""])
    g.product("o", "a", E, H * D)
    g.norm("n2", ["x", "o"], ["n2", "", "", "s"])
    if fused:
        g.product("both", "n2", 2 * F, E)
        g.out += node("Split", "split", ["both"], ["gate", "up"], axis=-1, num_outputs=2)
    else:
        g.product("gate", "n2", F, E)
        g.product("up", "n2", F, E)
    g.out += node("Sigmoid", "sigmoid", ["gate"], ["sigmoid"])
    g.out += node("Mul", "silu", ["gate", "sigmoid"], ["silu"])
    g.out += node("Mul", "product", ["silu", "up"], ["product"])
    g.product("down", "product", E, F)
    g.norm("n3", ["s", "down"], ["n3"])
    g.product("logits", "n3", V, E)
    return number(1, 10) + data(7, g.out)


def phi2(bits, external=False, fast=False):
    g = Graph(bits, external, 0)
    g.out += node("Shape", "shape", ["attention_mask"], ["total"])
    rope(g, False)
    g.floats("embed.w", V, E)
    g.out += node("Gather", "embed", ["embed.w", "ids"], ["x"])
    g.norm("n1", ["x"], ["n1"], layer=True)
    g.affine("q", "n1", (H + 2 * HKV) * D, E)
    g.attention(["q", "", ""])
    g.affine("o", "a", E, H * D)
    g.affine("fc1", "n1", F, E)
    form = {} if fast else {"approximate": data(4, "tanh")}
    g.out += node("FastGelu" if fast else "Gelu", "gelu", ["fc1"], ["gelu"], **form)
    g.affine("fc2", "gelu", E, F)
    g.out += node("Add", "sum", ["o", "fc2"], ["sum"])
    g.norm("n2", ["x", "sum"], ["n2"], layer=True)
    g.affine("logits", "n2", V, E)
    return number(1, 10) + data(7, g.out)


def phimoe(bits, external=False):
    g = Graph(bits, external, 0)
    g.out += node("Shape", "shape", ["attention_mask"], ["total"])
    rope(g, True)
    for name, kind, dims, raw in (
            ("experts", 7, [2], struct.pack("<2q", 0, 1)), ("flat", 7, [2], struct.pack("<2q", -1, E)),
            ("last", 7, [1], struct.pack("<q", -1)), ("one", 7, [1], struct.pack("<q", 1)),
            ("low", 1, [], struct.pack("<f", -math.inf)), ("zero", 1, [], struct.pack("<f", 0.0)),
            ("limit", 1, [], struct.pack("<f", 0.02))):
        g.number(name, kind, dims, raw)
    g.floats("embed.w", V, E)
    g.out += node("Gather", "embed", ["embed.w", "ids"], ["x"])
    g.norm("n1", ["x"], ["n1"], layer=True)
    g.product("q", "n1", (H + 2 * HKV) * D, E)
    g.attention(["q", "", ""])
    g.product("o", "a", E, H * D)
    g.norm("n2", ["x", "o"], ["n2", "", "", "s"], layer=True)
    g.out += node("Reshape", "tokens", ["n2", "flat"], ["tokens"])
    g.product("scores", "tokens", 2, E)
    g.out += node("Abs", "magnitude", ["scores"], ["magnitude"])
    g.choice("first", "scores")
    g.out += node("Where", "rest", ["first.chosen", "low", "scores"], ["rest"])
    g.choice("second", "rest")
    g.out += node("Where", "of", ["second.chosen", "second.shares", "zero"], ["of"])
    g.out += node("Where", "shares", ["first.chosen", "first.shares", "of"], ["shares"])
    g.out += node("Shape", "size", ["tokens"], ["size"])
    g.out += node("ConstantOfShape", "nothing", ["size"], ["nothing"])
    g.expert(0)
    g.expert(1)
    g.out += node("Shape", "like", ["n2"], ["like"])
    g.out += node("Reshape", "back", ["1.sum", "like"], ["back"])
    g.norm("n3", ["s", "back"], ["n3"], layer=True)
    g.product("logits", "n3", V, E)
    return number(1, 10) + data(7, g.out)


os.makedirs(ROOT, exist_ok=True)
seeds = {
    "fp32": model(32), "fp16": model(16, apart=True), "int8": model(8, fused=True),
    "int4": model(4, external=True), "int4-long": model(4, long_rope=True, tied=True),
    "int2": model(2, external=True, apart=True),
    "int4-qdq": model(4, qdq=1, external=True), "int8-qdq": model(8, qdq=2),
    "int8-dynamic": model(8, qdq=DYNAMIC),
    "phimoe-fp32": phimoe(32), "phimoe-int4": phimoe(4, external=True),
    "phi2-fp32": phi2(32), "phi2-int4": phi2(4, external=True, fast=True),
}
for seed, content in seeds.items():
    with open(os.path.join(ROOT, seed), "wb") as out:
        out.write(content)
