"""/v1/quantization/jobs: from files to a model, progress, cancel, restarts, and hostile sources."""

import hashlib
import io
import json
import os
import pathlib
import re
import struct
import subprocess
import tarfile
import time

import pytest
import requests

from conftest import (binary, make_model, pickled_text, read_safetensors, write_safetensors,
                      write_torch)
from test_files import blobs, error_of, incoming, small_disk, wait_until  # noqa: F401

JOBS = "/v1/quantization/jobs"
JOB_FIELDS = {"id", "object", "created_at", "started_at", "finished_at", "status", "model",
              "precision", "result_model", "progress", "stage", "bytes_done", "bytes_total",
              "eta_seconds", "artifacts", "quality", "error", "metadata"}


def work(daemon):
    return list((daemon.data_dir / "work").iterdir())


def wait_running(daemon, job_id, progress=0.0):
    deadline = time.monotonic() + 60
    while True:
        job = daemon.get(f"{JOBS}/{job_id}").json()
        assert job["status"] in ("queued", "running"), f"it ended too early: {job}"
        if job["status"] == "running" and job["progress"] > progress:
            return job
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- the main way ----

@pytest.mark.parametrize("precision", ["int4", "int8", "fp16", "fp32"])
def test_each_precision(daemon, tiny_files, precision):
    answer = daemon.submit("each", tiny_files, precision, metadata={"who": "me"})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert JOB_FIELDS <= set(job)
    assert job["object"] == "quantization.job" and job["id"].startswith("qjob-")
    assert job["status"] == "queued" and job["result_model"] is None and job["error"] is None
    job = daemon.wait(job["id"])
    assert job["status"] == "succeeded", job
    assert JOB_FIELDS <= set(job)
    assert job["result_model"] == f"each:{precision}"
    assert job["progress"] == 1.0
    assert job["metadata"] == {"who": "me"}
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    quality = job["quality"]
    assert quality["perplexity"]["source"] > 1 and quality["perplexity"]["result"] > 1
    assert 0 <= quality["kl_divergence"]["mean"] <= quality["kl_divergence"]["p99"]
    assert 0 <= quality["top1_agreement"] <= 1
    assert quality["tensors"] > 0
    artifact, = job["artifacts"]
    assert artifact["format"] == "gguf"
    file = daemon.get(f"/v1/files/{artifact['file_id']}").json()
    assert file["filename"] == f"each-{precision}.gguf" and file["purpose"] == "model"
    content = daemon.get(f"/v1/files/{artifact['file_id']}/content").content
    assert content[:4] == b"GGUF"
    assert len(content) == artifact["bytes"] == file["bytes"]
    assert hashlib.sha256(content).hexdigest() == artifact["sha256"] == file["sha256"]
    assert work(daemon) == []


def test_int4_is_smaller(daemon, tiny_files):
    sizes = {precision: daemon.quantize("size", tiny_files, precision)["artifacts"][0]["bytes"]
             for precision in ("int4", "int8", "fp16", "fp32")}
    assert sizes["int4"] < sizes["int8"] < sizes["fp16"] < sizes["fp32"]


@pytest.mark.parametrize("options", [{"group_size": 64}, {"symmetric": False},
                                     {"method": "search"}, {"formats": ["gguf"]}])
def test_options(daemon, tiny_files, options):
    job = daemon.quantize("options", tiny_files, **options)
    assert job["status"] == "succeeded", job
    for name, value in options.items():
        assert job[name] == value


def test_gguf_as_source(daemon, tiny_files):
    first = daemon.quantize("source", tiny_files, "fp16")
    job = daemon.quantize("from-gguf", [first["artifacts"][0]["file_id"]], "int8")
    assert job["status"] == "succeeded", job
    assert job["result_model"] == "from-gguf:int8"


