"""POST /v1/completions, /v1/tokenize and /v1/detokenize."""

import json
import math

import pytest
import requests

START = "Once there was"


@pytest.fixture(scope="module")
def model(sample_model):
    return sample_model["int4"]


@pytest.fixture(scope="module")
def post(daemon, model):
    def call(path, **fields):
        return requests.post(daemon.url + path, json={"model": model, **fields}, timeout=60,
                             stream=fields.get("stream", False))
    return call


@pytest.fixture(scope="module")
def complete(post):
    def call(prompt=START, **fields):
        return post("/v1/completions", prompt=prompt, **{"temperature": 0, **fields})
    return call


def test_text_goes_on(complete):
    body = complete(max_tokens=12).json()
    assert body["object"] == "text_completion"
    choice = body["choices"][0]
    assert choice["text"].startswith((" ", ",", "."))
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 12


def test_default_is_sixteen_tokens(complete):
    assert complete(ignore_eos=True).json()["usage"]["completion_tokens"] == 16


def test_lists_and_token_lists(complete, post):
    ids = post("/v1/tokenize", input=START).json()["tokens"]
    text = complete(max_tokens=8).json()["choices"][0]["text"]
    assert complete(ids, max_tokens=8).json()["choices"][0]["text"] == text
    many = complete([START, "The dog"], max_tokens=8, n=1).json()["choices"]
    assert [c["index"] for c in many] == [0, 1]
    assert many[0]["text"] == text
    assert complete([ids, ids], max_tokens=8).json()["choices"][1]["text"] == text


def test_echo_with_logprobs_of_the_prompt(complete, post):
    ids = post("/v1/tokenize", input=START).json()["tokens"]
    body = complete(echo=True, logprobs=0, max_tokens=0).json()
    choice = body["choices"][0]
    assert choice["text"] == START
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(ids)
    assert logprobs["token_logprobs"][0] is None
    assert all(math.isfinite(p) and p <= 0 for p in logprobs["token_logprobs"][1:])
    assert logprobs["text_offset"][0] == 0
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    assert body["usage"]["completion_tokens"] == 0


def test_echo_comes_before_the_answer(complete):
    alone = complete(max_tokens=6).json()["choices"][0]["text"]
    assert complete(max_tokens=6, echo=True).json()["choices"][0]["text"] == START + alone


def test_logprobs_of_the_answer(complete):
    logprobs = complete(max_tokens=5, logprobs=2).json()["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == 5
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])


def test_stream(complete):
    whole = complete(max_tokens=20).json()["choices"][0]["text"]
    answer = complete(max_tokens=20, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    data = [line[6:] for line in answer.iter_lines() if line.startswith(b"data: ")]
    assert data[-1] == b"[DONE]"
    assert "".join(json.loads(d)["choices"][0]["text"] for d in data[:-1]) == whole


def test_penalties_and_bias_change_the_answer(complete, post):
    plain = complete(max_tokens=10, ignore_eos=True).json()["choices"][0]["text"]
    first = complete(max_tokens=1, logprobs=0).json()["choices"][0]["logprobs"]["tokens"][0]
    token = post("/v1/tokenize", input=first).json()["tokens"][0]
    banned = complete(max_tokens=10, logit_bias={str(token): -100}).json()["choices"][0]["text"]
    assert not banned.startswith(first)
    assert banned != plain


def test_top_k_one_is_greedy(complete):
    greedy = complete(max_tokens=10).json()["choices"][0]["text"]
    for fields in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1}):
        assert complete(max_tokens=10, temperature=1.5, **fields) \
            .json()["choices"][0]["text"] == greedy


@pytest.mark.parametrize("text", ["Hello", " two  spaces", "café ☕ 猫", "line\nline\t", "<|end|>"])
def test_tokens_and_back(post, text):
    ids = post("/v1/tokenize", input=text).json()["tokens"]
    if text != "<|end|>":
        assert post("/v1/detokenize", tokens=ids).json()["text"] == text
    else:
        assert len(ids) == 1


@pytest.mark.parametrize("path, fields, param", [
    ("/v1/completions", {}, "prompt"),
    ("/v1/completions", {"prompt": []}, "prompt"),
    ("/v1/completions", {"prompt": [1, "a"]}, "prompt"),
    ("/v1/completions", {"prompt": [99999999]}, "prompt"),
    ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
    ("/v1/completions", {"prompt": "a", "logprobs": 9}, "logprobs"),
    ("/v1/completions", {"prompt": "word " * 20000}, "prompt"),
    ("/v1/tokenize", {"input": 5}, "input"),
    ("/v1/detokenize", {"tokens": "x"}, "tokens"),
    ("/v1/detokenize", {"tokens": [-1]}, "tokens"),
    ("/v1/detokenize", {"tokens": [999999]}, "tokens"),
])
def test_wrong_fields_are_named(post, path, fields, param):
    answer = post(path, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
