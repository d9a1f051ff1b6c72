"""ggml's own decoders and encoders, and its GGUF reader, through the library that llama-cpp-python
brings along."""

import ctypes
import pathlib

import llama_cpp
import numpy as np

_folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
_base = ctypes.CDLL(str(_folder / "libggml-base.so"))


class _InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


def _declare(name, result, *arguments):
    function = getattr(_base, name)
    function.restype = result
    function.argtypes = arguments
    return function


_open = _declare("gguf_init_from_file", ctypes.c_void_p, ctypes.c_char_p, _InitParams)
_free = _declare("gguf_free", None, ctypes.c_void_p)
_count = _declare("gguf_get_n_tensors", ctypes.c_int64, ctypes.c_void_p)
_name = _declare("gguf_get_tensor_name", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64)
_type = _declare("gguf_get_tensor_type", ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_size = _declare("gguf_get_tensor_size", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64)
_offset = _declare("gguf_get_tensor_offset", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64)
_data = _declare("gguf_get_data_offset", ctypes.c_size_t, ctypes.c_void_p)
_type_name = _declare("ggml_type_name", ctypes.c_char_p, ctypes.c_int)
_tensor = _declare("ggml_get_tensor", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_elements = _declare("ggml_nelements", ctypes.c_int64, ctypes.c_void_p)
_rows = _declare("ggml_nrows", ctypes.c_int64, ctypes.c_void_p)
_free_context = _declare("ggml_free", None, ctypes.c_void_p)

# ggml's name of each type, and the elements and bytes of its blocks.
BLOCKS = {
    "q8_0": (32, 34), "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24),
    "q2_K": (256, 84), "q3_K": (256, 110), "q4_K": (256, 144), "q5_K": (256, 176),
    "q6_K": (256, 210), "iq4_nl": (32, 18), "iq4_xs": (256, 136), "mxfp4": (32, 17),
}


def decoded(kind, raw):
    """What ggml says the blocks are, as floats."""
    if kind == "f32":
        return np.frombuffer(raw, np.float32)
    if kind == "f16":
        return np.frombuffer(raw, np.float16).astype(np.float32)
    if kind == "bf16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    elements, size = BLOCKS[kind]
    out = np.empty(len(raw) // size * elements, np.float32)
    function = _declare(f"dequantize_row_{kind}", None, ctypes.c_char_p, ctypes.c_void_p,
                        ctypes.c_int64)
    function(raw, out.ctypes.data, out.size)
    return out


_quantize = _declare("ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p,
                     ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
                     ctypes.c_void_p)


def encoded(kind, values, cols):
    """What llama-quantize makes of rows of `cols` values, without an importance matrix."""
    values = np.ascontiguousarray(values, np.float32)
    elements, size = BLOCKS[kind]
    out = np.empty(values.size // elements * size, np.uint8)
    number = getattr(llama_cpp, f"GGML_TYPE_{kind.upper()}")
    _quantize(number, values.ctypes.data, out.ctypes.data, 0, values.size // cols, cols, None)
    return out.tobytes()


def tensors(path):
    """Of a GGUF file: name -> (type, bytes)."""
    gguf = _open(str(path).encode(), _InitParams(True, None))
    assert gguf, f"ggml cannot read {path}"
    content = pathlib.Path(path).read_bytes()
    found = {}
    for i in range(_count(gguf)):
        at = _data(gguf) + _offset(gguf, i)
        kind = _type_name(_type(gguf, i)).decode()
        found[_name(gguf, i).decode()] = (kind, content[at:at + _size(gguf, i)])
    _free(gguf)
    return found


def shapes(path):
    """Of a GGUF file: name -> (rows, columns)."""
    context = ctypes.c_void_p()
    gguf = _open(str(path).encode(), _InitParams(True, ctypes.cast(ctypes.pointer(context),
                                                                   ctypes.c_void_p)))
    assert gguf, f"ggml cannot read {path}"
    found = {}
    for i in range(_count(gguf)):
        tensor = _tensor(context, _name(gguf, i))
        rows = _rows(tensor)
        found[_name(gguf, i).decode()] = (rows, _elements(tensor) // rows)
    _free_context(context)
    _free(gguf)
    return found