def test_again_from_the_stored_source(start_daemon, tiny_dir):
    other = start_daemon()
    files = other.upload_dir(tiny_dir)
    assert other.quantize("kept", files, "int4")["status"] == "succeeded"
    for file in files:
        other.delete(f"/v1/files/{file}")
    answer = other.post(JOBS, json={"model": "kept", "source": {"model": "kept"},
                                    "precision": "int8"})
    assert answer.status_code == 200, answer.text
    assert other.wait(answer.json()["id"])["status"] == "succeeded"
    assert {model["id"] for model in other.get("/v1/models").json()["data"]} == {"kept:int4",
                                                                                "kept:int8"}
    for precision in ("int4", "int8"):
        other.delete(f"/v1/models/kept:{precision}")
    for file in other.get("/v1/files").json()["data"]:
        other.delete(f"/v1/files/{file['id']}")
    assert blobs(other) == []
    error_of(other.post(JOBS, json={"model": "kept", "source": {"model": "kept"},
                                    "precision": "int8"}), 404, "source.model")


def test_path_as_source(start_daemon, tiny_dir, tmp_path):
    allowed = tmp_path / "allowed"
    make_model(allowed / "model")
    (allowed / "link").symlink_to(tiny_dir)
    other = start_daemon(source_dirs=str(allowed))

    def submit(path):
        return other.post(JOBS, json={"model": "p", "source": {"path": str(path)},
                                      "precision": "int8"})
    job = other.wait(submit(allowed / "model").json()["id"])
    assert job["status"] == "succeeded", job
    for path in (tiny_dir, allowed / "link", allowed / ".." / tiny_dir.name, "/etc", "model",
                 allowed / "none", f"{allowed}x"):
        error_of(submit(path), 400, "source.path")


def test_path_needs_permission(daemon, tiny_dir):
    error = error_of(daemon.post(JOBS, json={"model": "p", "source": {"path": str(tiny_dir)},
                                             "precision": "int8"}), 400, "source.path")
    assert "source_dirs" in error["message"]


# ---- quality ----

def test_quality_limits(daemon, tiny_files):
    job = daemon.quantize("strict", tiny_files, quality={"max_kl_divergence": 0})
    assert job["status"] == "failed", job
    assert job["error"]["code"] == "quality_limit"
    assert job["error"]["param"] == "quality.max_kl_divergence"
    assert job["quality"]["kl_divergence"]["mean"] > 0
    assert job["artifacts"] == [] and job["result_model"] is None
    assert daemon.get("/v1/models/strict:int4").status_code == 404
    job = daemon.quantize("strict", tiny_files, quality={"max_perplexity_ratio": 0.5})
    assert job["error"]["param"] == "quality.max_perplexity_ratio", job
    job = daemon.quantize("lenient", tiny_files, "fp32",
                          quality={"max_kl_divergence": 0.01, "max_perplexity_ratio": 1.01})
    assert job["status"] == "succeeded", job


def test_quality_on_a_text_of_ones_own(daemon, tiny_files):
    text = daemon.upload("eval.txt", b"The cat sat on the mat. " * 200, "calibration")
    job = daemon.quantize("own-text", tiny_files, quality={"file": text["id"]})
    assert job["status"] == "succeeded", job
    usual = daemon.quantize("usual-text", tiny_files)
    assert job["quality"]["perplexity"] != usual["quality"]["perplexity"]
    binary = daemon.upload("eval.bin", b"\xff\xfe" * 100, "calibration")
    job = daemon.quantize("own-text", tiny_files, quality={"file": binary["id"]})
    assert job["status"] == "failed" and "UTF-8" in job["error"]["message"]


# ---- what is refused at once ----

