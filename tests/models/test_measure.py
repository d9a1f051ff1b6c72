"""models/measure.py against a small server that answers as the daemon does."""

import http.server
import json
import math
import os
import sys
import threading

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "models"))

import measure  # noqa: E402


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every chat with "It is 7." and every token with log probability -0.5."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        if body["model"].endswith(":int8"):
            return self.reply(404, {"error": {"message": "no such model"}})
        if self.path == "/v1/chat/completions":
            return self.reply(200, {"choices": [{"message": {"content": "It is 7."}}]})
        tokens = body["prompt"].split()
        return self.reply(200, {"choices": [{"logprobs": {
            "token_logprobs": [None] + [-0.5] * (len(tokens) - 1)}}]})

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen = []
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def daemon(server, key=None):
    return measure.Daemon("http://127.0.0.1:{}".format(server.server_address[1]), key)


def test_score_and_request(server):
    asked = [{"question": "a", "answer": "7"}, {"question": "b", "answer": "8"}]
    right, wrong = measure.count_right(daemon(server, "secret"), "m:fp32", asked, 2)
    assert right == 1 and wrong == [(asked[1], "It is 7.")]
    path, key, body = server.seen[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert body["temperature"] == 0 and body["max_tokens"] == 24


def test_perplexity(server):
    text = "one two three\n" * 9
    found = measure.perplexity(daemon(server), "m:fp32", text, 2)
    assert math.isclose(found, math.exp(0.5))
    prompts = sorted(body["prompt"] for _, _, body in server.seen)
    assert len(prompts) == 3 and "".join(prompts) == text
    assert all(body["echo"] and body["max_tokens"] == 0 for _, _, body in server.seen)


def test_an_error_names_the_route_and_the_model(server):
    with pytest.raises(SystemExit, match="chat/completions for m:int8: 404 .*no such model"):
        measure.ask(daemon(server), "m:int8", "a")


def test_url_must_be_http():
    with pytest.raises(SystemExit, match="--url"):
        measure.Daemon("127.0.0.1:8080", None)
