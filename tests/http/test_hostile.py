"""Clients that lie, leave or send rubbish: the daemon answers with an error or not at all, goes on,
keeps no work for those who left, and still stops cleanly.
"""

import concurrent.futures
import json
import random
import re
import socket
import time

import pytest

WORKERS = 8
LEAVERS = 160
GROWTH_BYTES_MAX = 256 << 20
QUIET_TIMEOUT_S = 30


@pytest.fixture(scope="module")
def target(start_daemon, tiny_dir):
    """A daemon of this file's own: its memory is watched, and it is stopped at the end."""
    daemon = start_daemon(max_body="1M", idle_timeout=2, drain_timeout=5)
    files = daemon.upload_dir(tiny_dir)
    job = daemon.quantize("tiny", files, "int8")
    assert job["status"] == "succeeded", job
    daemon.model = job["result_model"]
    daemon.files = files
    return daemon


def talk(daemon, data, timeout_s=5, limit=1 << 16):
    """Sends bytes and returns what comes back until the end, `limit` or the timeout."""
    answer = b""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=timeout_s) as link:
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            while len(answer) < limit:
                part = link.recv(65536)
                if not part:
                    break
                answer += part
        except OSError:
            pass
    return answer


def exchange(daemon, head, body=b"", timeout_s=10):
    """One request on a connection that stays open; returns the status and the answer's text."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=timeout_s) as link:
        link.sendall(head + b"Host: x\r\nConnection: close\r\n\r\n" + body)
        answer = b""
        while True:
            try:
                part = link.recv(65536)
            except ConnectionResetError:
                break
            if not part:
                break
            answer += part
    assert answer, "the connection was closed without an answer"
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode()


def post(daemon, path, body, kind="application/json"):
    head = (f"POST {path} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n")
    return exchange(daemon, head.encode(), body)


def gauge(daemon, name):
    text = daemon.get("/metrics").text
    return float(re.search(rf"^{name} (\S+)$", text, re.M).group(1))


def resident_bytes(daemon):
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) << 10


def wait_until(what, condition):
    deadline = time.monotonic() + QUIET_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def chat_body(daemon, **fields):
    return json.dumps({"model": daemon.model, "messages": [{"role": "user", "content": "hello"}],
                       "max_tokens": 200, "ignore_eos": True, **fields}).encode()


MALFORMED = {
    "no request line": b"\r\n\r\n\r\n\r\n",
    "only NULs": b"\0" * 4096,
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 600,
    "no version": b"GET /healthz\r\n\r\n",
    "HTTP/9.9": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "a NUL in the path": b"GET /v1/models/a\0b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a NUL in a header": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\0b\r\n\r\n",
    "header without colon": b"GET /v1/models HTTP/1.1\r\nHost x\r\n\r\n",
    "huge header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * (1 << 20) + b"\r\n\r\n",
    "many headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20000 + b"\r\n",
    "huge path": b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "many parameters": b"GET /v1/files?" + b"a=1&" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
                   b"Content-Length: 9\r\n\r\n{}",
    "negative length": b"POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
    "length beyond 64 bits": b"POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: "
                             b"99999999999999999999999\r\n\r\n{}",
    "length and chunks": b"POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
                         b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "bad chunk size": b"POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                      b"\r\nzz\r\n{}\r\n0\r\n\r\n",
    "vast chunk size": b"PUT /v1/files?filename=a.bin&purpose=model HTTP/1.1\r\nHost: x\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
    "body that ends early": b"PUT /v1/files?filename=b.bin&purpose=model HTTP/1.1\r\nHost: x\r\n"
                            b"Content-Length: 1000000\r\n\r\nabc",
    "form that ends early": b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n"
                            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
                            b"Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n",
}


def test_malformed_http_gets_an_error_or_nothing(target):
    with concurrent.futures.ThreadPoolExecutor(len(MALFORMED)) as pool:
        answers = dict(zip(MALFORMED, pool.map(lambda data: talk(target, data),
                                               MALFORMED.values())))
    for name, answer in answers.items():
        error = re.match(rb"HTTP/1\.[01] [45]\d\d ", answer)
        assert not answer or error or MALFORMED[name].startswith(b"GET"), (name, answer[:200])
        assert b"root:" not in answer
    assert target.alive()


BODIES = {
    "an empty body": b"",
    "half an object": b'{"model": "a",',
    "a list": b"[1, 2]",
    "deep lists": b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}",
    "deep objects": b'{"a":' * 100000,
    "an unclosed string": b'{"a": "' + b"\\\\" * 1000,
    "invalid UTF-8": b'{"model": "\xff\xfe", "input": "\xc3("}',
    "half of a surrogate pair": b'{"model": "\\ud800", "input": "a"}',
    "an escaped NUL": b'{"model": "a\\u0000b", "input": "a"}',
    "a raw NUL": b'{"model": "a\0b", "input": "a"}',
    "a number beyond any": b'{"model": 1' + b"0" * 5000 + b"}",
    "NaN": b'{"model": "a", "temperature": NaN}',
    "keys twice": b'{"model": "a", "model": "b"}',
    "what is longer than max_body": b'{"a": "' + b"x" * (2 << 20) + b'"}',
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/tokenize",
                                  "/v1/detokenize", "/v1/quantization/jobs"])
def test_bodies_that_are_no_request(target, path):
    for name, body in BODIES.items():
        status, text = post(target, path, body)
        assert status in (400, 413), (name, status, text[:300])
        assert json.loads(text)["error"]["message"], name
        assert str(target.data_dir) not in text
    assert post(target, path, b"{}", "text/plain")[0] == 415
    assert post(target, path, b"{}", "application/jsonx")[0] == 415
    assert target.alive()


NAMES = ["../../etc/passwd", "..", ".", "/etc/passwd", "a/../b", "a\\..\\b", "%2e%2e%2f", "a" * 5000,
         "tiny:int8/../x", "tiny:", ":int8", "tiny:int8:int8", "\u202e\u0000"[:1], "%s%n%p", ""]


@pytest.mark.parametrize("name", NAMES)
def test_names_never_become_paths(target, name):
    answers = [
        target.post("/v1/chat/completions", data=chat_body(target, model=name)),
        target.post("/v1/tokenize", json={"model": name, "input": "a"}),
        target.submit(name + "/x", target.files),
        target.submit("tiny2", [name]),
        target.post("/v1/quantization/jobs", json={
            "model": "tiny2", "precision": "int4", "source": {"path": name or "x"}}),
        target.request("PUT", "/v1/files", data=b"x", params={"filename": name + "/x",
                                                             "purpose": "model"}),
    ]
    for answer in answers:
        assert answer.status_code in (400, 403, 404, 413), answer.text
        assert str(target.data_dir) not in answer.text
        assert "root:" not in answer.text


@pytest.mark.parametrize("path", ["/v1/files/%2e%2e%2f%2e%2e%2fetc%2fpasswd/content",
                                  "/v1/files/../../../etc/passwd", "/v1/models/%00", "/v1/models/%zz",
                                  "/v1/models/%ff%fe", "/v1/files/%2fetc%2fpasswd", "//etc/passwd",
                                  "/v1/quantization/jobs/..%2f..", "/v1/files/a%00b/content"])
def test_paths_never_leave_the_routes(target, path):
    status, text = exchange(target, f"GET {path} HTTP/1.1\r\n".encode())
    assert status in (400, 404), text
    assert "root:" not in text and str(target.data_dir) not in text


RANGES = ["bytes=0-0", "bytes=-1", "bytes=5-2", "bytes=99999999999999999999-", "bytes=-0", "bytes=-",
          "bytes=18446744073709551615-18446744073709551615", "bytes=0-18446744073709551615",
          "bytes=0-1,2-3,4-5", "bytes=a-b", "bits=0-1", "bytes=--5", "bytes=" + "0-1," * 3000,
          "bytes= 1 - 2", "bytes=-18446744073709551615"]


def test_ranges_that_lie(target):
    data = bytes(range(256)) * 8
    file_id = target.upload("ranges.bin", data)["id"]
    for wanted in RANGES:
        answer = target.get(f"/v1/files/{file_id}/content", headers={"Range": wanted})
        assert answer.status_code in (200, 206, 416), wanted
        if answer.status_code == 416:
            continue
        assert answer.content in data, wanted
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        if answer.status_code == 200:
            assert answer.content == data, wanted


CONTENT_RANGES = ["bytes 0-9/5", "bytes 5-9/10", "bytes 9-0/10", "bytes 0-3/18446744073709551616",
                  "bytes -1-3/4", "bytes */4", "bytes 0-3/*", "bytes 18446744073709551615-3/4",
                  "bytes 0-0/4", "bytes 0-3", "lines 0-3/4", "bytes 0-3/4/4", "bytes 0-3/0",
                  "bytes 0-1099511627775/1099511627776"]


def test_content_ranges_that_lie(target):
    before = len(target.get("/v1/files").json()["data"])
    for place in CONTENT_RANGES:
        answer = target.request("PUT", "/v1/files", data=b"abcd", headers={"Content-Range": place},
                                params={"filename": "lies.bin", "purpose": "model"})
        assert answer.status_code in (400, 409, 413), (place, answer.text)
    assert len(target.get("/v1/files").json()["data"]) == before


LIES = [{"n": 129}, {"n": 0}, {"n": -1}, {"n": 1e300}, {"max_tokens": -1}, {"max_tokens": 1 << 62},
        {"temperature": -1}, {"temperature": 1e308}, {"top_p": 0}, {"top_p": "1"}, {"seed": 1 << 62},
        {"stop": ["a"] * 5}, {"stop": ["x" * 5000]}, {"stop": [""]}, {"stop": {}}, {"stop": [[]]},
        {"logit_bias": {str(i): 1 for i in range(5000)}}, {"logit_bias": {"-1": 1}},
        {"logit_bias": {"1": 1e300}}, {"logit_bias": {"1048575": 1}}, {"logit_bias": []},
        {"top_logprobs": 21, "logprobs": True}, {"logprobs": "yes"}, {"stream": "yes"},
        {"stream_options": {}}, {"messages": []}, {"messages": {}}, {"messages": [[]]},
        {"messages": [{"role": "user"}]}, {"messages": [{"role": "root", "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}] * 5000},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": "a " * 20000}]}]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: next(iter(lie)))
def test_parameters_out_of_range(target, lie):
    answer = target.post("/v1/chat/completions", data=chat_body(target, **{"max_tokens": 4, **lie}),
                         headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        assert "seed" in lie or "max_tokens" in lie, lie
    else:
        assert answer.json()["error"]["message"]


def requests_to_leave(daemon):
    """Whole requests of every kind that takes time; clients leave within them."""
    def with_body(line, body, kind="application/json"):
        return (f"{line} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode() + body

    text = json.dumps({"model": daemon.model, "input": "word " * 20000}).encode()
    form = (b"--x\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nmodel\r\n--x\r\n"
            b"Content-Disposition: form-data; name=\"file\"; filename=\"left.bin\"\r\n\r\n" +
            b"y" * 300000 + b"\r\n--x--\r\n")
    job = json.dumps({"model": "left", "precision": "int4",
                      "source": {"files": daemon.files}}).encode()
    return [
        with_body("POST /v1/chat/completions", chat_body(daemon)),
        with_body("POST /v1/chat/completions", chat_body(daemon, stream=True, n=3)),
        with_body("POST /v1/chat/completions", chat_body(daemon, logprobs=True, top_logprobs=20)),
        with_body("POST /v1/completions", json.dumps(
            {"model": daemon.model, "prompt": ["a", "b"], "n": 2, "stream": True,
             "max_tokens": 200}).encode()),
        with_body("POST /v1/tokenize", text),
        with_body("POST /v1/files", form, "multipart/form-data; boundary=x"),
        with_body("PUT /v1/files?filename=left&purpose=model", b"z" * 300000,
                  "application/octet-stream"),
        with_body("POST /v1/quantization/jobs", job),
        f"GET /v1/files/{daemon.files[-1]}/content HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    ]


def leave(daemon, request, seed):
    """Sends a part or all of a request, reads a little, and goes, gently or with a reset."""
    rng = random.Random(seed)
    whole = rng.random() < 0.7
    cut = len(request) if whole else rng.randrange(1, len(request))
    try:
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=5) as link:
            link.sendall(request[:cut])
            if whole and rng.random() < 0.6:
                link.settimeout(rng.choice([0.01, 0.1, 0.3]))
                link.recv(rng.choice([1, 200, 5000]))
            if rng.random() < 0.5:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                b"\x01\0\0\0\0\0\0\0")
    except OSError:
        pass


def test_clients_that_leave_cost_nothing(target):
    requests = requests_to_leave(target)
    before = resident_bytes(target)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda i: leave(target, requests[i % len(requests)], i), range(LEAVERS)))
    wait_until("sequences go on for clients that left",
               lambda: gauge(target, "phid_sequences_running") == 0 and
               gauge(target, "phid_sequences_waiting") == 0)
    wait_until("requests of clients that left stay",
               lambda: gauge(target, "phid_http_requests_active") == 1)
    assert gauge(target, "phid_kv_pages_used") == 0
    assert resident_bytes(target) - before < GROWTH_BYTES_MAX
    answer = target.post("/v1/chat/completions", data=chat_body(target, max_tokens=3))
    assert answer.status_code == 200, answer.text


def test_a_client_may_not_drip_its_body(target):
    """Each byte resets a timer that only looks for silence; the rate has a floor."""
    def drip(path):
        with socket.create_connection(("127.0.0.1", target.port), timeout=5) as link:
            link.sendall(f"{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                         "Content-Length: 100000\r\n\r\n".encode())
            link.settimeout(0.3)
            for _ in range(30):
                try:
                    link.sendall(b" ")
                    return link.recv(100)
                except socket.timeout:
                    pass
        return b"still open"

    paths = ["POST /v1/tokenize", "PUT /v1/files?filename=drip&purpose=model", "POST /v1/nothing"]
    with concurrent.futures.ThreadPoolExecutor(len(paths)) as pool:
        answers = list(pool.map(drip, paths))
    assert [answer.split()[1] for answer in answers] == [b"408", b"408", b"404"]


def test_logprobs_of_a_whole_answer_are_bounded(target):
    fields = {"n": 128, "max_tokens": 60, "logprobs": True, "top_logprobs": 20}
    answer = target.post("/v1/chat/completions", data=chat_body(target, **fields),
                         headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text[:300]
    assert answer.json()["error"]["param"] == "logprobs"


def test_bodies_of_many_clients_are_bounded(start_daemon):
    """None of them is finished: all that arrived is held."""
    daemon = start_daemon()
    piece = b'{"a": "' + b"x" * (30 << 20)
    refused = 0
    links = []
    for _ in range(20):
        link = socket.create_connection(("127.0.0.1", daemon.port), timeout=10)
        links.append(link)
        try:
            link.sendall(b"POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: "
                         b"application/json\r\nContent-Length: 33000000\r\n\r\n" + piece)
            link.settimeout(0.1)
            refused += link.recv(100).startswith(b"HTTP/1.1 503 ")
        except socket.timeout:
            pass
        except OSError:
            refused += 1
    assert 1 <= refused <= 6
    assert resident_bytes(daemon) < 1 << 30
    for link in links:
        link.close()
    wait_until("bodies of clients that left stay",
               lambda: gauge(daemon, "phid_http_requests_active") == 1)
    assert daemon.post("/v1/tokenize", json={"model": "none", "input": "a"}).status_code == 404
    assert daemon.stop() == 0


def test_errors_do_not_tell_where_files_lie(start_daemon, tiny_dir):
    daemon = start_daemon()
    job = daemon.quantize("tiny", daemon.upload_dir(tiny_dir), "int8")
    for blob in (daemon.data_dir / "blobs").iterdir():
        blob.unlink()
    answer = daemon.post("/v1/completions", json={"model": job["result_model"], "prompt": "a"})
    assert answer.status_code == 500
    assert "tiny:int8" in answer.json()["error"]["message"]
    assert str(daemon.data_dir) not in answer.text


def test_stops_cleanly_under_fire(target):
    """The last test of this file: SIGTERM while clients come and go."""
    requests = requests_to_leave(target)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        done = [pool.submit(leave, target, requests[i % len(requests)], i) for i in range(60)]
        time.sleep(0.3)
        assert target.stop() == 0, target.log()[-3000:]
        for one in done:
            one.result()
