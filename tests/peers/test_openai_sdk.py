"""The OpenAI Python SDK against the daemon: only base_url and api_key are changed."""

import io

import openai
import pytest

KEY = "test-key-1"
QUESTION = [{"role": "user", "content": "What is 12 plus 7?"}]


@pytest.fixture(scope="module")
def model(sample_model):
    return sample_model["int4"]


@pytest.fixture(scope="module")
def client(daemon):
    return openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0)


def test_models(client, model):
    listed = [m.id for m in client.models.list()]
    assert model in listed
    one = client.models.retrieve(model)
    assert one.id == model and one.object == "model" and one.created > 0


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0)
    assert "19" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == (answer.usage.prompt_tokens
                                         + answer.usage.completion_tokens)


def test_chat_stream(client, model):
    text, usage, finish = "", None, None
    for chunk in client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, stream=True,
            stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        usage = chunk.usage or usage
    assert "19" in text and finish == "stop" and usage.completion_tokens > 0


def test_chat_logprobs_and_choices(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, n=2, logprobs=True,
                                            top_logprobs=2, max_tokens=4, seed=3)
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_stream_helper(client, model):
    with client.chat.completions.stream(model=model, messages=QUESTION, temperature=0) as stream:
        for _ in stream:
            pass
        assert "19" in stream.get_final_completion().choices[0].message.content


def test_completions(client, model):
    answer = client.completions.create(model=model, prompt="Once there was", max_tokens=8,
                                       logprobs=1, temperature=0)
    assert len(answer.choices[0].logprobs.tokens) == 8
    parts = [c.choices[0].text for c in client.completions.create(
        model=model, prompt="Once there was", max_tokens=8, temperature=0, stream=True)]
    assert "".join(parts) == answer.choices[0].text


def test_files(client):
    made = client.files.create(file=("notes.txt", io.BytesIO(b"some text\n")),
                               purpose="batch")
    assert made.bytes == 10 and made.filename == "notes.txt" and made.status == "processed"
    assert made.id in [f.id for f in client.files.list()]
    assert client.files.content(made.id).read() == b"some text\n"
    assert client.files.retrieve(made.id).id == made.id
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_errors_are_the_sdks_own(client, model, start_daemon):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no-such-model", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=model, messages=QUESTION, temperature=9)
    assert wrong.value.param == "temperature"
    guarded = start_daemon(api_keys=KEY)
    with pytest.raises(openai.AuthenticationError) as refused:
        openai.OpenAI(base_url=guarded.url + "/v1", api_key="wrong", max_retries=0).models.list()
    assert refused.value.code == "invalid_api_key"
    right = openai.OpenAI(base_url=guarded.url + "/v1", api_key=KEY, max_retries=0)
    assert right.models.list().data == []


def test_deleting_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError):
        client.models.delete("no-such-model")
