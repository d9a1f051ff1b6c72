"""What a model's file holds of each matrix: its codes, their scales, and the values they stand for.

Read by the packages of the format's own runtime (ggml, onnx, OpenVINO, MLX) or by numpy alone, never by
phid, so that a test may compare what phid read with what phid wrote. Every reader returns the matrices
of phi3, phi2 and phimoe by one set of names, each of whole rows: "embed_tokens", "lm_head", and of each
layer "qkv", "out", "up" (phi3's gate above it), "down", "router" and, of all experts one after another,
"gate_exps", "up_exps", "down_exps".

Nothing is rounded: a scale times a code, and an offset added to it, have room in fp64.
"""

import collections
import dataclasses
import json
import pathlib
import re

import ggml
import mlx.core as mx
import numpy as np
import onnx
import onnx.numpy_helper
import openvino

AWQ_ROWS = [0, 2, 4, 6, 1, 3, 5, 7]
# What codings of floats are called.
FLOATS = {"fp16", "bf16", "fp32", "F16", "BF16", "F32"}
IQ4_VALUES = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


@dataclasses.dataclass
class Matrix:
    """`values` [N, K] in fp64. Of codes also the codes [N, K], and the scales [N, groups]."""
    values: np.ndarray
    coding: str  # in words: "fp16", "Q4_K", "4 bits by 64, zero points"
    codes: np.ndarray = None
    scales: np.ndarray = None

    @property
    def group(self):
        return self.codes.shape[1] // self.scales.shape[1]


def coded(bits, codes, scales, zeros=None, offsets=None):
    """value = scale * (code - zero) + offset; codes without a zero point are signed."""
    codes = np.asarray(codes).astype(np.int64)
    scales = np.asarray(scales).astype(np.float64).reshape(len(codes), -1)

    def wide(array):
        return np.repeat(array, codes.shape[1] // array.shape[1], 1)

    values = codes.astype(np.float64)
    if zeros is not None:
        values = values - wide(np.asarray(zeros).reshape(scales.shape).astype(np.float64))
    values = values * wide(scales)
    if offsets is not None:
        values = values + wide(np.asarray(offsets).astype(np.float64))
    group = "row" if scales.shape[1] == 1 else codes.shape[1] // scales.shape[1]
    more = ", zero points" if zeros is not None else ", offsets" if offsets is not None else ""
    if zeros is not None and np.asarray(zeros).dtype.kind == "f":
        more += " of fp32"
    return Matrix(values, f"{bits} bits by {group}{more}", codes, scales)


def floats(array, kind):
    return Matrix(np.asarray(array).astype(np.float64), kind)


def rows_of(matrices):
    """One matrix of the rows of several of one coding."""
    first = matrices[0]
    assert len({matrix.coding for matrix in matrices}) == 1

    def all_of(field):
        return np.concatenate([getattr(matrix, field) for matrix in matrices])

    coding = {} if first.codes is None else {"codes": all_of("codes"), "scales": all_of("scales")}
    return dataclasses.replace(first, values=all_of("values"), **coding)


# What other formats than GGUF call a layer's matrices or parts of them, and which part it is; "N" is an
# expert's number.
PLACES = [
    (r"(?:self_)?attn\.(?:qkv_proj|q_proj)", "qkv", 0), (r"(?:self_)?attn\.k_proj", "qkv", 1),
    (r"(?:self_)?attn\.v_proj", "qkv", 2), (r"(?:self_)?attn\.(?:o_proj|dense)", "out", 0),
    (r"mlp\.(?:gate_up_proj|gate_proj|fc1)", "up", 0), (r"mlp\.up_proj", "up", 1),
    (r"mlp\.(?:down_proj|fc2)", "down", 0),
    (r"(?:block_sparse_moe\.gate|(?:mlp|moe)\.router)", "router", 0),
    (r"experts\.(\d+)\.(?:w1|gate_proj)", "gate_exps", "N"),
    (r"experts\.(\d+)\.(?:w2|down_proj)", "down_exps", "N"),
    (r"experts\.(\d+)\.(?:w3|up_proj)", "up_exps", "N"),
    (r"(?:switch_mlp|mlp\.experts)\.gate_proj", "gate_exps", 0),
    (r"(?:switch_mlp|mlp\.experts)\.down_proj", "down_exps", 0),
    (r"(?:switch_mlp|mlp\.experts)\.up_proj", "up_exps", 0),
]


def place_of(name):
    """The name here, and which part of it: "layers.0.self_attn.k_proj" is part 1 of "layers.0.qkv"."""
    if name in ("embed_tokens", "lm_head"):
        return name, 0
    layer = re.match(r"layers\.\d+\.", name)[0]
    for pattern, place, part in PLACES:
        found = re.search(rf"(?:^|\.){pattern}$", name[len(layer):])
        if found:
            return layer + place, int(found[1]) if part == "N" else part
    raise AssertionError(f"no place for {name}")


def placed(parts):
    """Matrices by the names here, of those by a format's own."""
    found = collections.defaultdict(dict)
    for name, matrix in parts.items():
        place, part = place_of(name)
        found[place][part] = matrix
    return {place: rows_of([part for _, part in sorted(parts.items())]) for place, parts in found.items()}


# ---- GGUF ----

GGUF_NAMES = {"attn_qkv": "qkv", "attn_output": "out", "ffn_up": "up", "ffn_down": "down",
              "ffn_gate_inp": "router", "ffn_gate_exps": "gate_exps", "ffn_up_exps": "up_exps",
              "ffn_down_exps": "down_exps"}


def gguf_name(name):
    """Of a matrix; None of a vector."""
    if name in ("token_embd.weight", "output.weight"):
        return {"token_embd.weight": "embed_tokens", "output.weight": "lm_head"}[name]
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    return f"layers.{layer[1]}.{GGUF_NAMES[layer[2]]}" if layer and layer[2] in GGUF_NAMES else None


def halves(blocks, at):
    """fp16 numbers at a byte of each block."""
    return blocks[:, at:at + 2].copy().view(np.float16).astype(np.float64)


def nibbles(data):
    """Low halves of all bytes, then the high ones."""
    return np.concatenate([data & 15, data >> 4], -1)


def bits_of(data):
    """Of each block's bytes, lowest first."""
    return np.unpackbits(data, axis=-1, bitorder="little")


def six_bit(data):
    """Scales and minima [blocks, 8] each, from the twelve bytes of a Q4_K's or Q5_K's block."""
    first, second, third = data[:, :4], data[:, 4:8], data[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], 1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], 1)
    return scales.astype(np.float64), minima.astype(np.float64)


