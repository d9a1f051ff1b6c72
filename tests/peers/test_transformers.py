"""The committed golden answers against the transformers installed here: they can be re-proven."""

import importlib
import json
import pathlib
import sys

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
make_phi3 = importlib.import_module("make_phi3")
make_phi2 = importlib.import_module("make_phi2")
make_phimoe = importlib.import_module("make_phimoe")
# Which script made a case, and loads it.
MAKERS = {**{name: make_phi3 for name in make_phi3.CASES},
          **{name: make_phi2 for name in make_phi2.CASES},
          **{name: make_phimoe for name in make_phimoe.CASES}}

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
# Two releases of torch order their sums differently; this is the engine's own tolerance.
ERROR_MAX = 1e-4


@pytest.fixture(params=sorted(MAKERS))
def case(request):
    directory = GOLDEN / request.param
    config = json.loads((directory / "config.json").read_text())
    if config.get("partial_rotary_factor", 1.0) != 1.0 and VERSION < (4, 49):
        pytest.skip("partial rotary embeddings came with transformers 4.49")
    if MAKERS[request.param] is not make_phi3 and VERSION < (5, 0):
        pytest.skip("the configuration was written by transformers 5")
    torch.set_num_threads(1)
    return MAKERS[request.param].load(directory), json.loads((directory / "expected.json").read_text())


def test_logits(case):
    model, expected = case
    for run in expected["runs"]:
        logits = make_phi3.logits_of(model, run["prompt"])
        for entry in run["logits"]:
            right = torch.tensor(entry["values"])
            error = (logits[entry["position"]] - right).abs().max() / right.abs().max()
            assert float(error) <= ERROR_MAX


def test_greedy(case):
    model, expected = case
    for run in expected["runs"]:
        tokens, margin = make_phi3.greedy(model, run["prompt"])
        assert tokens == run["greedy"]
        assert margin >= make_phi3.MARGIN_MIN / 2


def test_split_has_the_same_answers():
    name, source = make_phi3.SPLIT
    assert (GOLDEN / name / "expected.json").read_text() == (
        GOLDEN / source / "expected.json").read_text()
