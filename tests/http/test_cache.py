"""Packed weights: kept across restarts, gone with the model."""

import re

import pytest


@pytest.fixture
def daemon(start_daemon, tiny_dir):
    """A daemon of its own with the model tiny:int8."""
    daemon = start_daemon()
    job = daemon.quantize("tiny", daemon.upload_dir(tiny_dir), "int8")
    assert job["status"] == "succeeded", job
    return daemon


def packed(daemon):
    return sorted((daemon.data_dir / "packed").iterdir())


def answer(daemon):
    body = {"model": "tiny", "prompt": "Once upon", "max_tokens": 20, "temperature": 0,
            "ignore_eos": True, "logprobs": 1}
    answered = daemon.post("/v1/completions", json=body)
    assert answered.status_code == 200, answered.text
    return answered.json()["choices"][0]


def loads(daemon):
    text = daemon.get("/metrics").text
    return dict(re.findall(r'phid_model_loads_total\{weights="(\w+)"\} (\d+)', text))


def restart(daemon):
    assert daemon.stop() == 0
    daemon.start()


def test_restart_maps_what_the_first_load_packed(daemon):
    first = answer(daemon)
    assert loads(daemon) == {"mapped": "0", "built": "1", "in_memory": "0", "failed": "0"}
    assert len(packed(daemon)) == 1
    made = packed(daemon)[0].stat()
    restart(daemon)
    assert answer(daemon) == first
    assert loads(daemon) == {"mapped": "1", "built": "0", "in_memory": "0", "failed": "0"}
    assert packed(daemon)[0].stat().st_ino == made.st_ino
    assert "cache=mapped" in daemon.log()
    # What it takes is told before it is taken.
    assert re.search(r"model_loading model=tiny:int8 weights_bytes=\d+ kv_bytes=\d+", daemon.log())


def test_damage_is_noticed_and_mended(daemon):
    first = answer(daemon)
    assert daemon.stop() == 0
    with open(packed(daemon)[0], "r+b") as file:
        file.seek(10000)
        byte = file.read(1)[0]
        file.seek(10000)
        file.write(bytes([byte ^ 4]))
    daemon.start()
    assert answer(daemon) == first
    assert loads(daemon)["built"] == "1"
    assert "damaged" in daemon.log()
    restart(daemon)
    assert answer(daemon) == first
    assert loads(daemon)["mapped"] == "1"


def test_deleted_with_the_model(daemon):
    answer(daemon)
    assert len(packed(daemon)) == 1
    assert daemon.delete("/v1/models/tiny:int8").status_code == 200
    assert packed(daemon) == []


def test_leftovers_go_at_start(daemon):
    answer(daemon)
    kept = packed(daemon)
    daemon.kill()
    for name in ("0" * 64, kept[0].name + ".tmp-abcdef"):
        (daemon.data_dir / "packed" / name).write_bytes(b"x" * 100)
    daemon.start()
    assert packed(daemon) == kept


def test_no_place_for_it_is_no_failure(daemon):
    first = answer(daemon)
    restart(daemon)
    # The folder goes: what root cannot write to either.
    packed(daemon)[0].unlink()
    (daemon.data_dir / "packed").rmdir()
    assert answer(daemon) == first
    assert loads(daemon)["in_memory"] == "1"
    assert "weights_not_cached" in daemon.log()


def test_off(daemon):
    first = answer(daemon)
    assert daemon.stop() == 0
    daemon.settings["weights_cache"] = "off"
    daemon.start()
    assert packed(daemon) == []
    assert answer(daemon) == first
    assert packed(daemon) == []
    assert loads(daemon)["in_memory"] == "1"
