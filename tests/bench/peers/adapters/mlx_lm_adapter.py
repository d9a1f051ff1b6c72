#!/usr/bin/env python3
"""MLX's CPU backend, through mlx-lm's model and cache. It reads prompts in pieces of 2048 tokens,
as mlx-lm's own generate does."""

import pathlib
import time

import common
import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

PREFILL_STEP = 2048


class Mlx:
    def __init__(self, arguments):
        self.model, _ = load_model(pathlib.Path(arguments.model))
        mx.eval(self.model.parameters())

    def generate(self, prompts, steps):
        cache = make_prompt_cache(self.model)
        tokens = mx.array(prompts)
        began = time.perf_counter()
        while tokens.shape[1] > PREFILL_STEP:
            self.model(tokens[:, :PREFILL_STEP], cache=cache)
            mx.eval([part.state for part in cache])
            tokens = tokens[:, PREFILL_STEP:]
        # Only the last position's logits are wanted, but mlx-lm's models give all of the piece; it
        # therefore leaves one token for a step of its own, and so do we.
        if tokens.shape[1] > 1:
            self.model(tokens[:, :-1], cache=cache)
            mx.eval([part.state for part in cache])
        tokens = self.best(tokens[:, -1:], cache)
        first_s = time.perf_counter() - began
        steps_s = []
        for _ in range(steps):
            began = time.perf_counter()
            tokens = self.best(tokens, cache)
            steps_s.append(time.perf_counter() - began)
        return first_s, steps_s

    def best(self, tokens, cache):
        tokens = mx.argmax(self.model(tokens, cache=cache)[:, -1, :], axis=-1, keepdims=True)
        mx.eval(tokens)
        return tokens

    @staticmethod
    def about():
        return {"version": f"mlx {common.version('mlx')}, mlx-lm {common.version('mlx-lm')}",
                "threads_note": "as many as MLX takes"}


if __name__ == "__main__":
    given = common.parse()
    common.measure(given, Mlx(given))
