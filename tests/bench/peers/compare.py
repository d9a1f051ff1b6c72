#!/usr/bin/env python3
"""Runs phid and other engines in turn on the same weights and writes what was measured as JSON.

Each measure of each engine is a process of its own. Within a round the engines take turns at each
measure, so that what changes on the machine meanwhile meets all of them. What the results already
hold is not run again, so that a broken run goes on where it stopped.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from catalogue import ADAPTERS, ENGINES, ENTRIES, HERE, PRECISIONS, VENVS, Models, python_of

ROOT = HERE.parents[2]
MEASURES = ["start", "decode", "prefill-512", "decode-x8", "prefill-4096"]
CACHE_READ_BYTES = 1 << 24


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(ENGINES), help="engines, with commas between")
    parser.add_argument("--precision", default=",".join(PRECISIONS))
    parser.add_argument("--measures", default=",".join(MEASURES))
    parser.add_argument("--shape", default="phi-3-mini", help="phi-3-mini or tiny")
    parser.add_argument("--layers", type=int, default=0, help="default: all; FP32: 8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=32, help="of decode")
    parser.add_argument("--limit", type=int, default=300, help="seconds that a process may take")
    parser.add_argument("--out", type=pathlib.Path, default=None, help="the JSON file")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--drop-models", action="store_true",
                        help="delete a precision's models when all of it is measured")
    parser.add_argument("--wrap", default="", help="a command before each measured process")
    arguments = parser.parse_args()
    for name, given, known in (("--only", arguments.only, ENGINES),
                               ("--precision", arguments.precision, PRECISIONS)):
        unknown = set(given.split(",")) - set(known)
        if unknown:
            parser.error(f"{name} knows {', '.join(known)}; not {', '.join(sorted(unknown))}")
    return arguments


def output_of(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as text:
        for line in text:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


class Results:
    """The file of results; written after each run."""

    def __init__(self, path, fresh, head):
        self.path = path
        self.data = {**head, "runs": []}
        if path.exists() and not fresh:
            self.data = json.loads(path.read_text())
            if self.data["commit"] != head["commit"]:
                sys.exit(f"{path} is of commit {self.data['commit']}, this is {head['commit']}: "
                         "--fresh begins anew, --out names another file")
        # What failed before is tried again.
        self.data["runs"] = [run for run in self.data["runs"] if "failed" not in run]
        self.done = {self.key(run) for run in self.data["runs"]}

    @staticmethod
    def key(run):
        return tuple(run[name] for name in ("shape", "layers", "threads", "precision", "engine",
                                            "variant", "measure", "round"))

    def add(self, run):
        self.data["runs"].append(run)
        self.done.add(self.key(run))
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        partial.rename(self.path)


def read_into_cache(path):
    """So that every engine starts with its files in the page cache."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb", buffering=0) as data:
                while data.read(CACHE_READ_BYTES):
                    pass


def last_json(text):
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None


def run_adapter(arguments, base, phid, entry, model, measure):
    """What the adapter printed, or why it did not."""
    read_into_cache(model)
    command = [*shlex.split(arguments.wrap), python_of(base, VENVS[entry.engine]),
               str(HERE / "adapters" / f"{ADAPTERS[entry.engine]}_adapter.py"), str(model),
               "--measure", measure, "--threads", str(arguments.threads), "--steps",
               str(arguments.steps), "--phid", str(phid)]
    if arguments.shape == "tiny":
        command += ["--ids-max", "1000", "--context", "1024"]
    threads = str(arguments.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.limit,
                              env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {arguments.limit} s"}
    found = last_json(done.stdout) if done.returncode == 0 else None
    if not found:
        reason = (done.stderr.splitlines() or [""])[-1]
        return {"failed": f"exit status {done.returncode}: {reason}"}
    return found


def make_models(models, wanted):
    """All before the first is measured: making them would disturb. Path of each entry's model, or
    the reason that there is none."""
    made = {}
    for entry in wanted:
        try:
            made[entry] = models.get(entry)
        except RuntimeError as error:
            made[entry] = f"no model: {error}"
    return made


def measure_precision(arguments, base, phid, results, precision, layers):
    models = Models(base, arguments.shape, layers, phid)
    plan = []
    for number in range(1, arguments.rounds + 1):
        for measure in arguments.measures.split(","):
            for entry in ENTRIES:
                run = {"shape": arguments.shape, "layers": layers, "threads": arguments.threads,
                       "precision": precision, "engine": entry.engine, "variant": entry.variant,
                       "measure": measure, "round": number}
                if (entry.precision == precision and entry.engine in arguments.only.split(",") and
                        results.key(run) not in results.done):
                    plan.append((entry, run))
    made = make_models(models, dict.fromkeys(entry for entry, _ in plan))
    hopeless = set()
    for entry, run in plan:
        # What failed once is not tried again in each round.
        if (entry, run["measure"]) in hopeless:
            continue
        if isinstance(made[entry], str):
            run["failed"] = made[entry]
        else:
            run["bytes"] = size_of(made[entry])
            run.update(run_adapter(arguments, base, phid, entry, made[entry], run["measure"]))
        if "failed" in run:
            hopeless.add((entry, run["measure"]))
        results.add(run)
        show(run)
    if arguments.drop_models:
        models.drop(precision)


def size_of(path):
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def show(run):
    what = f"{run['precision']} {run['engine']} {run['variant']} {run['measure']}"
    if "failed" in run:
        said = run["failed"]
    elif "start_s" in run:
        said = f"{run['start_s']:.2f} s, {run['memory_mib']['after']['pss']:.0f} MiB"
    else:
        said = f"{run['tokens_per_s']:.2f} tokens/s"
    others = f", others {100 * run['others_share']:.0f}%" if "others_share" in run else ""
    print(f"round {run['round']}: {what}: {said}{others}", flush=True)


def main():
    arguments = parse()
    base = pathlib.Path(os.environ.get("PHID_BENCH_DIR", ROOT / "build/bench-peers")).resolve()
    phid = pathlib.Path(os.environ.get("PHID_BIN", ROOT / "build/release/server/phid")).resolve()
    if not phid.is_file():
        sys.exit(f"{phid} is not built")
    base.mkdir(parents=True, exist_ok=True)
    head = {"commit": os.environ.get("PHID_COMMIT") or
            output_of(["git", "rev-parse", "--short=10", "HEAD"]),
            "date": time.strftime("%Y-%m-%d"), "cpu": cpu_name(), "cpus": os.cpu_count()}
    results = Results(arguments.out or base / "results.json", arguments.fresh, head)
    for precision in PRECISIONS:
        if precision in arguments.precision.split(","):
            # 15 GB of FP32 would leave little room on machines of the size that is meant.
            layers = arguments.layers or (8 if precision == "fp32" else 0)
            if arguments.shape == "tiny":
                layers = arguments.layers
            measure_precision(arguments, base, phid, results, precision, layers)
    print(results.path)


if __name__ == "__main__":
    main()