@pytest.mark.parametrize("change, param", [
    ({"model": None}, "model"), ({"model": 5}, "model"), ({"model": ""}, "model"),
    ({"model": "a/b"}, "model"), ({"model": "a:int4"}, "model"), ({"model": "x" * 65}, "model"),
    ({"model": "../x"}, "model"),
    ({"precision": None}, "precision"), ({"precision": "int5"}, "precision"),
    ({"precision": 4}, "precision"),
    ({"source": None}, "source"), ({"source": []}, "source"), ({"source": {}}, "source"),
    ({"source": {"files": []}}, "source.files"), ({"source": {"files": "x"}}, "source.files"),
    ({"source": {"files": [1]}}, "source.files"), ({"source": {"url": "x"}}, "source"),
    ({"source": {"files": ["a"], "path": "b"}}, "source"),
    ({"source": {"files": ["a"] * 257}}, "source.files"),
    ({"source": {"path": ""}}, "source.path"), ({"source": {"model": 1}}, "source.model"),
    ({"method": "gptq"}, "method"), ({"method": 1}, "method"),
    ({"group_size": 16}, "group_size"), ({"group_size": -32}, "group_size"),
    ({"group_size": 32.0}, "group_size"), ({"group_size": "32"}, "group_size"),
    ({"precision": "int8", "group_size": 32}, "group_size"),
    ({"precision": "int8", "symmetric": False}, "symmetric"),
    ({"precision": "fp16", "method": "search"}, "method"),
    ({"symmetric": 1}, "symmetric"),
    ({"formats": ["tflite"]}, "formats[0]"), ({"formats": []}, "formats"),
    ({"formats": "gguf"}, "formats"),
    ({"calibration_file": "file-1"}, "calibration_file"),
    ({"quality": 1}, "quality"), ({"quality": {"max_kl": 1}}, "quality"),
    ({"quality": {"max_kl_divergence": -1}}, "quality.max_kl_divergence"),
    ({"quality": {"max_kl_divergence": "x"}}, "quality.max_kl_divergence"),
    ({"quality": {"file": 3}}, "quality.file"),
    ({"metadata": []}, "metadata"), ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {"a" * 65: "x"}}, "metadata"), ({"metadata": {"a": "x" * 513}}, "metadata"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
])
def test_request_is_checked(daemon, tiny_files, change, param):
    body = {"model": "m", "source": {"files": tiny_files}, "precision": "int4", **change}
    error = error_of(daemon.post(JOBS, json=body), 400, param)
    assert error["type"] == "invalid_request_error"


def test_files_are_checked(daemon, tiny_files, tiny_dir):
    error_of(daemon.submit("m", ["file-none"]), 404, "source.files")
    error_of(daemon.submit("m", ["x" * 500]), 404, "source.files")
    text = daemon.upload("t.txt", b"x", "calibration")["id"]
    assert "calibration" in error_of(daemon.submit("m", [text]), 400, "source.files")["message"]
    config = daemon.upload("config.json", tiny_dir / "config.json")["id"]
    error_of(daemon.submit("m", [config, config]), 400, "source.files")
    assert "safetensors" in error_of(daemon.submit("m", [config]), 400)["message"]
    weights = daemon.upload("model.safetensors", b"x")["id"]
    assert "config.json" in error_of(daemon.submit("m", [weights]), 400)["message"]
    error = error_of(daemon.submit("m", [config, weights]), 400, "source.files")
    assert "no tokenizer.json" in error["message"]
    archive = daemon.upload("m.tar.gz", b"x")["id"]
    assert "compressed" in error_of(daemon.submit("m", [archive]), 400)["message"]
    gguf = daemon.upload("m.gguf", b"x")["id"]
    error_of(daemon.submit("m", [gguf, config]), 400, "source.files")
    error_of(daemon.submit("m", tiny_files, quality={"file": "file-none"}), 404, "quality.file")


def test_body_is_checked(daemon):
    error_of(daemon.post(JOBS, data=b"{", headers={"Content-Type": "application/json"}), 400)
    error_of(daemon.post(JOBS, json=[]), 400)


def test_unknown_job(daemon):
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events"),
                         ("GET", "/events?stream=true")):
        answer = daemon.request(method, f"{JOBS}/qjob-none{path}")
        assert error_of(answer, 404)["code"] == "not_found"


# ---- lists and events ----

def test_pages(start_daemon, tiny_dir):
    other = start_daemon()
    files = other.upload_dir(tiny_dir)
    jobs = [other.quantize(f"m{i}", files, "fp16")["id"] for i in range(3)]
    page = other.get(JOBS + "?limit=2").json()
    assert [job["id"] for job in page["data"]] == [jobs[2], jobs[1]]
    assert page["has_more"] and page["object"] == "list"
    page = other.get(f"{JOBS}?limit=2&after={page['last_id']}").json()
    assert [job["id"] for job in page["data"]] == [jobs[0]]
    assert not page["has_more"]
    error_of(other.get(JOBS + "?after=qjob-none"), 400, "after")
    error_of(other.get(JOBS + "?limit=1000"), 400, "limit")