def block_32(kind, blocks):
    """Codes [blocks, 32], scales and offsets [blocks, 1] of the types of 32 elements."""
    scales = halves(blocks, 0)
    offsets = halves(blocks, 2) if kind in ("q4_1", "q5_1") else None
    if kind == "q8_0":
        return blocks[:, 2:].view(np.int8), scales, None
    codes = nibbles(blocks[:, -16:]).astype(np.int64)
    if kind == "iq4_nl":
        return np.array(IQ4_VALUES)[codes], scales, None
    if kind.startswith("q5"):
        at = blocks.shape[1] - 20
        codes = codes + (bits_of(blocks[:, at:at + 4]).astype(np.int64) << 4)
    if kind in ("q4_0", "q5_0"):
        codes = codes - (8 if kind == "q4_0" else 16)
    return codes, scales, offsets


def block_256(kind, blocks):
    """The same of the K-quants: codes [blocks, 256], scales and offsets [blocks, 256 / group]."""
    n = len(blocks)
    if kind == "q6_K":
        low = blocks[:, :128].reshape(n, 2, 2, 32)
        high = blocks[:, 128:192].reshape(n, 2, 1, 32)
        shifts = np.arange(0, 8, 2).reshape(1, 1, 4, 1)
        codes = nibbles(low.transpose(0, 1, 3, 2).reshape(n, 2, 32, 2)).transpose(0, 1, 3, 2)
        codes = codes.astype(np.int64) + ((high >> shifts & 3).astype(np.int64) << 4) - 32
        scales = halves(blocks, 208) * blocks[:, 192:208].view(np.int8)
        return codes.reshape(n, 256), scales, None
    scales, minima = six_bit(blocks[:, 4:16])
    codes = blocks[:, -128:].reshape(n, 4, 32)
    codes = np.stack([codes & 15, codes >> 4], 2).astype(np.int64).reshape(n, 8, 32)
    if kind == "q5_K":
        codes += bits_of(blocks[:, 16:48].reshape(n, 32, 1)).astype(np.int64).transpose(0, 2, 1) << 4
    return codes.reshape(n, 256), halves(blocks, 0) * scales, -halves(blocks, 2) * minima


