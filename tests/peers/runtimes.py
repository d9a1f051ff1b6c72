"""The runtimes of other ecosystems, one class each: what they make of a file or folder.

Each has
    name, packages        for messages and tables
    is_long_only          whether LongRoPE's short factors are not known
    unknown               architectures that it has not, or computes as another function: not run
    rounded               architectures in which it rounds in fp32 too
    Runtime(path, source) opens it; `source` says what ends a text, and LongRoPE's original context
    logits(ids)           an array [ids, vocabulary]: what follows each of the ids
    greedy(ids, steps)    how the runtime's own generation goes on, the ending token left out
    close()
Where a runtime may choose how it computes, all is fp32; so what it rounds is what its kernels for
codes round.
"""

import importlib.metadata
import json

import numpy as np


def version(*packages):
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def _without_end(tokens, ends):
    """The tokens up to the one that ends the text."""
    at = [i for i, token in enumerate(tokens) if token in ends]
    return tokens[:at[0]] if at else tokens


class LlamaCpp:
    """GGUF. Which LongRoPE factors it takes depends on the context that it is opened with."""
    name = "llama.cpp"
    packages = ("llama-cpp-python",)
    is_long_only = False
    # Of phimoe its norms keep the mean, and the two shares add up to 1 (test_llama_cpp.py); phi2's GELU
    # it looks up in a table of fp16.
    unknown = ("phimoe",)
    rounded = ("phi2",)

    def __init__(self, path, source):
        import llama_cpp
        self.library = llama_cpp
        self.path = path
        self.source = source
        self.ends = source.ends
        self.opened = {}

    def _model(self, length):
        is_short = self.source.original and length <= self.source.original
        context = self.source.original if is_short else 1024
        if context not in self.opened:
            self.opened[context] = self.library.Llama(
                str(self.path), n_ctx=context, n_batch=context, n_threads=1, n_threads_batch=1,
                logits_all=True, verbose=False, type_k=self.library.GGML_TYPE_F32,
                type_v=self.library.GGML_TYPE_F32)
        return self.opened[context]

    def logits(self, ids):
        model = self._model(len(ids))
        model.reset()
        model.eval(ids)
        return np.array(model.scores[:len(ids)])

    def greedy(self, ids, steps):
        model = self._model(len(ids) + steps)
        model.reset()
        found = []
        for token in model.generate(ids, temp=0.0, repeat_penalty=1.0):
            if len(found) == steps or token in self.ends:
                break
            found.append(int(token))
        return found

    def close(self):
        for model in self.opened.values():
            model.close()


class OnnxGenAI:
    """A folder of ONNX Runtime GenAI; logits from onnxruntime, which it runs the graph with."""
    name = "ONNX Runtime GenAI"
    packages = ("onnxruntime-genai", "onnxruntime")
    is_long_only = False
    unknown = rounded = ()

    def __init__(self, path, source):
        import onnxruntime
        import onnxruntime_genai
        self.library = onnxruntime_genai
        self.model = onnxruntime_genai.Model(str(path))
        decoder = json.loads((path / "genai_config.json").read_text())["model"]["decoder"]
        self.past = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
        self.session = onnxruntime.InferenceSession(str(path / "model.onnx"),
                                                    providers=["CPUExecutionProvider"])

    def logits(self, ids):
        feed = {"input_ids": np.array([ids], np.int64),
                "attention_mask": np.ones((1, len(ids)), np.int64)}
        for value in self.session.get_inputs():
            if value.name.startswith("past_key_values"):
                kind = np.float16 if value.type == "tensor(float16)" else np.float32
                feed[value.name] = np.zeros(self.past, kind)
            elif value.name == "position_ids":
                feed[value.name] = np.arange(len(ids), dtype=np.int64)[None]
        return self.session.run(["logits"], feed)[0][0].astype(np.float32)

    def greedy(self, ids, steps):
        params = self.library.GeneratorParams(self.model)
        params.set_search_options(max_length=len(ids) + steps, do_sample=False)
        generator = self.library.Generator(self.model, params)
        generator.append_tokens(np.array(ids, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)][len(ids):]

    def close(self):
        del self.session, self.model


