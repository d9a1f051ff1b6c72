"""What the adapters share: their command line, the prompts, the clock, memory, the line of JSON.

An adapter is a program that drives one engine, in a process of its own, through one measure:

    start       from no process to the first token of an answer to a short prompt
    prefill-N   seconds until N tokens are read and the first new one is there
    decode      the steps that follow a prompt of PROMPT_TOKENS
    decode-xB   the same for B sequences at once

It prints one line of JSON. Prompts are random ids and no two are alike, so that no engine can take
one from a cache.
"""

import argparse
import importlib.metadata
import json
import os
import random
import statistics
import sys
import time

PROMPT_TOKENS = 64
START_TOKENS = 6
# For those that take text: as long, with most tokenizers.
START_PROMPT = "Once upon a time there was"
WARM_UP_TOKENS = 32
WARM_UP_STEPS = 2


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--measure", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=4608)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--ids-max", type=int, default=1000,
                        help="prompts are made of ids up to this one")
    parser.add_argument("--phid", help="the binary")
    arguments = parser.parse_args()
    kind, _, size = arguments.measure.partition("-")
    lengths = {"start": START_TOKENS, "prefill": int(size) if kind == "prefill" else 0}
    arguments.prompt_tokens = lengths.get(kind, PROMPT_TOKENS)
    arguments.batch = int(size[1:]) if kind == "decode" and size else 1
    arguments.kind = kind
    return arguments


class Prompts:
    """Random ids; control tokens, which lie at the beginning of the vocabulary, are left out."""

    def __init__(self, ids_max):
        self.random = random.Random(os.getpid() ^ time.time_ns())
        self.ids_max = ids_max

    def next(self, count):
        return [self.random.randint(300, self.ids_max) for _ in range(count)]


def since_start_s():
    """How long ago this process was made; the kernel notes it in ticks since it booted."""
    with open("/proc/self/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def memory_mib(pid="self"):
    """Resident memory; pss counts a page that several processes share in parts."""
    found = {}
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(("VmRSS", "VmHWM", "RssAnon", "RssFile")):
                key, value = line.split(":")
                found[key] = int(value.split()[0]) / 1024
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        pss = next(line for line in rollup if line.startswith("Pss:"))
    return {"rss": found["VmRSS"], "peak": found["VmHWM"], "anonymous": found["RssAnon"],
            "file": found["RssFile"], "pss": int(pss.split()[1]) / 1024}


class Others:
    """What share of the CPUs' time other programs took since this was made."""

    def __init__(self):
        self.began = time.monotonic()
        self.busy_s, self.own_s = self.read()

    @staticmethod
    def read():
        with open("/proc/stat", encoding="ascii") as text:
            user, nice, system, idle, waiting, *interrupts = text.readline().split()[1:8]
        del idle, waiting
        ticks = sum(map(int, (user, nice, system, *interrupts)))
        return ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])

    def share(self):
        busy_s, own_s = self.read()
        others_s = (busy_s - self.busy_s) - (own_s - self.own_s)
        return max(0.0, others_s / ((time.monotonic() - self.began) * os.cpu_count()))


OTHERS = Others()


def emit(arguments, **found):
    """The adapter's one line."""
    print(json.dumps({"measure": arguments.measure, "threads": arguments.threads, **found,
                      "others_share": OTHERS.share()}))
    sys.stdout.flush()


def version(package):
    return importlib.metadata.version(package)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def speeds(arguments, first_s, steps_s):
    """Tokens a second, from the seconds to the first token and those of each later step."""
    if arguments.kind == "prefill":
        return {"tokens_per_s": arguments.prompt_tokens / first_s, "seconds": first_s}
    middle = statistics.median(steps_s)
    return {"tokens_per_s": arguments.batch / middle, "steps": len(steps_s), "step_s": middle,
            "step_s_p10": percentile(steps_s, 0.1), "step_s_p90": percentile(steps_s, 0.9)}


def measure(arguments, engine):
    """Drives `engine`, whose generate(prompts, steps) does `steps` steps after the prompts and
    returns the seconds to the first token and a list with those of each step."""
    loaded_s = since_start_s()
    loaded = memory_mib()
    prompts = Prompts(arguments.ids_max)
    if arguments.kind == "start":
        engine.generate([prompts.next(arguments.prompt_tokens)], 0)
        found = {"start_s": since_start_s(), "loaded_s": loaded_s}
    else:
        warm_up = [prompts.next(WARM_UP_TOKENS) for _ in range(arguments.batch)]
        engine.generate(warm_up, WARM_UP_STEPS)
        steps = 0 if arguments.kind == "prefill" else arguments.steps
        found = speeds(arguments, *engine.generate(
            [prompts.next(arguments.prompt_tokens) for _ in range(arguments.batch)], steps))
    emit(arguments, **found, memory_mib={"loaded": loaded, "after": memory_mib()},
         **engine.about())
