#!/usr/bin/env python3
"""ONNX Runtime GenAI with a model that its own builder made; its CPU provider as it comes, but for
the number of threads."""

import json
import time

import common
import numpy as np
import onnxruntime_genai as og


class OnnxRuntime:
    def __init__(self, arguments):
        self.context = arguments.context
        config = og.Config(arguments.model)
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {
            "intra_op_num_threads": arguments.threads}}}}))
        self.model = og.Model(config)

    def generate(self, prompts, steps):
        """Every generator has a cache of its own; it is as long as it has to be."""
        params = og.GeneratorParams(self.model)
        length = len(prompts[0]) + steps + 1
        params.set_search_options(batch_size=len(prompts), max_length=length, min_length=length,
                                  do_sample=False)
        generator = og.Generator(self.model, params)
        began = time.perf_counter()
        generator.append_tokens(np.array(prompts, np.int32))
        generator.generate_next_token()
        first_s = time.perf_counter() - began
        steps_s = []
        for _ in range(steps):
            began = time.perf_counter()
            generator.generate_next_token()
            steps_s.append(time.perf_counter() - began)
        assert generator.token_count() == length, "it stopped early"
        return first_s, steps_s

    @staticmethod
    def about():
        return {"version": f"onnxruntime-genai {common.version('onnxruntime-genai')}, "
                           f"onnxruntime {common.version('onnxruntime')}"}


if __name__ == "__main__":
    given = common.parse()
    common.measure(given, OnnxRuntime(given))