def read_stream(answer):
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    data = [line[6:] for line in answer.iter_lines() if line.startswith(b"data: ")]
    assert data[-1] == b"[DONE]"
    return [json.loads(line) for line in data[:-1]]


def test_events(daemon, tiny_files):
    job = daemon.submit("events", tiny_files).json()
    path = f"{JOBS}/{job['id']}/events"
    live = read_stream(daemon.get(path + "?stream=true", stream=True))
    page = daemon.get(path + "?limit=100").json()
    assert page["data"] == live
    for event in live:
        assert set(event) == {"id", "object", "created_at", "level", "message", "type", "data"}
        assert event["object"] == "quantization.job.event"
    assert live[0]["message"].startswith("queued")
    assert live[-1]["message"].startswith("succeeded")
    assert any("quantizing" in event["message"] for event in live)
    rest = daemon.get(f"{path}?limit=1&after={live[0]['id']}").json()
    assert rest["data"] == [live[1]] and rest["has_more"]
    again = read_stream(daemon.get(f"{path}?stream=true&after={live[1]['id']}", stream=True))
    assert again == live[2:]
    error_of(daemon.get(path + "?after=x"), 400, "after")
    error_of(daemon.get(path + "?stream=maybe"), 400, "stream")


def test_client_that_leaves_a_stream(daemon, slow_files):
    job = daemon.submit("left", slow_files).json()
    with daemon.get(f"{JOBS}/{job['id']}/events?stream=true", stream=True) as answer:
        next(answer.iter_lines())
    daemon.post(f"{JOBS}/{job['id']}/cancel")
    assert daemon.wait(job["id"])["status"] == "cancelled"
    assert daemon.alive()


# ---- cancel, kill, stop ----

def test_cancel_while_running(daemon, slow_files):
    job = daemon.submit("cancelled", slow_files).json()
    wait_running(daemon, job["id"])
    answer = daemon.post(f"{JOBS}/{job['id']}/cancel")
    assert answer.status_code == 200 and answer.json()["id"] == job["id"]
    job = daemon.wait(job["id"], 30)
    assert job["status"] == "cancelled"
    assert job["error"] is None and job["artifacts"] == [] and job["finished_at"]
    assert daemon.get("/v1/models/cancelled:int4").status_code == 404
    wait_until(lambda: work(daemon) == [])
    error = error_of(daemon.post(f"{JOBS}/{job['id']}/cancel"), 409)
    assert "cancelled" in error["message"]


def test_cancel_while_queued(daemon, slow_files, tiny_files):
    first = daemon.submit("first", slow_files).json()
    wait_running(daemon, first["id"])
    second = daemon.submit("second", tiny_files).json()
    assert daemon.get(f"{JOBS}/{second['id']}").json()["status"] == "queued"
    daemon.post(f"{JOBS}/{second['id']}/cancel")
    assert daemon.wait(second["id"], 20)["status"] == "cancelled"
    assert daemon.get(f"{JOBS}/{first['id']}").json()["status"] == "running"
    daemon.post(f"{JOBS}/{first['id']}/cancel")
    daemon.wait(first["id"], 30)


def test_cancel_after_the_end(daemon, tiny_files):
    job = daemon.quantize("ended", tiny_files, "fp16")
    assert "succeeded" in error_of(daemon.post(f"{JOBS}/{job['id']}/cancel"), 409)["message"]


def test_kill_and_restart(start_daemon, slow_dir, tiny_dir):
    other = start_daemon()
    slow = other.submit("slow", other.upload_dir(slow_dir)).json()
    tiny = other.submit("tiny", other.upload_dir(tiny_dir)).json()
    gone = other.submit("gone", other.upload_dir(tiny_dir)).json()
    assert other.post(f"{JOBS}/{gone['id']}/cancel").status_code == 200
    wait_running(other, slow["id"], 0.02)
    other.kill()
    assert work(other)
    other.start()
    assert other.get("/v1/models").json()["data"] == []
    for job_id in (slow["id"], tiny["id"]):
        job = other.wait(job_id)
        assert job["status"] == "succeeded", job
    assert other.get(f"{JOBS}/{gone['id']}").json()["status"] == "cancelled"
    assert {model["id"] for model in other.get("/v1/models").json()["data"]} == {"slow:int4",
                                                                                "tiny:int4"}
    wait_until(lambda: work(other) == [])
    assert incoming(other) == []


