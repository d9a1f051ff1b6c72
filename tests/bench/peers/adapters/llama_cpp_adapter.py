#!/usr/bin/env python3
"""llama.cpp, through the C interface that llama-cpp-python wraps; all settings as they come, but
for the number of threads and the context."""

import ctypes
import time

import common
import llama_cpp
import numpy as np


class LlamaCpp:
    def __init__(self, arguments):
        # The library tells on standard error what it does; nobody reads that.
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
        llama_cpp.llama_log_set(self.quiet, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            arguments.model.encode(), llama_cpp.llama_model_default_params())
        assert self.model, f"llama.cpp cannot load {arguments.model}"
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = arguments.context
        params.n_threads = params.n_threads_batch = arguments.threads
        params.n_seq_max = arguments.batch
        # One cache that all sequences share, so that the context is not cut into equal parts.
        params.kv_unified = True
        self.n_batch = params.n_batch
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        assert self.context, "llama.cpp cannot make a context"
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(self.n_batch, 0, arguments.batch)

    def decode(self, entries):
        """entries: (token, position, sequence, whether its logits are wanted)."""
        for i, (token, position, sequence, wanted) in enumerate(entries):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        self.batch.n_tokens = len(entries)
        status = llama_cpp.llama_decode(self.context, self.batch)
        assert status == 0, f"llama_decode says {status}"

    def best(self, index):
        logits = llama_cpp.llama_get_logits_ith(self.context, index)
        values = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * self.n_vocab)).contents
        return int(np.frombuffer(values, np.float32).argmax())

    def generate(self, prompts, steps):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        entries = [(token, position, sequence, position == len(prompt) - 1)
                   for sequence, prompt in enumerate(prompts)
                   for position, token in enumerate(prompt)]
        began = time.perf_counter()
        tokens = []
        for begin in range(0, len(entries), self.n_batch):
            part = entries[begin:begin + self.n_batch]
            self.decode(part)
            tokens += [self.best(i) for i, entry in enumerate(part) if entry[3]]
        first_s = time.perf_counter() - began
        steps_s = []
        for step in range(steps):
            began = time.perf_counter()
            self.decode([(token, len(prompts[sequence]) + step, sequence, True)
                         for sequence, token in enumerate(tokens)])
            tokens = [self.best(i) for i in range(len(tokens))]
            steps_s.append(time.perf_counter() - began)
        return first_s, steps_s

    @staticmethod
    def about():
        return {"version": "llama-cpp-python " + common.version("llama-cpp-python"),
                "system": llama_cpp.llama_print_system_info().decode()}


if __name__ == "__main__":
    given = common.parse()
    common.measure(given, LlamaCpp(given))
