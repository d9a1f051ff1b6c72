"""What a stop does to answers that are being made, and what runs twice at once."""

import json
import signal
import threading
import time

import pytest
import requests

STORY = [{"role": "user", "content": "Tell me a story about a cat."}]


@pytest.fixture
def served(start_daemon, sample_dir):
    """A daemon of its own with the sample model at FP32: the slowest, so that streams last."""
    daemon = start_daemon(drain_timeout=100)
    job = daemon.quantize("phi-sample", daemon.upload_dir(sample_dir), "fp32")
    assert job["status"] == "succeeded", job
    yield daemon, job["result_model"]
    daemon.stop()


def stream(daemon, model, **fields):
    return daemon.post("/v1/chat/completions", stream=True, json={
        "model": model, "messages": STORY, "stream": True, "temperature": 0, **fields})


def test_running_streams_finish(served):
    daemon, model = served
    answer = stream(daemon, model, max_tokens=700, ignore_eos=True)
    lines = answer.iter_lines()
    next(lines)
    daemon.process.send_signal(signal.SIGTERM)
    data = [line for line in lines if line.startswith(b"data: ")]
    assert data[-1] == b"data: [DONE]"
    assert json.loads(data[-2][6:])["choices"][0]["finish_reason"] == "length"
    assert daemon.process.wait(timeout=100) == 0


def test_new_work_is_refused_while_draining(served):
    daemon, model = served
    answers = [stream(daemon, model, max_tokens=600, ignore_eos=True) for _ in range(4)]
    connection = requests.Session()
    assert connection.get(daemon.url + "/readyz", timeout=10).status_code == 200
    daemon.process.send_signal(signal.SIGTERM)
    # The listener is closed, but a connection that is open may still ask.
    refused = None
    deadline = time.monotonic() + 5
    while refused is None and time.monotonic() < deadline:
        ready = connection.get(daemon.url + "/readyz", timeout=10)
        if ready.status_code == 503:
            refused = connection.post(daemon.url + "/v1/chat/completions", timeout=10, json={
                "model": model, "messages": STORY})
    assert refused is not None, "the daemon ended before it could refuse"
    assert refused.status_code == 503
    assert "Retry-After" in refused.headers
    assert refused.json()["error"]["code"] == "overloaded"
    for answer in answers:
        assert list(answer.iter_lines())[-2] == b"data: [DONE]"
    assert daemon.process.wait(timeout=100) == 0


def test_two_requests_share_the_steps(served):
    daemon, model = served

    def steps():
        for line in daemon.get("/metrics").text.splitlines():
            if line.startswith("phid_steps_total"):
                return float(line.split()[-1])
        raise AssertionError("no phid_steps_total in /metrics")

    def ask():
        daemon.post("/v1/chat/completions", json={
            "model": model, "messages": STORY, "max_tokens": 900, "ignore_eos": True,
            "temperature": 0})

    before = steps()
    ask()
    alone = steps() - before
    threads = [threading.Thread(target=ask) for _ in range(4)]
    before = steps()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = steps() - before
    # One after the other would take four times the steps of one.
    assert together < 2 * alone
