#!/usr/bin/env python3
"""phid: `phid bench` for the speeds, `phid generate` for the start."""

import json
import subprocess
import sys
import time

import common

# Long enough for the process to be looked at while it still answers.
START_TOKENS = 64


def version(binary):
    return subprocess.run([binary, "--version"], capture_output=True, text=True,
                          check=True).stdout.strip()


def start(arguments):
    """From nothing to the first token of an answer, and what is resident then."""
    began = time.monotonic()
    with subprocess.Popen(
            [arguments.phid, "generate", arguments.model, common.START_PROMPT, "--raw", "--json",
             "--max-tokens", str(START_TOKENS), "--threads", str(arguments.threads)],
            stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        first_s = time.monotonic() - began
        memory = common.memory_mib(process.pid) if line else None
        process.stdout.read()
    assert process.returncode == 0 and "token" in json.loads(line), "phid generate failed"
    return {"start_s": first_s, "memory_mib": {"after": memory}}


def bench(arguments):
    """One run of `phid bench`, which warms up by itself."""
    command = [arguments.phid, "bench", arguments.model, "--threads", str(arguments.threads),
               "--repeat", "1", "--json", "-"]
    if arguments.kind == "prefill":
        command += ["--prompt", str(arguments.prompt_tokens), "--generate", "0"]
    else:
        command += ["--prompt", "0", "--generate", str(arguments.steps), "--batch",
                    str(arguments.batch), "--context", str(arguments.prompt_tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(done.stdout)
    model = report["models"][0]
    ran = model["runs"][0]
    return {"tokens_per_s": ran["tokens_per_s"]["median"], "share": ran["share"],
            "ceilings": model["ceilings"], "isa": report["machine"]["isa"],
            "cpu": report["machine"]["cpu"]}


def main():
    arguments = common.parse()
    found = start(arguments) if arguments.kind == "start" else bench(arguments)
    common.emit(arguments, **found, version=version(arguments.phid))


if __name__ == "__main__":
    sys.exit(main())
