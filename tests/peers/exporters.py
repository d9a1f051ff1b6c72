"""The exporters of other ecosystems: each writes a model, from a folder in fp16, as its own runtime
wants it. Weights are rounded to the nearest code wherever an exporter can be told so.
"""

import contextlib
import ctypes
import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest.mock

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
             "generation_config.json")


def _with_tokenizer(source, path):
    """What exporters of weights alone leave out."""
    for name in TOKENIZER:
        if (source.path / name).exists() and not (path / name).exists():
            shutil.copy(source.path / name, path / name)


def llama_quantize(source, path, fp32, file_type, ends_type=None):
    """llama.cpp's, from a GGUF in FP32: the type that embedding and head have where all of the
    layers' matrices have one type; without, llama.cpp's mix."""
    import llama_cpp
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = 2
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{file_type}")
    if ends_type:
        params.pure = True
        params.output_tensor_type = getattr(llama_cpp, f"GGML_TYPE_{ends_type}")
        params.token_embedding_type = params.output_tensor_type
    failed = llama_cpp.llama_model_quantize(str(fp32).encode(), str(path).encode(),
                                            ctypes.byref(params))
    assert failed == 0


class _Process:
    """One that exports models in turn (export_process.py)."""

    def __init__(self):
        self.process = None

    def run(self, *call):
        """Calls one of that file's functions."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, pathlib.Path(__file__).with_name("export_process.py")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdin.write(json.dumps(list(map(str, call))) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"{call[1]} ended its process"
        wrong = json.loads(answer)
        assert wrong is None, wrong[-2000:]

    def close(self):
        if self.process:
            self.process.communicate()
            self.process = None


_builder, _optimum = _Process(), _Process()


def close():
    """Ends the processes in which exporters run."""
    _builder.close()
    _optimum.close()


def onnx_builder(source, path, precision, *options):
    """onnxruntime-genai's, for the CPU."""
    _builder.run("module", "onnxruntime_genai.models.builder", "-m", "none", "-i", source.path, "-o", path,
                 "-p", precision, "-e", "cpu", "-c", path.parent / "cache",
                 *(["--extra_options", *options] if options else []))


def optimum_intel(source, path, *options):
    """optimum-intel's, with nncf where weights become codes."""
    _optimum.run("module", "optimum.commands.optimum_cli", "export", "openvino", "--model", source.path,
                 "--task", "text-generation-with-past", "--disable-convert-tokenizer", "--weight-format",
                 *options, path)
    _with_tokenizer(source, path)


def optimum_intel_class(source, path):
    """optimum-intel's too, by the class that loads models: in fp32."""
    _optimum.run("optimum_intel_class", source.path, path)
    _with_tokenizer(source, path)


def mlx_convert(source, path, bits=None, group=None, dtype=None):
    """mlx-lm's."""
    import mlx_lm
    with contextlib.redirect_stdout(None):
        mlx_lm.convert(str(source.path), str(path), quantize=bits is not None, q_bits=bits,
                       q_group_size=group, dtype=dtype)


def save_pretrained(source, path, dtype, original=True):
    """transformers', in several files; under the names of the published models, or of its classes."""
    import torch
    import transformers
    transformers.AutoModelForCausalLM.from_pretrained(
        source.path, dtype=getattr(torch, dtype)).save_pretrained(path, max_shard_size="1MB",
                                                                  save_original_format=original)
    _with_tokenizer(source, path)


def auto_round(source, path, form, bits, group, sym):
    """auto-round's export in another ecosystem's form."""
    import auto_round
    made = path.parent / "auto_round"
    # It collects garbage again and again, which need not look at all that others have imported.
    gc.freeze()
    # Without, it does not find phimoe's experts when it comes to them.
    with unittest.mock.patch.dict(os.environ, {"AR_DISABLE_META_LOAD": "1"}):
        rounder = auto_round.AutoRound(str(source.path), scheme=f"W{bits}A16", group_size=group, sym=sym,
                                       iters=0, device_map="cpu", disable_opt_rtn=True)
        rounder.quantize_and_save(str(made), format=form)
    [config] = made.rglob("config.json")
    shutil.move(config.parent, path)
    _with_tokenizer(source, path)


def compressed_tensors(source, path, bits, group, sym):
    """compressed-tensors' own: its observers' scales and its packing."""
    import torch
    import transformers
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (QuantizationArgs, QuantizationConfig,
                                                 QuantizationScheme, QuantizationStatus,
                                                 apply_quantization_config)
    from compressed_tensors.quantization.utils import calculate_qparams
    model = transformers.AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float16)
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=sym, strategy="group", group_size=group)
    config = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=args)},
        ignore=["lm_head"], format="pack-quantized",
        quantization_status=QuantizationStatus.COMPRESSED)
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "quantization_scheme") and module.quantization_scheme:
            groups = module.weight.data.float().unflatten(-1, (-1, group))
            scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
            module.weight_scale.data.copy_(scale)
            if not sym:
                module.weight_zero_point.data.copy_(zero)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(path)
    compressor.update_config(str(path))
    _with_tokenizer(source, path)
