"""/v1/models: the list, one model, aliases, delete."""

import os
import time

import pytest
import requests

from test_files import error_of


@pytest.fixture(scope="module")
def models(start_daemon, tiny_dir):
    """A daemon with the models tiny:fp16, tiny:int4 and other:fp32, made in this order."""
    daemon = start_daemon()
    files = daemon.upload_dir(tiny_dir)
    for name, precision in (("tiny", "fp16"), ("tiny", "int4"), ("other", "fp32")):
        assert daemon.quantize(name, files, precision)["status"] == "succeeded"
    return daemon


def test_list(models):
    answer = models.get("/v1/models")
    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["tiny:fp16", "tiny:int4", "other:fp32"]
    for model in body["data"]:
        assert model["object"] == "model" and model["owned_by"] == "phid"
        assert model["id"].endswith(":" + model["precision"])
        assert model["architecture"] == "phi3"
        assert model["bytes"] > 0 and model["context_length"] > 0
        assert abs(model["created"] - time.time()) < 3600
        assert model["quality"]["perplexity"]["result"] > 1


def test_one(models):
    listed = models.get("/v1/models").json()["data"]
    assert models.get("/v1/models/tiny:int4").json() == listed[1]
    assert models.get("/v1/models/tiny%3Aint4").json() == listed[1]
    # The bare name stands for the precision that was made first.
    assert models.get("/v1/models/tiny").json() == listed[0]


@pytest.mark.parametrize("name", ["none", "tiny:int8", "tin", "tiny:", "..%2F..", "%00", "%ff"])
def test_unknown(models, name):
    answer = models.get("/v1/models/" + name)
    assert answer.status_code in (400, 404)
    if answer.status_code == 404 and name in ("none", "tiny:int8"):
        error = error_of(answer, 404)
        assert error["code"] == "model_not_found"
        assert "tiny:int4" in error["message"]


def test_wrong_method(models):
    answer = models.request("PUT", "/v1/models/tiny")
    assert answer.status_code == 405
    assert "GET" in answer.headers["Allow"] and "DELETE" in answer.headers["Allow"]


def test_models_survive_a_restart(models):
    before = models.get("/v1/models").json()["data"]
    assert models.stop() == 0
    models.start()
    assert models.get("/v1/models").json()["data"] == before
    models.kill()
    models.start()
    assert models.get("/v1/models").json()["data"] == before


def test_replacing_keeps_the_order(models, tiny_dir):
    files = models.upload_dir(tiny_dir)
    job = models.quantize("tiny", files, "fp16")
    assert job["status"] == "succeeded"
    assert [model["id"] for model in models.get("/v1/models").json()["data"]] == [
        "tiny:fp16", "tiny:int4", "other:fp32"]


def test_model_without_its_bytes_is_dropped(start_daemon, tiny_dir):
    daemon = start_daemon()
    job = daemon.quantize("lost", daemon.upload_dir(tiny_dir), "int8")
    daemon.stop()
    os.unlink(daemon.data_dir / "blobs" / job["artifacts"][0]["sha256"])
    daemon.start()
    assert daemon.get("/v1/models").json()["data"] == []
    assert "bytes_missing" in daemon.log()


def test_delete(models):
    answer = models.delete("/v1/models/other:fp32")
    assert answer.status_code == 200
    assert answer.json() == {"id": "other:fp32", "object": "model", "deleted": True}
    error_of(models.get("/v1/models/other"), 404)
    error_of(models.delete("/v1/models/other:fp32"), 404)
    # Deleting what the bare name stands for leaves the next precision.
    assert models.delete("/v1/models/tiny").json()["id"] == "tiny:fp16"
    assert models.get("/v1/models/tiny").json()["id"] == "tiny:int4"
    models.kill()
    models.start()
    assert [model["id"] for model in models.get("/v1/models").json()["data"]] == ["tiny:int4"]


def test_delete_while_in_use(daemon, sample_dir):
    """The model goes from the list at once; the answer that uses it comes to its end."""
    daemon.quantize("doomed", daemon.upload_dir(sample_dir), "int8")
    body = {"model": "doomed", "prompt": "Once upon a time", "max_tokens": 300, "stream": True,
            "ignore_eos": True, "temperature": 0}
    with daemon.post("/v1/completions", json=body, stream=True) as answer:
        assert answer.status_code == 200, answer.text
        lines = answer.iter_lines()
        next(lines)
        assert daemon.delete("/v1/models/doomed:int8").status_code == 200
        assert daemon.get("/v1/models/doomed").status_code == 404
        assert daemon.post("/v1/completions", json=dict(body, stream=False)).status_code == 404
        rest = [line for line in lines if line.startswith(b"data: ")]
    assert rest[-1] == b"data: [DONE]"
    assert daemon.alive()
