#!/usr/bin/env python3
"""llama.cpp's quantizer: llama_quantize.py SOURCE OUT FILE_TYPE"""

import ctypes
import sys

import llama_cpp


def main():
    source, out, file_type = sys.argv[1:]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(file_type)
    return llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params))


if __name__ == "__main__":
    sys.exit(main())
