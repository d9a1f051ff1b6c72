#!/usr/bin/env python3
"""OpenVINO GenAI with a model that optimum-intel made; its CPU plugin as it comes, but for the
number of threads: it picks bfloat16 arithmetic where the CPU has it, quantizes activations on the
fly and keeps the KV cache in 8 bits."""

import time

import common
import numpy as np
import openvino
import openvino_genai


class Steps(openvino_genai.StreamerBase):
    """Notes when tokens come; for one sequence only."""

    def __init__(self):
        super().__init__()
        self.times = []

    def write(self, token):
        self.times += [time.perf_counter()] * (len(token) if isinstance(token, list) else 1)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self):
        pass


class OpenVino:
    def __init__(self, arguments):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = max(arguments.context, 256)
        self.pipeline = openvino_genai.LLMPipeline(
            arguments.model, "CPU", INFERENCE_NUM_THREADS=arguments.threads,
            scheduler_config=scheduler)

    def generate(self, prompts, steps):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = steps + 1
        config.ignore_eos = True
        config.do_sample = False
        ids = openvino.Tensor(np.array(prompts, np.int64))
        mask = openvino.Tensor(np.ones((len(prompts), len(prompts[0])), np.int64))
        inputs = openvino_genai.TokenizedInputs(ids, mask)
        if len(prompts) == 1:
            steps_seen = Steps()
            began = time.perf_counter()
            self.pipeline.generate(inputs, config, steps_seen)
            times = steps_seen.times
            assert len(times) == steps + 1, f"{len(times)} tokens instead of {steps + 1}"
            return times[0] - began, [b - a for a, b in zip(times, times[1:])]
        # The pipeline streams no batch; its own record has the time of each step.
        result = self.pipeline.generate(inputs, config)
        raw = result.perf_metrics.raw_metrics
        assert all(len(tokens) == steps + 1 for tokens in result.tokens), "it stopped early"
        steps_s = [float(value) / 1e6 for value in raw.token_infer_durations]
        return steps_s[0], steps_s[1:]

    @staticmethod
    def about():
        return {"version": f"openvino-genai {common.version('openvino-genai')}"}


if __name__ == "__main__":
    given = common.parse()
    common.measure(given, OpenVino(given))
