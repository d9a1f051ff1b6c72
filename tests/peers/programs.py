"""phid, and the programs of tests/unit that the peers tier runs.

They come from the build that phid itself comes from: build/ may hold others too, for processors
that this machine is not.
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHID = os.environ.get("PHID_BIN", str(ROOT / "build" / "release" / "server" / "phid"))


def unit_program(name):
    """The path of tests/unit/NAME beside the phid under test; skips the test where it is not built."""
    path = pathlib.Path(PHID).resolve().parents[1] / "tests" / "unit" / name
    if not os.access(path, os.X_OK):
        pytest.skip(f"{name} is not built")
    return str(path)


def phid(*arguments):
    """What phid prints; its error fails the test."""
    done = subprocess.run([PHID, *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def continued(path, prompt, tokens):
    """The ids that phid continues a text with, and what ended it: the last event."""
    lines = phid("generate", path, prompt, "--raw", "--temperature", 0, "--max-tokens", tokens,
                 "--json").splitlines()
    events = [json.loads(line) for line in lines]
    return [event["token"] for event in events if "token" in event], events[-1]


def logits_of_ids(path, kv_type, texts):
    """phid's logits: for each (prompt, generated) of `texts`, lists of ids, an array [1 + generated,
    vocabulary], the first row what follows the prompt."""
    lines = "".join(" ".join(map(str, [len(prompt), *prompt, *generated])) + "\n"
                    for prompt, generated in texts)
    done = subprocess.run([unit_program("logits_of_ids"), str(path), kv_type], input=lines.encode(),
                          capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    rows = [1 + len(generated) for _, generated in texts]
    found = np.frombuffer(done.stdout, np.float32).reshape(sum(rows), -1)
    return np.split(found, np.cumsum(rows)[:-1])
