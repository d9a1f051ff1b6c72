"""The comparison of speeds runs from nothing to its tables: on a tiny model, with phid and
llama.cpp, in seconds. What the figures are does not matter here; that every one of them was
measured, and that a second run measures nothing again, does."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("llama_cpp")

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = ROOT / "tests/bench/peers"
PHID = os.environ.get("PHID_BIN", str(ROOT / "build/release/server/phid"))
MEASURES = ["start", "prefill-64", "decode", "decode-x3"]
VARIANTS = [("phid", "Q4_0"), ("llama.cpp", "Q4_0"), ("llama.cpp", "Q4_K_M")]

pytestmark = pytest.mark.skipif(not os.access(PHID, os.X_OK), reason="phid is not built")


def run(program, *arguments, folder):
    done = subprocess.run([sys.executable, str(BENCH / program), *map(str, arguments)],
                          capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "PHID_BENCH_DIR": str(folder), "PHID_BIN": PHID})
    assert done.returncode == 0, done.stderr
    return done.stdout


def compare(folder):
    return run("compare.py", "--shape", "tiny", "--only", "phid,llama.cpp", "--precision", "int4",
               "--rounds", 1, "--steps", 4, "--measures", ",".join(MEASURES), folder=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench-peers")
    compare(directory)
    return directory


def results(folder):
    return json.loads((folder / "results.json").read_text())["runs"]


def test_every_engine_is_measured(folder):
    runs = results(folder)
    assert [run.get("failed") for run in runs] == [None] * len(runs)
    found = {(run["engine"], run["variant"], run["measure"]) for run in runs}
    assert found == {(*who, measure) for who in VARIANTS for measure in MEASURES}
    for run_ in runs:
        if run_["measure"] == "start":
            assert 0 < run_["start_s"] < 60 and run_["memory_mib"]["after"]["pss"] > 1
        else:
            assert run_["tokens_per_s"] > 0


def test_engines_take_turns(folder):
    order = [run["engine"] for run in results(folder) if run["measure"] == "decode"]
    assert order == [engine for engine, _ in VARIANTS]


def test_a_second_run_measures_nothing_again(folder):
    before = results(folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.gguf")}
    assert len(stamps) >= 2
    assert "round" not in compare(folder)
    assert results(folder) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def marked(folder, text):
    """Between the markers of the kernel set that was measured."""
    kernels = next(run["isa"] for run in results(folder) if "isa" in run)
    return f"<!-- peers {kernels}: begin -->{text}<!-- peers {kernels}: end -->"


def test_tables_show_what_was_measured(folder, tmp_path):
    page = tmp_path / "page.md"
    other = "<!-- peers other: begin -->\nkept\n<!-- peers other: end -->\n"
    page.write_text(other + marked(folder, "\nold\n") + "\nafter\n")
    run("report.py", folder / "results.json", "--page", page, "--no-plot", folder=folder)
    text = page.read_text()
    assert text.startswith(other) and text.endswith("after\n") and "\nold\n" not in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith(("| phid", "| llama"))]
    assert [(row[1].strip(), row[2].strip()) for row in rows] == VARIANTS
    for row in rows:
        assert all(float(cell.split()[0]) > 0 for cell in row[3:-1])


def test_a_failure_is_written_down_with_its_reason(folder, tmp_path):
    data = json.loads((folder / "results.json").read_text())
    data["runs"] = [run for run in data["runs"] if run["measure"] == "decode"]
    data["runs"][1] = {key: data["runs"][1][key] for key in
                       ("shape", "layers", "threads", "precision", "engine", "variant", "measure",
                        "round")} | {"failed": "took longer than 300 s"}
    broken = tmp_path / "results.json"
    broken.write_text(json.dumps(data))
    page = tmp_path / "page.md"
    page.write_text("before\n")  # of a kernel set that was never measured
    run("report.py", broken, "--page", page, "--no-plot", folder=folder)
    text = page.read_text()
    assert "no [1]" in text and "[1] took longer than 300 s" in text
