"""Models whose numbers or names are at the ends of what their formats hold: what comes of them is
still an answer, an error or a report."""

import json
import struct

import pytest

from conftest import make_model, write_safetensors


def read_safetensors(path):
    raw = path.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    return {name: (entry["dtype"], entry["shape"],
                   raw[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]])
            for name, entry in json.loads(raw[8:start]).items() if name != "__metadata__"}


def bfloat16(value):
    return struct.pack("<f", value)[2:]


def vast_head(directory, factor):
    """A head whose logits lie so far apart that their difference is no float any more."""
    make_model(directory)
    path = directory / "model.safetensors"
    tensors = read_safetensors(path)
    rows, columns = tensors["model.embed_tokens.weight"][1]
    head = b"".join(bfloat16((-1) ** row * factor * 10 ** (36 + row // 2 % 20 / 10)) +
                    bytes(2 * (columns - 1)) for row in range(rows))
    tensors["lm_head.weight"] = ("BF16", [rows, columns], head)
    write_safetensors(path, tensors)
    config = json.loads((directory / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("factor", [1.1, 1.3, 1.5])
def test_log_probabilities_below_all_floats(daemon, tmp_path, factor):
    files = daemon.upload_dir(vast_head(tmp_path / "vast", factor))
    name = f"vast-{factor}"
    assert daemon.quantize(name, files, "fp32")["status"] == "succeeded"
    for start in range(5, 65, 10):
        body = {"model": name, "prompt": list(range(start, start + 40)), "echo": True,
                "logprobs": 5, "max_tokens": 0}
        answer = daemon.post("/v1/completions", json=body)
        # Logits that are themselves beyond a float are an error of the model's.
        if answer.status_code == 500:
            assert "NaN" in answer.json()["error"]["message"]
            continue
        assert answer.status_code == 200, answer.text
        logprobs = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
        assert logprobs[0] is None and len(logprobs) == 40
        assert all(-9999 <= logprob <= 0 for logprob in logprobs[1:])
    assert daemon.alive()


@pytest.mark.parametrize("shift", range(4))
def test_reports_of_names_that_are_cut(daemon, tmp_path, shift):
    """Messages are cut at a whole character, wherever the limit falls in a name."""
    directory = make_model(tmp_path / "named")
    path = directory / "model.safetensors"
    tensors = read_safetensors(path)
    clefs = "x" * shift + "\N{MUSICAL SYMBOL G CLEF}" * 25
    tensors[clefs * 2] = ("F32", [3, 3], b"too short")
    write_safetensors(path, tensors)
    job = daemon.quantize("named", daemon.upload_dir(directory), "fp16")
    assert job["status"] == "failed", job
    assert clefs in job["error"]["message"], job["error"]
    stream = daemon.get(f"/v1/quantization/jobs/{job['id']}/events?stream=true").text
    last = json.loads(stream.split("data: ")[-2])
    assert last["level"] == "error" and last["message"].startswith("failed: model"), last
