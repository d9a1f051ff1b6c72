"""phid bench from outside: its table, its JSON, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from conftest import ROOT, binary

SAMPLE = str(ROOT / "models" / "phi-sample")
# Small: what is tested is what is said, not how fast this machine is.
SMALL = ["--prompt", "24", "--generate", "2", "--batch", "1,3", "--context", "0,50",
         "--batch-tokens", "16", "--repeat", "2", "--ceiling-mb", "16", "--threads", "2"]
ROW = re.compile(r"^(prefill|decode) +(\d+) +(\d+) +(\d+) +([\d.]+) +[\d.]+% +[\d.]+ +[\d.]+ +"
                 r"(?:[\d.]+%|-) (read|int8|fp32|unknown) +([\d.]+)% +([\d.]+)% +([\d.]+)% +"
                 r"(?:[\d.]+%|-)$", re.MULTILINE)


def bench(*arguments, environment=None):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PHID_")}
    return subprocess.run([str(binary()), "bench", *arguments], capture_output=True, text=True,
                          timeout=300, check=False, env={**clean, **(environment or {})})


def refusal(*arguments):
    result = bench(*arguments)
    assert result.returncode in (1, 2), result
    assert result.stdout == ""
    assert result.stderr.startswith("phid bench: ")
    return result.stderr


def test_table(tmp_path):
    out = tmp_path / "bench.json"
    result = bench(SAMPLE, *SMALL, "--json", str(out))
    assert result.returncode == 0, result.stderr
    text = result.stdout
    # The heading comes in order: what computes, what is computed, what it takes, the ceilings.
    order = [text.index(word) for word in ("machine ", "model ", "memory ", "ceilings ", "tokens/s")]
    assert order == sorted(order)
    assert re.search(r"^machine .+, 2 threads, kernels \S+$", text, re.MULTILINE)
    assert "safetensors, FP16, 4 layers, 2.9 M parameters, keys and values f16" in text
    rows = [row.groups() for row in ROW.finditer(text)]
    assert [row[:4] for row in rows] == [
        ("prefill", "1", "0", "24"), ("decode", "1", "0", "2"), ("decode", "3", "0", "2"),
        ("decode", "1", "50", "2"), ("decode", "3", "50", "2")]
    for row in rows:
        assert float(row[4]) > 0
        assert sum(map(float, row[6:9])) == pytest.approx(100, abs=0.2)
    # Columns are aligned: every row is as long as the others.
    lines = [line for line in text.splitlines() if line.startswith(("prefill", "decode"))]
    assert len({len(line) for line in lines}) == 1

    # The same figures are in the file.
    body = json.loads(out.read_text())
    for run, row in zip(body["models"][0]["runs"], rows):
        assert run["kind"] == row[0]
        assert run["tokens_per_s"]["median"] == pytest.approx(float(row[4]), abs=0.01)


def test_json_alone():
    result = bench(SAMPLE, *SMALL, "--json", "-")
    assert result.returncode == 0, result.stderr
    body = json.loads(result.stdout)
    assert set(body) == {"version", "machine", "models"}
    assert body["machine"]["threads"] == 2
    assert body["machine"]["cpu"] and body["machine"]["isa"]
    (model,) = body["models"]
    assert model["model"]["path"] == SAMPLE
    assert model["model"]["kind"] == "FP16"
    assert model["model"]["parameters"] == 2_885_888
    assert model["batch_tokens"] == 16 and model["repeat"] == 2
    assert set(model["memory"]) == {"weights_bytes", "kv_bytes", "scratch_bytes",
                                    "available_bytes"}
    ceilings = model["ceilings"]
    for when in ("before", "after", "mean"):
        assert ceilings[when]["read_bytes_per_s"] > 0
    assert ceilings["mean"]["read_bytes_per_s"] == pytest.approx(
        (ceilings["before"]["read_bytes_per_s"] + ceilings["after"]["read_bytes_per_s"]) / 2)
    assert 0 <= ceilings["spread"]
    assert len(model["runs"]) == 5
    for run in model["runs"]:
        assert set(run) == {"kind", "batch", "context", "tokens", "tokens_per_s", "weight_bytes",
                            "kv_bytes", "bytes_per_s", "ops_per_s", "share", "time"}
        speed = run["tokens_per_s"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert sum(run["time"].values()) == pytest.approx(1)
        seconds = run["tokens"] * run["batch"] / speed["median"]
        assert run["bytes_per_s"] == pytest.approx(
            (run["weight_bytes"] + run["kv_bytes"]) / seconds)
        assert run["share"]["read"] == pytest.approx(
            run["bytes_per_s"] / ceilings["mean"]["read_bytes_per_s"])


def test_experts(phimoe_dir):
    """Of 4 experts a step of one token reads 2, a prompt's steps no more than there are."""
    result = bench(str(phimoe_dir), *SMALL, "--json", "-")
    assert result.returncode == 0, result.stderr
    (model,) = json.loads(result.stdout)["models"]
    config = json.loads((phimoe_dir / "config.json").read_text())
    vocab = config["vocab_size"]
    layer = (512 + 256) * 256 + 4 * 256
    expert = 3 * 64 * 256
    norms = 2 * (2 * 2 * 256 + 512 + 256) + 2 * 256
    assert model["model"]["parameters"] == \
        2 * (layer + 4 * expert) + 2 * vocab * 256 + vocab + norms
    # Rows stand in blocks of 16, so a router takes as much as 16 experts' would.
    head = (vocab + 15) // 16 * 16 * 256
    held = 2 * (layer + 12 * 256) + head
    prefill, one, three = model["runs"][:3]
    assert one["batch"] == 1 and one["weight_bytes"] == 2 * 2 * (held + 2 * 2 * expert)
    assert 2 * 2 * (held + 2 * 2 * expert) < three["weight_bytes"] <= 2 * 2 * (held + 2 * 4 * expert)
    most = 2 * (2 * (held - head) + head + 2 * 2 * 4 * expert)
    assert prefill["weight_bytes"] <= most


