"""Speed changes no answer: the sample model's perplexity by every kernel set that this machine can run."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT, binary

sys.path.insert(0, str(ROOT / "models"))

import measure  # noqa: E402

SETS = ("amx", "avx512-vnni", "avx-vnni", "avx2", "neon-i8mm", "neon-dotprod", "portable")
PRECISIONS = ("int4", "int8", "fp16", "fp32")
# Of the held-out text: some 1,300 tokens.
LINES = 12


def can_run(name, sample_dir):
    done = subprocess.run([binary(), "generate", sample_dir, "a", "--max-tokens", "1"],
                          env={**os.environ, "PHID_ISA": name}, capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0 or name in done.stderr, done.stderr
    return done.returncode == 0


@pytest.fixture(scope="module")
def perplexities(start_daemon, sample_dir):
    """{(set, precision): perplexity}"""
    text = "".join((sample_dir / "heldout.txt").read_text().splitlines(keepends=True)[:LINES])
    found = {}
    daemon = None
    for name in SETS:
        if not can_run(name, sample_dir):
            continue
        if daemon is None:
            daemon = start_daemon(isa=name)
            files = daemon.upload_dir(sample_dir)
            for precision in PRECISIONS:
                assert daemon.quantize("phi-sample", files, precision)["status"] == "succeeded"
        else:
            assert daemon.stop() == 0
            daemon.isa = name
            daemon.start()
        asked = measure.Daemon(daemon.url, None)
        for precision in PRECISIONS:
            found[name, precision] = measure.perplexity(asked, f"phi-sample:{precision}", text, 2)
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_perplexity_is_every_sets(perplexities, precision):
    """To four digits: less than a unit of the last."""
    values = {name: value for (name, of), value in perplexities.items() if of == precision}
    print(values)
    assert "portable" in values
    least, most = min(values.values()), max(values.values())
    assert 1.0 < least < 10.0
    assert most - least < 0.001