def gguf(path):
    found = {}
    shapes = ggml.shapes(path)
    for name, (kind, raw) in ggml.tensors(path).items():
        if not gguf_name(name):
            continue
        rows, cols = shapes[name]
        theirs = ggml.decoded(kind, raw).reshape(rows, cols)
        if kind in ("f32", "f16", "bf16"):
            found[gguf_name(name)] = floats(theirs, kind.upper())
            continue
        elements, size = ggml.BLOCKS[kind]
        blocks = np.frombuffer(raw, np.uint8).reshape(-1, size)
        codes, scales, offsets = (block_32 if elements == 32 else block_256)(kind, blocks)
        matrix = coded(8, codes.reshape(rows, cols), scales.reshape(rows, -1),
                       offsets=None if offsets is None else offsets.reshape(rows, -1))
        # What ggml says the blocks are, as it rounds.
        np.testing.assert_allclose(theirs, matrix.values, rtol=0, err_msg=f"{path}: {name}",
                                   atol=2e-6 * float(np.abs(matrix.values).max()))
        found[gguf_name(name)] = dataclasses.replace(matrix, coding=kind.upper())
    return found


# ---- Hugging Face's folders ----

def plain(array):
    """An array of mlx's as numpy's, which has no bf16."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


def unpacked(words, bits):
    """The codes of 32-bit words along the last axis, lowest first; a code may lie in two words."""
    stream = bits_of(np.ascontiguousarray(words).view(np.uint8))
    return stream.reshape(*words.shape[:-1], -1, bits) @ (1 << np.arange(bits))


def float_matrix(array):
    return floats(plain(array), {mx.float16: "fp16", mx.bfloat16: "bf16", mx.float32: "fp32"}[array.dtype])


def zeros_or_centre(bits, codes, scales, zeros):
    """Where every zero point is the middle code, codes are signed and there is none."""
    middle = 1 << (bits - 1)
    if (zeros == middle).all():
        return coded(bits, codes - middle, scales)
    return coded(bits, codes, scales, zeros)


def mlx_matrix(arrays, section):
    bits, group = section["bits"], section["group_size"]
    matrix = coded(bits, unpacked(np.array(arrays["weight"]), bits), plain(arrays["scales"]),
                   offsets=plain(arrays["biases"]))
    # By mlx too, which computes in the type of the scales: here in fp32.
    theirs = mx.dequantize(arrays["weight"], arrays["scales"].astype(mx.float32),
                           arrays["biases"].astype(mx.float32), group_size=group, bits=bits)
    np.testing.assert_allclose(np.array(theirs), matrix.values, rtol=0,
                               atol=2e-6 * float(np.abs(matrix.values).max()))
    return matrix


def gptq_matrix(arrays, section):
    bits = section["bits"]
    codes = unpacked(np.array(arrays["qweight"]).T, bits)
    zeros = unpacked(np.array(arrays["qzeros"]), bits).T + (section.get("checkpoint_format") != "gptq_v2")
    scales = plain(arrays["scales"]).T
    group = codes.shape[1] // scales.shape[1]
    index = np.array(arrays["g_idx"])
    if (index == np.arange(len(index)) // group).all():
        return zeros_or_centre(bits, codes, scales, zeros)
    values = (codes - zeros[:, index]) * scales.astype(np.float64)[:, index]
    return Matrix(values, f"{bits} bits by {group}, columns in another order")


def awq_matrix(arrays, _):
    def across(words):
        found = unpacked(words, 4)
        found = found.reshape(len(found), -1, 8)
        right = np.empty_like(found)
        right[:, :, AWQ_ROWS] = found
        return right.reshape(len(found), -1).T
    return coded(4, across(np.array(arrays["qweight"])), plain(arrays["scales"]).T,
                 across(np.array(arrays["qzeros"])))


def compressed_matrix(arrays, section):
    (group,) = section["config_groups"].values()
    bits = group["weights"]["num_bits"]
    middle = 1 << (bits - 1)
    scales = plain(arrays["weight_scale"])
    if "weight_packed" in arrays:
        codes = unpacked(np.array(arrays["weight_packed"]), bits)
        assert codes.shape == tuple(np.array(arrays["weight_shape"]))
    else:
        codes = np.array(arrays["weight"]).astype(np.int64) + middle
    zeros = np.array(middle)
    if "weight_zero_point" in arrays:
        zeros = np.array(arrays["weight_zero_point"])
        if "weight_packed" in arrays:
            zeros = unpacked(zeros.T, bits).T[:len(codes)]
        else:
            zeros = zeros.astype(np.int64) + middle
    return zeros_or_centre(bits, codes, scales, zeros)


METHODS = {"gptq": gptq_matrix, "awq": awq_matrix, "compressed-tensors": compressed_matrix}


def hugging_face(folder):
    config = json.loads((folder / "config.json").read_text())
    stems = collections.defaultdict(dict)
    for name, array in mx.load(str(folder / "model.safetensors")).items():
        stem, _, field = name.rpartition(".")
        if "norm" not in stem and field != "bias":
            # Experts may be stacked.
            stems[stem][field] = array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array
    found = {}
    for stem, arrays in stems.items():
        name = stem.removeprefix("model.")
        if set(arrays) == {"weight"}:
            found[name] = float_matrix(arrays["weight"])
        elif "quantization" in config:
            found[name] = mlx_matrix(arrays, config["quantization"].get(stem, config["quantization"]))
        else:
            section = config["quantization_config"]
            found[name] = METHODS[section["quant_method"]](arrays, section)
    return placed(found)


# ---- ONNX ----

def graph_of(path):
    """Nodes and initializers of a graph, external data included."""
    graph = onnx.load(str(path)).graph
    return graph.node, {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}


ONNX_FLOATS = {"float16": "fp16", "float32": "fp32"}


def onnx_codes(data, scales, zeros, bits, shape):
    """MatMulNBits and GatherBlockQuantized: codes of a byte begin with the lowest bits."""
    rows, cols = shape

    def apart(array):
        array = array.reshape(rows, -1)
        return array if bits == 8 else np.stack([array & 15, array >> 4], -1).reshape(rows, -1)

    scales = scales.reshape(rows, -1)
    middle = np.full(scales.shape, 1 << (bits - 1))
    zeros = middle if zeros is None else apart(zeros)[:, :scales.shape[1]].astype(np.int64)
    return zeros_or_centre(bits, apart(data).astype(np.int64).reshape(rows, cols), scales, zeros)


QUANTIZED = "_quantized"  # onnxruntime's quantize_dynamic names its tensors so


def dynamic_matrix(name, arrays, turned):
    """One scale and zero point for all of it or for each output; MatMulInteger has outputs last."""
    stem = name.removesuffix(QUANTIZED)
    codes = arrays[name].T if turned else arrays[name]
    scales, zeros = (arrays[stem + end].reshape(-1, 1) for end in ("_scale", "_zero_point"))
    whole = np.ones((len(codes), 1), np.int64)
    matrix = coded(8, codes, scales * whole, zeros * whole if zeros.any() else None)
    return matrix if len(scales) > 1 else dataclasses.replace(
        matrix, coding=matrix.coding.replace("by row", "by matrix"))


def onnx_matrix(node, arrays):
    """Of a node that multiplies with a matrix or takes rows of one; else None."""
    inputs = [arrays.get(name) for name in node.input]
    attributes = {item.name: item.i for item in node.attribute}
    if node.op_type == "MatMulNBits":
        return onnx_codes(inputs[1], inputs[2], inputs[3] if len(inputs) > 3 else None,
                          attributes["bits"], (attributes["N"], attributes["K"]))
    if node.op_type == "GatherBlockQuantized":
        rows, groups = inputs[2].shape
        return onnx_codes(inputs[0], inputs[2], inputs[3] if len(inputs) > 3 else None,
                          attributes["bits"], (rows, groups * attributes["block_size"]))
    if node.op_type == "MatMulInteger":
        return dynamic_matrix(node.input[1], arrays, True)
    if node.op_type == "Gather" and node.input[0].endswith(QUANTIZED):
        return dynamic_matrix(node.input[0], arrays, False)
    if node.op_type == "MatMul" and inputs[1] is not None:
        return floats(inputs[1].T, ONNX_FLOATS[inputs[1].dtype.name])
    if node.op_type == "Gather" and inputs[0] is not None and inputs[0].ndim == 2:
        return floats(inputs[0], ONNX_FLOATS[inputs[0].dtype.name])
    return None


def onnx_folder(folder):
    nodes, arrays = graph_of(folder / "model.onnx")
    for node in nodes:
        # The embedding's codes are given two dimensions, fp16 weights are widened.
        if node.op_type in ("Reshape", "Cast") and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    found = {}
    for node in nodes:
        matrix = onnx_matrix(node, arrays)
        if matrix:
            stem = node.name.removeprefix("/").rpartition("/")[0].replace("/", ".")
            found[stem.removeprefix("model.")] = matrix
    return placed(found)


QNN_NAMES = {"embedding": "embed_tokens", "head": "lm_head", "query": "attn.q_proj", "key": "attn.k_proj",
             "value": "attn.v_proj", "attn_out": "attn.o_proj", "gate": "mlp.gate_proj",
             "up": "mlp.up_proj", "ffn_out": "mlp.down_proj"}


def qnn_folder(folder):
    """All of 8 bits with one scale a row, in the arguments of DequantizeLinear."""
    parts = {}
    for name in ("embeddings", "context", "lm_head_context"):
        _, arrays = graph_of(folder / f"{name}.onnx")
        for stem in (name.removesuffix("/codes") for name in arrays if name.endswith("/codes")):
            if arrays[f"{stem}/codes"].ndim == 2:
                assert not arrays.get(f"{stem}/zero", np.zeros(1)).any()
                layer, _, part = stem.removesuffix("/matrix").rpartition(".")
                parts[f"{layer}.{QNN_NAMES[part]}".lstrip(".")] = \
                    coded(8, arrays[f"{stem}/codes"], arrays[f"{stem}/scale"])
    return placed(parts)


# ---- OpenVINO ----

def constant(node):
    """The numbers of a constant, those of 4 bits taken apart."""
    kind, data = node.get_element_type().to_string(), node.data
    shape = list(node.get_output_shape(0))
    if kind not in ("u4", "i4"):
        return data
    data = data.view(np.uint8)
    found = np.stack([data & 15, data >> 4], -1).ravel()[:int(np.prod(shape))].astype(np.int64)
    return (found if kind == "u4" else (found ^ 8) - 8).reshape(shape)


OPENVINO_BITS = {"u4": 4, "i4": 4, "u8": 8, "i8": 8}
OPENVINO_FLOATS = {"f16": "fp16", "f32": "fp32"}


def openvino_matrix(node):
    """What stands behind a matrix's constant, as nncf builds it: Convert, Subtract, Multiply, ..."""
    kind = node.get_element_type().to_string()
    if kind in OPENVINO_FLOATS:
        values = constant(node)
        return floats(values.reshape(-1, values.shape[-1]), OPENVINO_FLOATS[kind])
    zeros = scales = None
    at = node
    while scales is None:
        (target,) = at.output(0).get_target_inputs()
        at = target.get_node()
        if at.get_type_name() == "Subtract":
            of_zero = at.input_value(1).get_node()
            is_code = of_zero.get_type_name() == "Convert"
            zeros = constant(of_zero.input_value(0).get_node() if is_code else of_zero)
        elif at.get_type_name() == "Multiply":
            scales = constant(at.input_value(1).get_node())
        else:
            assert at.get_type_name() == "Convert", at.get_type_name()
    (target,) = at.output(0).get_target_inputs()
    # Where there are groups, they are joined behind that.
    joined = target.get_node() if target.get_node().get_type_name() == "Reshape" else at
    cols = joined.get_output_shape(0)[-1]
    codes = constant(node).astype(np.int64).reshape(-1, cols)
    scales = scales.reshape(len(codes), -1)
    return coded(OPENVINO_BITS[kind], codes, scales, None if zeros is None else zeros.reshape(scales.shape))


def openvino_folder(folder):
    found = {}
    model = openvino.Core().read_model(folder / "openvino_model.xml")
    for node in model.get_ops():
        name = node.get_friendly_name()
        named = re.fullmatch(r"self\.(?:model\.)?((?:layers|embed_tokens|lm_head)[\w.]*)", name)
        if node.get_type_name() == "Constant" and named and not re.search(r"norm|\.bias$", name):
            found[named[1].removesuffix(".weight")] = openvino_matrix(node)
    return placed(found)


READERS = {"gguf": gguf, "onnx": onnx_folder, "qnn": qnn_folder, "openvino": openvino_folder,
           "safetensors": hugging_face, "mlx": hugging_face, "gptq": hugging_face,
           "awq": hugging_face, "compressed-tensors": hugging_face}


def read(form, path):
    """All matrices of a model's file or folder of a format, by name."""
    return READERS[form](pathlib.Path(path))