class OpenVino:
    """A folder of OpenVINO's IR: logits from openvino, tokens from the pipeline of openvino-genai."""
    name = "OpenVINO GenAI"
    packages = ("openvino-genai",)
    is_long_only = False
    unknown = rounded = ()

    def __init__(self, path, source):
        import openvino
        import openvino_genai
        self.library = openvino_genai
        options = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        self.request = openvino.Core().compile_model(path / "openvino_model.xml", "CPU",
                                                     options).create_infer_request()
        self.pipeline = openvino_genai.LLMPipeline(str(path), "CPU", ATTENTION_BACKEND="SDPA",
                                                   **options)
        self.ends = source.ends
        self.openvino = openvino

    def logits(self, ids):
        self.request.reset_state()
        self.request.infer({"input_ids": np.array([ids], np.int64),
                            "attention_mask": np.ones((1, len(ids)), np.int64),
                            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
                            "beam_idx": np.zeros(1, np.int32)})
        return self.request.get_tensor("logits").data[0].astype(np.float32)

    def greedy(self, ids, steps):
        config = self.library.GenerationConfig()
        config.max_new_tokens = steps
        config.do_sample = False
        config.stop_token_ids = set(self.ends)
        config.set_eos_token_id(self.ends[0])
        given = self.library.TokenizedInputs(
            self.openvino.Tensor(np.array([ids], np.int64)),
            self.openvino.Tensor(np.ones((1, len(ids)), np.int64)))
        found = self.pipeline.generate(given, config).tokens[0]
        return _without_end([int(token) for token in found], self.ends)

    def close(self):
        del self.request, self.pipeline


class MlxLm:
    """A folder of MLX, by mlx-lm on the CPU. Of LongRoPE it has the long factors only."""
    name = "mlx-lm"
    is_long_only = True
    packages = ("mlx-lm", "mlx")
    # Of phimoe the two shares add up to 1 (test_mlx.py).
    unknown = ("phimoe",)
    rounded = ()

    def __init__(self, path, source):
        import mlx.core as mx
        import mlx_lm
        mx.set_default_device(mx.cpu)
        self.mx = mx
        self.model = mlx_lm.load(str(path))[0]
        # Scales and floats: its kernels for fp16 on CPUs are a hundred times slower.
        self.model.set_dtype(mx.float32)
        self.ends = source.ends

    def logits(self, ids):
        found = self.model(self.mx.array([ids]))
        return np.array(found[0].astype(self.mx.float32))

    def greedy(self, ids, steps):
        from mlx_lm.generate import generate_step
        found = []
        for token, _ in generate_step(self.mx.array(ids), self.model, max_tokens=steps):
            found.append(int(token))
        return _without_end(found, self.ends)

    def close(self):
        del self.model


class Transformers:
    """A folder of Hugging Face: floats, or codes of compressed-tensors, which it multiplies out."""
    name = "transformers"
    packages = ("transformers",)
    is_long_only = False
    unknown = rounded = ()

    def __init__(self, path, source):
        import torch
        import transformers
        self.torch = torch
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager", **self.options()).eval()
        self.ends = source.ends

    def options(self):
        return {}

    def logits(self, ids):
        with self.torch.no_grad():
            return self.model(self.torch.tensor([ids]), use_cache=False).logits[0].float().numpy()

    def greedy(self, ids, steps):
        given = self.torch.tensor([ids])
        found = self.model.generate(given, attention_mask=self.torch.ones_like(given),
                                    max_new_tokens=steps, do_sample=False)
        return _without_end(found[0, len(ids):].tolist(), self.ends)

    def close(self):
        del self.model


class CompressedTensors(Transformers):
    packages = ("transformers", "compressed-tensors")
    # All of phimoe's experts are one parameter, for which it looks for floats.
    unknown = ("phimoe",)


class AutoRound(Transformers):
    """A GPTQ folder, by transformers with auto-round's kernels, which run on CPUs."""
    name = "transformers with auto-round"
    packages = ("auto-round",)
    # Of phimoe's experts it looks for codes under names of its own, which no published model has.
    unknown = ("phimoe",)

    def __init__(self, path, source):
        # It takes from transformers, for the rest of the process, what puts experts together.
        from transformers import conversion_mapping
        names = conversion_mapping.get_checkpoint_conversion_mapping(source.architecture)
        super().__init__(path, source)
        if names is not None:
            conversion_mapping.register_checkpoint_conversion_mapping(source.architecture, names,
                                                                      overwrite=True)

    def options(self):
        import transformers
        return {"quantization_config": transformers.AutoRoundConfig(backend="torch")}
