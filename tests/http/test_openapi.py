"""GET /openapi.json against the daemon: every answer is what the description says it is.

Each operation has an entry in EXAMPLES that makes requests with good and with bad input; `Checked`
holds every answer against the schema of its route, method and status, every event of a stream
against the schema of its events, and every request that was accepted against the schema of its
body.
"""

import json
import re

import jsonschema
import pytest

KEY = "a-key-for-the-tests"
HELLO = [{"role": "user", "content": "What is 3 plus 4?"}]
METHODS = ("get", "put", "post", "delete", "head")
# Nothing that a client sends to these is wrong but the method.
WITHOUT_ERRORS = {("get", "/"), ("get", "/healthz"), ("get", "/openapi.json")}
JOBS = "/v1/quantization/jobs"
EXPORTS = "/v1/exports"
FILE = "/v1/files/{id}"


class Checked:
    """Requests to one daemon, with every answer checked; `seen` collects (method, route, status)."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.document = daemon.get("/openapi.json").json()
        self.seen = set()

    def resolve(self, thing):
        while "$ref" in thing:
            parts = thing["$ref"].split("/")
            assert parts[0] == "#", thing
            thing = self.document
            for part in parts[1:]:
                thing = thing[part]
        return thing

    def validate(self, schema, value, where):
        whole = {"allOf": [schema], "components": self.document["components"]}
        errors = list(jsonschema.Draft202012Validator(whole).iter_errors(value))
        if errors:
            best = jsonschema.exceptions.best_match(errors)
            place = "/".join(str(part) for part in best.absolute_path)
            pytest.fail(f"{where}: at '{place}': {best.message}\n{json.dumps(value)[:2000]}")

    def operation(self, method, route):
        return self.document["paths"][route][method]

    def call(self, method, route, status, id=None, headers=None, **arguments):
        """Makes the request, expects the status, checks the answer and returns it."""
        path = route if id is None else route.replace("{id}", id)
        answer = self.daemon.request(method.upper(), path, headers=headers, **arguments)
        where = f"{method} {route} {answer.status_code}"
        assert answer.status_code == status, f"{where}: {answer.text[:500]}"
        self.seen.add((method, route, status))
        assert answer.headers["x-request-id"]
        self.check_answer(self.operation(method, route), answer, where)
        if "json" in arguments and status == 200:
            body = self.operation(method, route)["requestBody"]["content"]["application/json"]
            self.validate(body["schema"], arguments["json"], f"{where}: the request")
        return answer

    def check_answer(self, operation, answer, where):
        responses = operation["responses"]
        code = str(answer.status_code)
        # A success or a redirection must be described by its own status.
        response = responses.get(code) if answer.status_code < 400 else responses.get(
            code, responses["default"])
        assert response, f"{where} is not described"
        response = self.resolve(response)
        for name in response.get("headers", {}):
            assert name in answer.headers, f"{where}: the header {name} is missing"
        content = response.get("content", {})
        if answer.request.method == "HEAD" or not content:
            assert answer.content == b"", f"{where}: a body that is not described"
            return
        kind = answer.headers["Content-Type"].split(";")[0]
        assert kind in content, f"{where}: {kind} is not described"
        if kind == "application/json":
            self.validate(content[kind]["schema"], answer.json(), where)
        elif kind == "text/event-stream":
            self.check_events(content[kind], answer.text, where)

    def check_events(self, media, text, where):
        blocks = text.split("\n\n")
        assert blocks[-2:] == ["data: [DONE]", ""], f"{where}: the stream has no end"
        assert len(blocks) > 3, f"{where}: an empty stream"
        for block in blocks[:-2]:
            assert block.startswith("data: "), f"{where}: {block[:100]}"
            self.validate(media["x-event"], json.loads(block[6:]), f"{where}: an event")


@pytest.fixture(scope="module")
def checked(daemon):
    return Checked(daemon)


@pytest.fixture(scope="module")
def keyed(start_daemon):
    return start_daemon(api_keys=KEY)


# ---- one function for each operation: requests that it answers, and some that it refuses ----

EXAMPLES = {}


def example(method, route):
    def add(function):
        EXAMPLES[method, route] = function
        return function
    return add


@example("get", "/")
def _(api, made):
    assert "/openapi.json" in api.call("get", "/", 200).text


@example("get", "/healthz")
def _(api, made):
    api.call("get", "/healthz", 200)


@example("get", "/readyz")
def _(api, made):
    api.call("get", "/readyz", 200)


@example("get", "/metrics")
def _(api, made):
    assert "# TYPE" in api.call("get", "/metrics", 200).text


@example("get", "/openapi.json")
def _(api, made):
    api.call("get", "/openapi.json", 200)


@example("get", "/v1/models")
def _(api, made):
    listed = api.call("get", "/v1/models", 200).json()["data"]
    assert any(model["quality"] for model in listed)


@example("get", "/v1/models/{id}")
def _(api, made):
    for precision in ("int4", "fp32"):
        api.call("get", "/v1/models/{id}", 200, id=made[precision])
    api.call("get", "/v1/models/{id}", 404, id="no-such-model")


@example("delete", "/v1/models/{id}")
def _(api, made):
    assert api.daemon.quantize("described-and-deleted", made["tiny"])["status"] == "succeeded"
    api.call("delete", "/v1/models/{id}", 200, id="described-and-deleted:int4")
    api.call("delete", "/v1/models/{id}", 404, id="described-and-deleted:int4")


@example("post", "/v1/chat/completions")
def _(api, made):
    route = "/v1/chat/completions"
    body = {"model": made["int4"], "messages": HELLO, "temperature": 0, "max_tokens": 8}
    for more in ({}, {"n": 2, "temperature": 0.7, "seed": 5}, {"logprobs": True},
                 {"logprobs": True, "top_logprobs": 3}, {"stop": ["7", "."], "top_k": -1},
                 {"logit_bias": {"5": -100}, "user": "x", "stop": None, "tools": None},
                 {"response_format": {"type": "text"}, "unknown": 1}):
        api.call("post", route, 200, json={**body, **more})
        for options in (None, {"include_usage": True}):
            api.call("post", route, 200,
                     json={**body, **more, "stream": True, "stream_options": options})
    parts = [{"role": "developer", "content": "Be brief."},
             {"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    api.call("post", route, 200, json={**body, "messages": parts})
    for bad in ({"temperature": 3}, {"messages": []}, {"max_tokens": 0}, {"n": 129},
                {"tools": [{"type": "function"}]}, {"logprobs": 1}, {"top_k": -2},
                {"response_format": {"type": "json_object"}},
                {"messages": [{"role": "tool", "content": "x"}]}):
        api.call("post", route, 400, json={**body, **bad})
    api.call("post", route, 404, json={**body, "model": "no-such-model"})
    api.call("post", route, 400, data="{", headers={"Content-Type": "application/json"})
    api.call("post", route, 415, data="x", headers={"Content-Type": "text/plain"})
    api.call("post", route, 413, data=b" " * (65 << 20),
             headers={"Content-Type": "application/json"})


@example("post", "/v1/completions")
def _(api, made):
    route = "/v1/completions"
    body = {"model": made["int4"], "prompt": "Once upon a time", "temperature": 0, "max_tokens": 6}
    for more in ({}, {"echo": True, "logprobs": 2}, {"prompt": ["A", "The"], "n": 2},
                 {"prompt": [5, 6, 7]}, {"prompt": [[5, 6], [7]], "logprobs": 0},
                 {"echo": True, "logprobs": 0, "max_tokens": 0}, {"best_of": 1}):
        api.call("post", route, 200, json={**body, **more})
        for options in (None, {"include_usage": True}):
            api.call("post", route, 200,
                     json={**body, **more, "stream": True, "stream_options": options})
    for bad in ({"suffix": "x"}, {"best_of": 3}, {"prompt": [-1]}, {"logprobs": 6},
                {"prompt": None}, {"prompt": ["a", 1]}):
        api.call("post", route, 400, json={**body, **bad})
    api.call("post", route, 404, json={**body, "model": "no-such-model"})
    api.call("post", route, 415, data="x", headers={"Content-Type": "text/plain"})


@example("post", "/v1/tokenize")
def _(api, made):
    body = {"model": made["int4"], "input": "Once upon a time"}
    api.call("post", "/v1/tokenize", 200, json=body)
    api.call("post", "/v1/tokenize", 200, json={**body, "input": ""})
    api.call("post", "/v1/tokenize", 400, json={**body, "input": 5})
    api.call("post", "/v1/tokenize", 404, json={**body, "model": "no-such-model"})


@example("post", "/v1/detokenize")
def _(api, made):
    body = {"model": made["int4"], "tokens": [5, 6, 7]}
    api.call("post", "/v1/detokenize", 200, json=body)
    api.call("post", "/v1/detokenize", 200, json={**body, "tokens": []})
    api.call("post", "/v1/detokenize", 400, json={**body, "tokens": ["a"]})
    api.call("post", "/v1/detokenize", 404, json={**body, "model": "no-such-model"})


@example("get", "/v1/files")
def _(api, made):
    page = api.call("get", "/v1/files", 200, params={"limit": 1, "order": "asc"}).json()
    assert page["has_more"]
    api.call("get", "/v1/files", 200, params={"after": page["last_id"], "purpose": "model"})
    of_batch = api.call("get", "/v1/files", 200, params={"purpose": "batch"}).json()["data"]
    assert all(file["purpose"] == "batch" for file in of_batch)
    for bad in ({"limit": 0}, {"order": "up"}, {"purpose": "x"}):
        api.call("get", "/v1/files", 400, params=bad)


@example("post", "/v1/files")
def _(api, made):
    api.call("post", "/v1/files", 200, data={"purpose": "model"}, files={"file": ("a.txt", b"a")})
    api.call("post", "/v1/files", 400, data={"purpose": "x"}, files={"file": ("a.txt", b"a")})
    api.call("post", "/v1/files", 400, files={"purpose": (None, "model")})


@example("put", "/v1/files")
def _(api, made):
    named = {"filename": "described.txt", "purpose": "model"}
    api.call("put", "/v1/files", 202, params=named, data=b"abc",
             headers={"Content-Range": "bytes 0-2/6"})
    api.call("put", "/v1/files", 409, params=named, data=b"f",
             headers={"Content-Range": "bytes 5-5/6"})
    api.call("put", "/v1/files", 200, params=named, data=b"def",
             headers={"Content-Range": "bytes 3-5/6"})
    api.call("put", "/v1/files", 200, params=named, data=b"whole")
    api.call("put", "/v1/files", 400, params={**named, "filename": "../x"}, data=b"x")
    api.call("put", "/v1/files", 400, params=named, data=b"x", headers={"Content-Range": "what"})


@example("head", "/v1/files")
def _(api, made):
    named = {"filename": "half.txt", "purpose": "model"}
    api.call("head", "/v1/files", 404, params=named)
    api.call("put", "/v1/files", 202, params=named, data=b"abc",
             headers={"Content-Range": "bytes 0-2/6"})
    assert api.call("head", "/v1/files", 200, params=named).headers["Upload-Offset"] == "3"
    api.call("head", "/v1/files", 400, params={"purpose": "model"})


@example("get", FILE)
def _(api, made):
    api.call("get", FILE, 200, id=made["tiny"][0])
    api.call("get", FILE, 404, id="file-none")


@example("delete", FILE)
def _(api, made):
    file = api.daemon.upload("deleted.txt", b"bytes that go")
    api.call("delete", FILE, 200, id=file["id"])
    api.call("delete", FILE, 404, id=file["id"])


@example("get", FILE + "/content")
def _(api, made):
    file = api.daemon.upload("content.txt", b"0123456789")["id"]
    route = FILE + "/content"
    whole = api.call("get", route, 200, id=file)
    assert whole.content == b"0123456789"
    part = api.call("get", route, 206, id=file, headers={"Range": "bytes=2-4"})
    assert part.content == b"234"
    api.call("get", route, 304, id=file, headers={"If-None-Match": whole.headers["ETag"]})
    api.call("get", route, 416, id=file, headers={"Range": "bytes=20-30"})
    api.call("get", route, 404, id="file-none")


@example("post", JOBS)
def _(api, made):
    body = {"model": "described", "source": {"files": made["tiny"]}, "precision": "int4"}
    for more in ({}, {"precision": "fp16", "metadata": {"who": "me"}},
                 {"group_size": 64, "symmetric": False, "method": "search",
                  "formats": ["gguf", "onnx"], "quality": {"max_kl_divergence": 50}},
                 {"precision": None, "type": "Q5_K_M", "formats": ["mlx"]}):
        job = api.call("post", JOBS, 200, json={**body, **more}).json()
        assert api.daemon.wait(job["id"])["status"] == "succeeded"
    api.daemon.wait(api.call("post", JOBS, 200,
                             json={**body, "source": {"model": "described"}}).json()["id"])
    for bad in ({"precision": "int3"}, {"model": "a/b"}, {"source": {}}, {"group_size": 48},
                {"source": {"path": "/nowhere"}}, {"metadata": {"a": 1}}, {"quality": {"x": 1}},
                {"calibration_file": "file-1"}, {"formats": ["tflite"]}, {"type": "q4_k_m"},
                {"precision": "fp16", "formats": ["compressed-tensors"]}):
        api.call("post", JOBS, 400, json={**body, **bad})
    api.call("post", JOBS, 404, json={**body, "source": {"files": ["file-none"]}})
    api.call("post", JOBS, 415, data="x", headers={"Content-Type": "text/plain"})


@example("get", JOBS)
def _(api, made):
    page = api.call("get", JOBS, 200, params={"limit": 1}).json()
    api.call("get", JOBS, 200, params={"limit": 100, "after": page["last_id"]})
    api.call("get", JOBS, 400, params={"limit": 101})


@example("get", JOBS + "/{id}")
def _(api, made):
    job = api.call("get", JOBS + "/{id}", 200, id=made["jobs"]["int4"]["id"]).json()
    assert job["quality"] and job["artifacts"]
    failed = api.daemon.quantize("described-failed", made["tiny"],
                                 quality={"max_kl_divergence": 0})
    assert failed["status"] == "failed"
    assert api.call("get", JOBS + "/{id}", 200, id=failed["id"]).json()["error"]
    api.call("get", JOBS + "/{id}", 404, id="qjob-none")


@example("post", JOBS + "/{id}/cancel")
def _(api, made):
    # The second waits for the first or runs beside it; both are cancelled in whatever state.
    jobs = [api.daemon.submit("described-cancelled", made["slow"], precision).json()["id"]
            for precision in ("int4", "int8")]
    for job in jobs:
        api.call("post", JOBS + "/{id}/cancel", 200, id=job)
    for job in jobs:
        assert api.daemon.wait(job)["status"] == "cancelled"
        api.call("get", JOBS + "/{id}", 200, id=job)
        api.call("get", JOBS + "/{id}/events", 200, id=job)
    api.call("post", JOBS + "/{id}/cancel", 409, id=jobs[0])
    api.call("post", JOBS + "/{id}/cancel", 404, id="qjob-none")


@example("get", JOBS + "/{id}/events")
def _(api, made):
    route = JOBS + "/{id}/events"
    job = made["jobs"]["int4"]["id"]
    page = api.call("get", route, 200, id=job, params={"limit": 2}).json()
    assert page["has_more"]
    api.call("get", route, 200, id=job, params={"after": page["last_id"], "limit": 100})
    api.call("get", route, 200, id=job, params={"stream": "true"})
    running = api.daemon.submit("described-followed", made["slow"], "int8").json()["id"]
    api.call("get", route, 200, id=running, params={"stream": "true"}, timeout=300)
    api.call("get", route, 400, id=job, params={"stream": "maybe"})
    api.call("get", route, 400, id=job, params={"after": "qjobevent-x"})
    api.call("get", route, 404, id="qjob-none")


def exported(api, **fields):
    """Submits an export and waits for its end; returns the object."""
    made = api.call("post", EXPORTS, 200, json={"model": "phi-sample:int4", **fields}).json()
    api.call("get", EXPORTS + "/{id}/events", 200, id=made["id"], params={"stream": "true"},
             timeout=300)
    return api.call("get", EXPORTS + "/{id}", 200, id=made["id"]).json()


@example("post", EXPORTS)
def _(api, made):
    assert exported(api, format="mlx", lossless=True, metadata={"who": "me"})["lossless"]
    rough = exported(api, format="onnx", precision="int4", group_size=128, symmetric=False)
    assert rough["changes"] and not rough["lossless"]
    for bad in ({"format": "x"}, {"format": "mlx", "precision": "int4", "group_size": 16},
                {"format": "onnx", "lossless": "yes"}, {"metadata": {"a": 1}}):
        api.call("post", EXPORTS, 400, json={"model": "phi-sample:int4", "format": "mlx", **bad})
    api.call("post", EXPORTS, 404, json={"model": "none", "format": "mlx"})
    api.call("post", EXPORTS, 415, data="x", headers={"Content-Type": "text/plain"})


@example("get", EXPORTS)
def _(api, made):
    for _ in range(2):
        assert exported(api, format="gguf")["status"] == "succeeded"
    page = api.call("get", EXPORTS, 200, params={"limit": 1}).json()
    api.call("get", EXPORTS, 200, params={"limit": 100, "after": page["last_id"]})
    api.call("get", EXPORTS, 400, params={"limit": 101})


@example("get", EXPORTS + "/{id}")
def _(api, made):
    failed = exported(api, format="onnx", precision="int8", lossless=True)
    assert failed["status"] == "succeeded" or failed["error"]
    api.call("get", EXPORTS + "/{id}", 404, id="export-none")


@example("post", EXPORTS + "/{id}/cancel")
def _(api, made):
    first = api.call("post", EXPORTS, 200, json={"model": "phi-sample:fp32", "format": "openvino",
                                                 "precision": "int4"}).json()
    api.call("post", EXPORTS + "/{id}/cancel", 200, id=first["id"])
    api.call("get", EXPORTS + "/{id}/events", 200, id=first["id"], params={"stream": "true"})
    api.call("post", EXPORTS + "/{id}/cancel", 409, id=first["id"])
    api.call("post", EXPORTS + "/{id}/cancel", 404, id="export-none")


@example("get", EXPORTS + "/{id}/events")
def _(api, made):
    route = EXPORTS + "/{id}/events"
    export = exported(api, format="safetensors")["id"]
    page = api.call("get", route, 200, id=export, params={"limit": 2}).json()
    assert page["has_more"]
    api.call("get", route, 200, id=export, params={"after": page["last_id"], "limit": 100})
    api.call("get", route, 400, id=export, params={"stream": "maybe"})
    api.call("get", route, 404, id="export-none")


@pytest.mark.parametrize("method,route", sorted(EXAMPLES), ids=lambda part: part)
def test_answers_are_as_described(checked, sample_model, tiny_files, slow_files, method, route):
    made = {**sample_model, "tiny": tiny_files, "slow": slow_files}
    checked.seen.clear()
    EXAMPLES[method, route](checked, made)
    statuses = {status for m, r, status in checked.seen if (m, r) == (method, route)}
    assert any(status < 300 for status in statuses)
    assert any(status >= 400 for status in statuses) or (method, route) in (
        WITHOUT_ERRORS | {("get", "/readyz"), ("get", "/metrics"), ("get", "/v1/models")})


# ---- the description as a whole ----

def test_every_operation_has_an_example(checked):
    described = {(method, route) for route, methods in checked.document["paths"].items()
                 for method in methods}
    assert described == set(EXAMPLES)


def test_the_description_is_sound(checked):
    document = checked.document
    assert document["openapi"].startswith("3.1")

    def walk(node):
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                checked.resolve(node)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for route, methods in document["paths"].items():
        for method, operation in methods.items():
            inside = {parameter["name"] for parameter in operation.get("parameters", [])
                      if parameter["in"] == "path"}
            assert inside == set(re.findall(r"{(\w+)}", route)), (method, route)
            assert operation["summary"] and operation["responses"]["default"]


def test_every_schema_is_used(checked):
    text = json.dumps(checked.document)
    for name in checked.document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name


def test_other_methods_are_refused_and_those_described_named(checked):
    error = checked.document["components"]["schemas"]["Error"]
    for route, methods in checked.document["paths"].items():
        answer = checked.daemon.request("PATCH", route.replace("{id}", "x"))
        assert answer.status_code == 405, (route, answer.text)
        checked.validate(error, answer.json(), f"PATCH {route}")
        allowed = {name.strip().lower() for name in answer.headers["Allow"].split(",")}
        # HEAD comes with every GET.
        assert allowed - {"head"} == set(methods) - {"head"}, route
    answer = checked.daemon.get("/v1/nothing")
    assert answer.status_code == 404
    checked.validate(error, answer.json(), "GET /v1/nothing")


def test_where_a_key_is_asked_for(checked, keyed):
    """Operations with `security: []` answer without a key, all others refuse as described."""
    api = Checked(keyed)
    for route, methods in api.document["paths"].items():
        for method, operation in methods.items():
            public = operation.get("security", api.document["security"]) == []
            api.call(method, route, 200 if public else 401, id="x")
    answer = api.call("get", "/v1/models", 200, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.json()["data"] == []


def test_the_checks_can_fail(checked):
    """A wrong answer is noticed: otherwise nothing above says anything."""
    good = checked.daemon.get("/healthz").json()
    health = {"$ref": "#/components/schemas/Health"}
    checked.validate(health, good, "good")
    for wrong in ({}, {**good, "status": "ill"}, {**good, "more": 1}, {"status": "ok"}):
        with pytest.raises(pytest.fail.Exception):
            checked.validate(health, wrong, "wrong")