def test_synthetic_precisions():
    """One table a precision; each is as large as its bits."""
    result = bench("--synthetic", "phi-4-mini", "--layers", "1", "--precision", "int4,int8",
                   "--prompt", "2", "--generate", "1", "--batch", "1", "--context", "0",
                   "--repeat", "1", "--ceiling-mb", "16", "--json", "-")
    assert result.returncode == 0, result.stderr
    models = json.loads(result.stdout)["models"]
    assert [model["model"]["kind"] for model in models] == ["INT4", "INT8"]
    assert all(model["model"]["format"] == "synthetic" for model in models)
    assert models[0]["model"]["weights_bytes"] < models[1]["model"]["weights_bytes"]
    for model in models:
        held = model["model"]["weights_bytes"]
        assert held == pytest.approx(model["memory"]["weights_bytes"], rel=0.02)
        # The head is the embedding: a step reads all there is but the norms.
        assert model["runs"][1]["weight_bytes"] == pytest.approx(held, rel=1e-3)


def test_portable_set_has_no_arithmetic_ceiling():
    result = bench(SAMPLE, *SMALL, "--json", "-", environment={"PHID_ISA": "portable"})
    body = json.loads(result.stdout)
    assert body["machine"]["isa"] == "portable"
    (model,) = body["models"]
    assert model["ceilings"]["mean"]["int8_ops_per_s"] is None
    prefill, decode = model["runs"][:2]
    assert prefill["share"]["of_limit"] is None and prefill["share"]["limit"] == "unknown"
    assert decode["share"]["of_limit"] > 0 and decode["share"]["limit"] == "read"
    text = bench(SAMPLE, *SMALL, "--isa", "portable").stdout
    assert "unknown for this kernel set" in text
    assert len(ROW.findall(text)) == 5


def test_nothing_but_what_is_asked_for():
    runs = json.loads(bench(SAMPLE, *SMALL, "--prompt", "0", "--json", "-").stdout)["models"][0]["runs"]
    assert {run["kind"] for run in runs} == {"decode"}
    runs = json.loads(bench(SAMPLE, *SMALL, "--generate", "0", "--json", "-").stdout)["models"][0]["runs"]
    assert {run["kind"] for run in runs} == {"prefill"}


@pytest.mark.parametrize("arguments, words", [
    ([], ["name one model"]),
    ([SAMPLE, "--synthetic", "phi-4"], ["name one model"]),
    (["--synthetic", "phi-9"], ["phi-9", "phi-3.5-mini"]),
    (["--synthetic", "phi-4", "--precision", "int5"], ["int5", "bf16"]),
    (["--synthetic", "phi-4-mini", "--layers", "33"], ["33", "32"]),
    ([SAMPLE, "--precision", "int4"], ["--precision", "--synthetic"]),
    ([SAMPLE, "--layers", "2"], ["--layers", "--synthetic"]),
    ([SAMPLE, "--batch", "1,0"], ["--batch", "'0'", "1 to 512"]),
    ([SAMPLE, "--batch", "1,2,3,4,5,6,7,8,9"], ["--batch", "more than 8"]),
    ([SAMPLE, "--batch", "eight"], ["--batch", "'eight'"]),
    ([SAMPLE, "--context", "1000"], ["1064", "1024"]),
    ([SAMPLE, "--prompt", "1025"], ["1025", "1024"]),
    ([SAMPLE, "--prompt", "0", "--generate", "0"], ["nothing to measure"]),
    ([SAMPLE, "--kv-type", "int3"], ["int3", "f16, f32 and int8"]),
    ([SAMPLE, "--isa", "mmx"], ["mmx"]),
    ([SAMPLE, "--repat", "3"], ["--repat", "--repeat"]),
    ([SAMPLE, "--json", "/nonexistent/bench.json"], ["/nonexistent"]),
    (["/nonexistent"], ["/nonexistent"]),
])
def test_refused(arguments, words):
    message = refusal(*arguments)
    assert all(word in message for word in words), message


def test_what_does_not_fit_is_refused_with_numbers():
    """Before the first model is made, though only the second is too large."""
    message = refusal("--synthetic", "phi-3.5-mini", "--precision", "int4", "--batch", "1,512",
                      "--context", "131000")
    assert re.search(r"needs \d+ MB \(weights \d+, KV cache \d+ for \d+ tokens, scratch \d+\), "
                     r"but \d+ MB are available", message)


def test_interrupt_leaves_no_file(tmp_path):
    out = tmp_path / "bench.json"
    process = subprocess.Popen([str(binary()), "bench", SAMPLE, "--repeat", "1000", "--ceiling-mb",
                                "16", "--json", str(out)], stdout=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_help():
    text = subprocess.run([str(binary()), "help", "bench"], capture_output=True, text=True,
                          check=True).stdout
    for flag in ("--synthetic", "--precision", "--layers", "--prompt", "--generate", "--batch",
                 "--context", "--batch-tokens", "--repeat", "--kv-type", "--threads", "--isa",
                 "--ceiling-mb", "--json"):
        assert flag in text