def test_stop_and_restart(start_daemon, slow_dir):
    other = start_daemon()
    job = other.submit("slow", other.upload_dir(slow_dir)).json()
    wait_running(other, job["id"])
    began = time.monotonic()
    assert other.stop() == 0
    assert time.monotonic() - began < 20
    assert work(other) == []
    other.start()
    assert other.wait(job["id"])["status"] == "succeeded"


def test_source_deleted_while_running(daemon, slow_dir):
    files = daemon.upload_dir(slow_dir)
    job = daemon.submit("deleted", files, "fp16").json()
    wait_running(daemon, job["id"])
    for file in files:
        assert daemon.delete(f"/v1/files/{file}").status_code == 200
    assert daemon.wait(job["id"])["status"] == "succeeded"


def test_models_that_are_listed_are_there(daemon, tiny_files):
    """The moment a job says that it succeeded, its model can be asked for."""
    for i in range(5):
        job = daemon.submit(f"now{i}", tiny_files, "fp16").json()
        while (job := daemon.get(f"{JOBS}/{job['id']}").json())["status"] != "succeeded":
            assert job["status"] in ("queued", "running"), job
        assert daemon.get(f"/v1/models/{job['result_model']}").status_code == 200


def test_full_disk(start_daemon, small_disk, slow_dir):  # noqa: F811
    data_dir = small_disk / "data"
    data_dir.mkdir()
    full = start_daemon(data_dir=data_dir, source_dirs=str(slow_dir))
    answer = full.post(JOBS, json={"model": "m", "source": {"path": str(slow_dir)},
                                   "precision": "fp32"})
    assert answer.status_code == 200, answer.text
    job = full.wait(answer.json()["id"])
    assert job["status"] == "failed", job
    assert job["error"]["code"] == "insufficient_storage", job
    assert work(full) == [] and blobs(full) == []
    assert full.get("/v1/models").json()["data"] == []
    assert full.upload("after", b"x" * 100_000)["bytes"] == 100_000


# ---- archives ----

