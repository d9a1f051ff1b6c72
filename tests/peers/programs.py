"""The programs of tests/unit that the peers tier runs.

They come from the build that phid itself comes from: build/ may hold others too, for processors
that this machine is not.
"""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHID = os.environ.get("PHID_BIN", str(ROOT / "build" / "release" / "server" / "phid"))


def unit_program(name):
    """The path of tests/unit/NAME beside the phid under test; skips the test where it is not built."""
    path = pathlib.Path(PHID).resolve().parents[1] / "tests" / "unit" / name
    if not os.access(path, os.X_OK):
        pytest.skip(f"{name} is not built")
    return str(path)