def tar_of(members):
    """members: (name, bytes) or TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def model_members(directory, prefix=""):
    return [(prefix + path.name, path.read_bytes()) for path in sorted(directory.iterdir())]


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("prefix", ["", "./", "phi/", "./phi/"])
def test_archive(daemon, tiny_dir, prefix):
    extra = [(prefix + ".cache/deep/file", b"x")]
    file = daemon.upload("m.tar", tar_of(model_members(tiny_dir, prefix) + extra))
    job = daemon.quantize("archive", [file["id"]], "int8")
    assert job["status"] == "succeeded", job
    events = daemon.get(f"{JOBS}/{job['id']}/events?limit=100").json()["data"]
    assert any(event["level"] == "warn" and "left out" in event["message"] for event in events)


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_folders_of_other_runtimes(daemon, sample_dir, tmp_path, form):
    """Uploaded file by file and as an archive."""
    folder = tmp_path / form
    subprocess.run([binary(), "convert", str(sample_dir), str(folder), "--format", form,
                    "--precision", "int4"], check=True, capture_output=True)
    archive = daemon.upload(f"{form}.tar", tar_of(model_members(folder)))["id"]
    for name, files in ((f"{form}-files", daemon.upload_dir(folder)), (f"{form}-tar", [archive])):
        job = daemon.quantize(name, files, "int4")
        assert job["status"] == "succeeded", job
        said = daemon.post("/v1/completions", json={"model": f"{name}:int4", "prompt": "the cat",
                                                    "max_tokens": 8, "temperature": 0})
        assert said.status_code == 200 and said.json()["choices"][0]["text"].strip()


@pytest.mark.parametrize("bad, word", [
    (("../evil", b"x"), "evil"), (("/tmp/phid-evil", b"x"), "evil"),
    (("a/../../evil", b"x"), "evil"), (("phi/../../evil", b"x"), "evil"),
    (link("config.json", "/etc/passwd", tarfile.SYMTYPE), "link"),
    (link("evil", "config.json", tarfile.LNKTYPE), "link"),
    (link("pipe", "", tarfile.FIFOTYPE), "regular"),
    (link("device", "", tarfile.CHRTYPE), "regular"),
    (("config.json", b"twice"), "twice"), (("x" * 129, b"x"), "xxx"),
])
def test_hostile_archive(daemon, tiny_dir, bad, word):
    file = daemon.upload("evil.tar", tar_of(model_members(tiny_dir) + [bad]))
    job = daemon.quantize("evil", [file["id"]])
    assert job["status"] == "failed", job
    assert word in job["error"]["message"], job["error"]
    assert str(daemon.data_dir) not in job["error"]["message"]
    assert not pathlib.Path("/tmp/phid-evil").exists()
    assert not list(daemon.data_dir.rglob("evil"))
    assert work(daemon) == [] and daemon.alive()


def test_sparse_archive(daemon, tmp_path):
    """GNU tar's sparse members would unpack to more than was uploaded."""
    (tmp_path / "config.json").write_text("{}")
    with open(tmp_path / "model.safetensors", "wb") as out:
        out.truncate(1 << 34)
    made = subprocess.run(["tar", "-C", str(tmp_path), "-S", "-cf", str(tmp_path / "s.tar"),
                           "config.json", "model.safetensors"], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("no GNU tar")
    file = daemon.upload("sparse.tar", tmp_path / "s.tar")
    job = daemon.quantize("sparse", [file["id"]])
    assert job["status"] == "failed" and "sparse" in job["error"]["message"], job


def member(name, size, kind=tarfile.REGTYPE, magic=b"ustar\x0000", more=b""):
    """A header as it is told to be; `more` is what old GNU headers have from byte 386 on."""
    block = bytearray(512)
    fields = [(0, name), (100, b"0000644\0"), (124, b"%011o\0" % size), (136, b"%011o\0" % 0),
              (148, b" " * 8), (156, kind), (257, magic), (386, more)]
    for at, value in fields:
        block[at:at + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def whole_blocks(data):
    return data + b"\0" * (-len(data) % 512)


def pax(size):
    body = b"%d comment=" % size
    body += b"a" * (size - len(body) - 1) + b"\n"
    return member(b"pax", len(body), tarfile.XHDTYPE) + whole_blocks(body)


def sparse_map(blocks):
    """Old GNU's list of pieces, 21 to a block, each of no bytes."""
    more = b"%011o\0%011o\0" % (0, 0) * 4 + b"\1" + b"%011o\0" % (1 << 30)
    line = b"%011o\0%011o\0" % (0, 0) * 21 + b"\1"
    return member(b"sparse", 0, tarfile.GNUTYPE_SPARSE, b"ustar  \0", more) + whole_blocks(line) * blocks


LONG = (b"././@LongLink", 0, tarfile.GNUTYPE_LONGNAME, b"ustar  \0")


@pytest.mark.parametrize("headers, word", [
    (lambda: member(*LONG) * 60_000, "Too many special headers"),
    (lambda: (member(b"pax", 11, tarfile.XHDTYPE) + whole_blocks(b"11 path=ab\n")) * 60_000, "plain .tar"),
    (lambda: (member(b"pax", 11, tarfile.XGLTYPE) + whole_blocks(b"11 path=ab\n")) * 60_000, "plain .tar"),
    (lambda: pax(1 << 20), "256 KiB"), (lambda: pax(1 << 24), "too large"),
    (lambda: member(b"././@LongLink", 1 << 20, *LONG[2:]) + b"a" * (1 << 20), "256 KiB"),
    (lambda: member(b"././@LongLink", 1 << 30, *LONG[2:]) + b"a" * (1 << 20), "too large"),
    (lambda: sparse_map(60_000), "member 1 take more than 256 KiB"),
], ids=["long-names", "pax", "pax-global", "pax-large", "pax-huge", "long-name", "huge-name", "sparse"])
def test_archive_of_large_headers(daemon, headers, word):
    """What stands before the data is kept in memory, and bounded."""
    data = headers() + member(b"config.json", 2) + whole_blocks(b"{}") + b"\0" * 1024
    file = daemon.upload("headers.tar", data)
    status = pathlib.Path(f"/proc/{daemon.process.pid}/status")
    (status.parent / "clear_refs").write_text("5")  # the peak begins anew
    before = peak_kib(status)
    job = daemon.quantize("headers", [file["id"]])
    assert job["status"] == "failed" and word in job["error"]["message"], job
    assert peak_kib(status) - before < 4096
    assert daemon.alive() and work(daemon) == []


def peak_kib(status):
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])


def test_archive_with_attributes(daemon, tiny_dir):
    """Extensions of the size that files have are read past."""
    data = b"".join(pax(100_000) + member(path.name.encode(), path.stat().st_size) + whole_blocks(path.read_bytes())
                    for path in sorted(tiny_dir.iterdir()))
    job = daemon.quantize("attributes", [daemon.upload("attributes.tar", data + b"\0" * 1024)["id"]])
    assert job["status"] == "succeeded", job


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(100_000), b"\0" * 10240],
                         ids=["empty", "byte", "noise", "zeros"])
def test_broken_archive(daemon, data):
    job = daemon.quantize("broken", [daemon.upload("broken.tar", data)["id"]])
    assert job["status"] == "failed" and job["error"]["code"] == "invalid_model", job


def test_archive_cut_short(daemon, tiny_dir):
    whole = tar_of(model_members(tiny_dir))
    job = daemon.quantize("cut", [daemon.upload("cut.tar", whole[:len(whole) // 2])["id"]])
    assert job["status"] == "failed", job
    assert job["error"]["message"]


def test_archive_of_two_folders(daemon):
    file = daemon.upload("two.tar", tar_of([("a/config.json", b"{}"), ("b/x", b"x")]))
    job = daemon.quantize("two", [file["id"]])
    assert job["status"] == "failed" and "one folder" in job["error"]["message"], job


def test_archive_of_too_many(daemon):
    file = daemon.upload("many.tar", tar_of([(f"f{i}", b"") for i in range(4097)]))
    job = daemon.quantize("many", [file["id"]])
    assert job["status"] == "failed" and job["error"]["code"] == "limit_exceeded", job


# ---- PyTorch's files ----

def torch_dir(tiny_dir, directory, pickle=None):
    directory.mkdir()
    for path in tiny_dir.glob("*.json"):
        (directory / path.name).write_bytes(path.read_bytes())
    write_torch(directory / "pytorch_model.bin", read_safetensors(tiny_dir / "model.safetensors"),
                pickle)
    return directory


def test_pytorch(daemon, tiny_dir, tiny_files, tmp_path):
    """The artifact is the same, byte for byte, as from safetensors: file by file, and as a .tar."""
    directory = torch_dir(tiny_dir, tmp_path / "torch")
    archive = daemon.upload("t.tar", tar_of(model_members(directory, "phi/")))["id"]
    sums = set()
    for files in (tiny_files, daemon.upload_dir(directory), [archive]):
        job = daemon.quantize("torch", files)
        assert job["status"] == "succeeded", job
        sums.add(job["artifacts"][0]["sha256"])
    assert len(sums) == 1


@pytest.mark.parametrize("call", ["posix\nsystem", "builtins\nexec", "subprocess\ngetoutput"])
def test_hostile_pickle(daemon, tiny_dir, tmp_path, call):
    evidence = tmp_path / "evidence"
    dump = (b"\x80\x02c" + call.encode() + b"\n" + pickled_text(f"touch {evidence}") + b"\x85R.")
    files = daemon.upload_dir(torch_dir(tiny_dir, tmp_path / "torch", dump))
    job = daemon.quantize("pickle", files)
    assert job["status"] == "failed" and job["error"]["code"] == "unsupported_model", job
    assert f"global {call.replace(chr(10), '.')} at byte 2" in job["error"]["message"]
    assert not evidence.exists() and daemon.alive()


@pytest.mark.parametrize("name", ["saved_model.pb", "tf_model.h5", "model.ckpt.index"])
def test_tensorflow(daemon, tiny_dir, name):
    members = [(path.name, path.read_bytes()) for path in sorted(tiny_dir.glob("*.json"))]
    files = [daemon.upload(file, data)["id"] for file, data in members + [(name, b"x")]]
    error = error_of(daemon.submit("tf", files), 400, "source.files")
    assert name in error["message"] and "use the safetensors files" in error["message"]
    archive = daemon.upload("tf.tar", tar_of(members + [(name, b"x")]))["id"]
    job = daemon.quantize("tf", [archive])
    assert job["status"] == "failed" and job["error"]["code"] == "unsupported_model", job
    assert name in job["error"]["message"] and "TensorFlow" in job["error"]["message"]


# ---- lying model files ----

def safetensors_header(header, data=b""):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text)) + text + data


EMBED = "model.embed_tokens.weight"


@pytest.mark.parametrize("weights", [
    b"", b"\0" * 8, b"\xff" * 16, struct.pack("<Q", 1 << 62) + b"{}",
    safetensors_header(b"not json"), safetensors_header({}),
    safetensors_header({EMBED: {"dtype": "BF16", "shape": [1024, 64],
                                "data_offsets": [0, 1024 * 64 * 2]}}),
    safetensors_header({EMBED: {"dtype": "BF16", "shape": [1 << 40, 1 << 40],
                                "data_offsets": [0, 16]}}, b"x" * 16),
    safetensors_header({EMBED: {"dtype": "BF16", "shape": [-1, 64], "data_offsets": [0, 16]}},
                       b"x" * 16),
    safetensors_header({EMBED: {"dtype": "I99", "shape": [8], "data_offsets": [0, 16]}}, b"x" * 16),
    safetensors_header({EMBED: {"dtype": "BF16", "shape": [8], "data_offsets": [16, 0]}}, b"x" * 16),
])
def test_lying_safetensors(daemon, tiny_dir, weights):
    files = [daemon.upload(path.name, path)["id"] for path in sorted(tiny_dir.iterdir())
             if path.suffix == ".json"]
    files.append(daemon.upload("model.safetensors", weights)["id"])
    job = daemon.quantize("lying", files)
    assert job["status"] == "failed", job
    assert job["error"]["code"] in ("invalid_model", "unsupported_model", "limit_exceeded",
                                    "not_found"), job["error"]
    assert "safetensors" in job["error"]["message"] or EMBED in job["error"]["message"]
    assert str(daemon.data_dir) not in job["error"]["message"]
    assert daemon.get("/v1/models/lying").status_code == 404
    assert daemon.alive()


@pytest.mark.parametrize("change", [
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, {"hidden_size": 128},
    {"num_hidden_layers": 2}, {"num_attention_heads": 0}, {"vocab_size": -5},
    {"hidden_size": "64"}, {"num_hidden_layers": 10 ** 12},
])
def test_lying_config(daemon, tiny_dir, change):
    config = json.loads((tiny_dir / "config.json").read_text())
    config.update(change)
    files = [daemon.upload(path.name, path)["id"] for path in sorted(tiny_dir.iterdir())
             if path.name != "config.json"]
    files.append(daemon.upload("config.json", json.dumps(config).encode())["id"])
    job = daemon.quantize("lying", files)
    assert job["status"] == "failed", job
    assert len(job["error"]["message"]) > 10
    assert daemon.alive()


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF" + b"\xff" * 60, os.urandom(1000)],
                         ids=["empty", "magic", "huge", "noise"])
def test_lying_gguf(daemon, data):
    job = daemon.quantize("lying", [daemon.upload("m.gguf", data)["id"]])
    assert job["status"] == "failed", job
    assert "m.gguf" in job["error"]["message"], job["error"]
    assert daemon.alive()


def test_deep_json(daemon, tiny_dir):
    files = [daemon.upload(path.name, path)["id"] for path in sorted(tiny_dir.iterdir())
             if path.name != "config.json"]
    files.append(daemon.upload("config.json", b'{"a":' + b"[" * 100_000)["id"])
    job = daemon.quantize("deep", files)
    assert job["status"] == "failed" and "config.json" in job["error"]["message"], job
