"""/v1/exports, and the formats of a quantization job: away, and back again."""

import hashlib
import io
import json
import subprocess
import tarfile
import time

import pytest

from conftest import make_model
from test_files import blobs, error_of, wait_until
from test_jobs import JOBS, model_members, read_stream, tar_of, work

EXPORTS = "/v1/exports"
FOLDERS = ["onnx", "openvino", "safetensors", "mlx", "gptq", "compressed-tensors"]
FORMATS = ["gguf", *FOLDERS]
EXPORT_FIELDS = {"id", "object", "created_at", "started_at", "finished_at", "status", "model",
                 "format", "precision", "group_size", "symmetric", "provider", "context_length", "metadata", "progress",
                 "stage", "bytes_done", "bytes_total", "eta_seconds", "lossless", "changes", "artifacts",
                 "error"}


def submit(daemon, model, form, **fields):
    return daemon.post(EXPORTS, json={"model": model, "format": form, **fields})


def wait(daemon, export_id, timeout_s=300):
    deadline = time.monotonic() + timeout_s
    while True:
        made = daemon.get(f"{EXPORTS}/{export_id}").json()
        if made["status"] not in ("queued", "running"):
            return made
        assert time.monotonic() < deadline, made
        time.sleep(0.05)


def export(daemon, model, form, **fields):
    answer = submit(daemon, model, form, **fields)
    assert answer.status_code == 200, answer.text
    return wait(daemon, answer.json()["id"])


def wait_exporting(daemon, path):
    deadline = time.monotonic() + 120
    while True:
        job = daemon.get(path).json()
        assert job["status"] in ("queued", "running"), f"it ended too early: {job}"
        if job["stage"] == "exporting":
            return job
        assert time.monotonic() < deadline
        time.sleep(0.005)


def download(daemon, artifact):
    answer = daemon.get(f"/v1/files/{artifact['file_id']}/content")
    assert answer.status_code == 200
    assert len(answer.content) == artifact["bytes"]
    assert hashlib.sha256(answer.content).hexdigest() == artifact["sha256"]
    return answer


def members(data, folder):
    """name -> bytes of a .tar that holds one folder of regular files."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        entries = archive.getmembers()
        assert all(entry.isreg() and entry.name.startswith(folder + "/") for entry in entries)
        return {entry.name[len(folder) + 1:]: archive.extractfile(entry).read()
                for entry in entries}


def says(daemon, model):
    """Greedy tokens, and how likely each was."""
    answer = daemon.post("/v1/completions", json={"model": model, "prompt": "the cat", "logprobs": 1,
                                                  "max_tokens": 24, "temperature": 0,
                                                  "ignore_eos": True})
    assert answer.status_code == 200, answer.text
    logprobs = answer.json()["choices"][0]["logprobs"]
    return logprobs["tokens"], logprobs["token_logprobs"]


def served_again(daemon, name, form, data):
    """What a model says that is made from the artifact, with its codes' very values."""
    suffix = "gguf" if form == "gguf" else "tar"
    file = daemon.upload(f"again.{suffix}", data)["id"]
    job = daemon.quantize(name, [file], "fp32")
    assert job["status"] == "succeeded", job
    return says(daemon, f"{name}:fp32")


@pytest.fixture(scope="module")
def job(daemon, tiny_files):
    job = daemon.quantize("away", tiny_files, "int4", formats=FOLDERS)
    assert job["status"] == "succeeded", job
    return job


@pytest.fixture(scope="module")
def said(daemon, job):
    return served_again(daemon, "said", "gguf", download(daemon, job["artifacts"][0]).content)


# ---- a job that writes several formats ----

def test_job_lists_them_all(job):
    assert job["formats"] == FORMATS
    assert [artifact["format"] for artifact in job["artifacts"]] == FORMATS
    for artifact in job["artifacts"]:
        assert artifact["lossless"] is True and artifact["changes"] == [], artifact
    assert job["stage"] == "exporting" and job["progress"] == 1.0


def test_job_tells_of_them(daemon, job):
    events = daemon.get(f"{JOBS}/{job['id']}/events?limit=100").json()["data"]
    messages = [event["message"] for event in events]
    assert "stage: exporting" in messages
    for form in FOLDERS:
        assert any(message.startswith(f"{form}: ") for message in messages), messages
    shares = [event["data"]["progress"] for event in events
              if event["data"] and "progress" in event["data"]]
    assert shares == sorted(shares)


@pytest.mark.parametrize("form", FORMATS)
def test_job_and_export_are_served_again(daemon, job, said, form):
    artifact = job["artifacts"][FORMATS.index(form)]
    made = export(daemon, "away:int4", form, lossless=True)
    assert made["status"] == "succeeded", made
    assert made["lossless"] is True and made["changes"] == []
    twin, = made["artifacts"]
    assert twin["format"] == form and twin["file_id"] != artifact["file_id"]
    data = [download(daemon, one).content for one in (artifact, twin)]
    if form == "gguf":
        assert data[0] == data[1]
    else:
        assert members(data[0], f"away-int4-{form}") == members(data[1], f"away-int4-{form}")
    assert served_again(daemon, f"again-{form}", form, data[1]) == said


def test_formats_are_a_set(daemon, tiny_files):
    job = daemon.quantize("twice", tiny_files, formats=["mlx", "gguf", "mlx", "gguf"])
    assert job["formats"] == ["gguf", "mlx"], job
    assert len(job["artifacts"]) == 2


def test_what_a_format_cannot_hold_is_told(daemon, tiny_files):
    job = daemon.quantize("offsets", tiny_files, symmetric=False, formats=["onnx", "openvino", "mlx"])
    assert job["status"] == "succeeded", job
    _, onnx, openvino, mlx = job["artifacts"]
    assert openvino["lossless"] and mlx["lossless"] and not onnx["lossless"]
    change, = onnx["changes"]
    assert change["change"] == "coded_anew" and change["matrices"] == 4
    assert "blk.0.attn_qkv.weight" in change["reason"] and "zero points" in change["reason"]
    assert 0 < change["weight_rmse"] <= change["worst_tensor"]["rmse"] < 0.2
    events = daemon.get(f"{JOBS}/{job['id']}/events?limit=100").json()["data"]
    assert any(event["level"] == "warn" and "4 were coded anew" in event["message"]
               for event in events)
    made = export(daemon, "offsets:int4", "onnx", lossless=True)
    assert made["status"] == "failed" and made["artifacts"] == [], made
    assert made["lossless"] is None and made["error"]["param"] == "lossless"
    assert "blk.0.attn_qkv.weight" in made["error"]["message"]
    made = export(daemon, "offsets:int4", "onnx")
    assert made["status"] == "succeeded" and made["lossless"] is False
    assert made["changes"] == onnx["changes"]


def test_bfloat16_is_rounded(daemon, tiny_files):
    job = daemon.quantize("halves", tiny_files, "fp16", formats=["onnx", "safetensors"])
    _, onnx, safetensors = job["artifacts"]
    assert safetensors["lossless"] and not onnx["lossless"]
    assert onnx["changes"][0]["change"] == "rounded", onnx


def test_type(daemon, tmp_path):
    files = daemon.upload_dir(make_model(tmp_path / "wide", hidden=256, ffn=512))
    answer = daemon.post(JOBS, json={"model": "mix", "source": {"files": files}, "type": "Q4_K_M",
                                     "formats": ["mlx"]})
    assert answer.status_code == 200, answer.text
    job = daemon.wait(answer.json()["id"])
    assert job["status"] == "succeeded", job
    assert (job["precision"], job["type"], job["group_size"]) == ("q4_k_m", "q4_k_m", None)
    assert job["result_model"] == "mix:q4_k_m"
    assert job["quality"]["types"]["matrices"] == "Q4_K"
    file = daemon.get(f"/v1/files/{job['artifacts'][0]['file_id']}").json()
    assert file["filename"] == "mix-q4_k_m.gguf"
    chosen = daemon.post("/v1/completions", json={"model": "mix", "precision": "Q4_K_M",
                                                  "prompt": "x", "max_tokens": 2})
    assert chosen.status_code == 200 and chosen.json()["model"] == "mix:q4_k_m"
    made = export(daemon, "mix:q4_k_m", "mlx")
    assert made["status"] == "succeeded", made
    made = export(daemon, "mix:q4_k_m", "openvino", precision="int8")
    assert made["status"] == "succeeded" and not made["lossless"], made


@pytest.mark.parametrize("change, param, says_", [
    ({"formats": ["onnx", "gptq"], "precision": "fp16"}, "formats[1]", "int4 and int8"),
    ({"formats": ["compressed-tensors"], "precision": "fp32"}, "formats[0]", "safetensors"),
    ({"formats": ["gguf", "tflite"]}, "formats[1]", "'compressed-tensors'"),
    ({"formats": [1]}, "formats[0]", "a number"),
    ({"type": "Q4_K_M"}, "type", "exclude each other"),
    ({"type": "q9", "precision": None}, "type", "q4_k_m"),
    ({"type": "q4_k_m", "precision": None, "group_size": 32}, "group_size", "q4_k_m"),
    ({"type": "q4_k_m", "precision": None, "method": "search"}, "method", "auto"),
    ({"precision": "q4_k_m"}, "precision", "'type'"),
    ({"provider": "cuda"}, "provider", "'onnx' folder"),
    ({"formats": ["mlx"], "provider": "cpu"}, "provider", "'onnx' folder"),
    ({"formats": ["onnx"], "provider": "rocm"}, "provider", "'cpu' or 'cuda'"),
    ({"context_length": 128}, "context_length", "'qnn' folder"),
    ({"formats": ["onnx"], "context_length": 128}, "context_length", "'qnn' folder"),
    ({"formats": ["qnn"], "context_length": 100}, "context_length", "multiple of 64"),
    ({"formats": ["qnn"], "context_length": 64}, "context_length", "at least 128"),
    ({"formats": ["qnn"], "context_length": 0}, "context_length", "context_length"),
    ({"formats": ["qnn"], "context_length": "128"}, "context_length", "context_length"),
    ({"formats": ["qnn"], "context_length": 1 << 20}, "context_length", "the model's own of 1024"),
])
def test_job_is_checked(daemon, tiny_files, change, param, says_):
    body = {"model": "m", "source": {"files": tiny_files}, "precision": "int4", **change}
    assert says_ in error_of(daemon.post(JOBS, json=body), 400, param)["message"]


# ---- exports ----

def test_export_object(daemon, job):
    answer = submit(daemon, "away", "onnx", metadata={"who": "me"})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert set(made) == EXPORT_FIELDS and made["id"].startswith("export-")
    assert made["object"] == "export" and made["status"] == "queued"
    assert made["model"] == "away:int4" and made["lossless"] is None
    made = wait(daemon, made["id"])
    assert set(made) == EXPORT_FIELDS and made["status"] == "succeeded", made
    assert made["progress"] == 1.0 and made["metadata"] == {"who": "me"}
    assert made["created_at"] <= made["started_at"] <= made["finished_at"]
    assert work(daemon) == []
    assert daemon.get(f"{JOBS}/{made['id']}").status_code == 404
    assert error_of(daemon.get(f"{EXPORTS}/{job['id']}"), 404)["code"] == "not_found"


def test_export_at_another_precision(daemon, job):
    made = export(daemon, "away:int4", "gptq", precision="int4", group_size=64, symmetric=False)
    assert made["status"] == "succeeded", made
    assert (made["precision"], made["group_size"], made["symmetric"]) == ("int4", 64, False)
    made = export(daemon, "away:int4", "openvino", precision="int8", group_size=-1, symmetric=False)
    assert made["status"] == "succeeded", made
    assert (made["precision"], made["group_size"], made["symmetric"]) == ("int8", -1, False)
    made = export(daemon, "away:int4", "safetensors", precision="fp16")
    assert made["status"] == "succeeded" and made["group_size"] is None, made


def providers_of(data, folder):
    """Of genai_config.json: what its decoder's session runs on."""
    config = json.loads(members(data, folder)["genai_config.json"])
    return [name for entry in config["model"]["decoder"]["session_options"]["provider_options"]
            for name in entry]


def test_onnx_for_cuda(daemon, tiny_files, said):
    """By a job and by an export, the same files; what they hold is served again as it was."""
    job = daemon.quantize("cuda", tiny_files, "int4", formats=["onnx"], provider="cuda")
    assert job["status"] == "succeeded" and job["provider"] == "cuda", job
    made = export(daemon, "cuda:int4", "onnx", provider="cuda", lossless=True)
    assert made["status"] == "succeeded" and made["provider"] == "cuda", made
    data = download(daemon, made["artifacts"][0]).content
    assert job["artifacts"][1]["lossless"] is True
    by_job = download(daemon, job["artifacts"][1]).content
    assert providers_of(by_job, "cuda-int4-onnx") == ["cuda"]
    assert providers_of(data, "cuda-int4-onnx") == ["cuda"]
    assert served_again(daemon, "cuda-again", "onnx", data)[0] == said[0]
    made = export(daemon, "cuda:int4", "onnx")
    assert made["provider"] == "cpu"
    assert providers_of(download(daemon, made["artifacts"][0]).content, "cuda-int4-onnx") == []
    assert export(daemon, "cuda:int4", "mlx")["provider"] is None


@pytest.mark.parametrize("body, status, param, says_", [
    ({"format": "onnx"}, 400, "model", "GET /v1/models"),
    ({"model": "none", "format": "onnx"}, 404, "model", "there are: "),
    ({"model": "away:int8", "format": "onnx"}, 404, "model", "there are: "),
    ({"model": 5, "format": "onnx"}, 400, "model", "string"),
    ({"model": "away:int4"}, 400, "format", "'onnx'"),
    ({"format": "tflite"}, 400, "format", "'openvino'"),
    ({"format": "gguf", "precision": "int8"}, 400, "precision", "/v1/quantization/jobs"),
    ({"format": "onnx", "precision": "int3"}, 400, "precision", "'int8'"),
    ({"format": "safetensors", "precision": "int4"}, 400, "precision", "fp16 or fp32"),
    ({"format": "gptq", "precision": "fp16"}, 400, "precision", "safetensors"),
    ({"format": "mlx", "precision": "int4", "group_size": 16}, 400, "group_size", "32, 64 or 128"),
    ({"format": "onnx", "precision": "int4", "group_size": 48}, 400, "group_size", "16, 32"),
    ({"format": "onnx", "group_size": 32}, 400, "group_size", "own codes"),
    ({"format": "onnx", "precision": "int8", "group_size": -1}, 400, "group_size", "the row"),
    ({"format": "openvino", "precision": "int8", "group_size": -2}, 400, "group_size", "-1"),
    ({"format": "openvino", "precision": "int8", "group_size": 0}, 400, "group_size", "or -1"),
    ({"format": "qnn", "precision": "int8", "group_size": 32}, 400, "group_size", "one scale a row"),
    ({"format": "onnx", "precision": "fp16", "symmetric": True}, 400, "symmetric", "int4"),
    ({"format": "onnx", "provider": "rocm"}, 400, "provider", "'cpu' or 'cuda'"),
    ({"format": "openvino", "provider": "cuda"}, 400, "provider", "'onnx' folder"),
    ({"format": "gguf", "provider": "cpu"}, 400, "provider", "'onnx' folder"),
    ({"format": "onnx", "provider": "cuda", "precision": "fp32"}, 400, "precision", "fp16"),
    ({"format": "onnx", "provider": "cuda", "precision": "int4", "group_size": 256}, 400,
     "group_size", "64 or 128"),
    ({"format": "onnx", "context_length": 128}, 400, "context_length", "'qnn' folder"),
    ({"format": "gguf", "context_length": 128}, 400, "context_length", "'qnn' folder"),
    ({"format": "qnn", "context_length": 100}, 400, "context_length", "multiple of 64"),
    ({"format": "qnn", "context_length": 1 << 20}, 400, "context_length", "the model's own of 1024"),
    ({"format": "onnx", "lossless": 1}, 400, "lossless", "true or false"),
    ({"format": "onnx", "metadata": {"a": 1}}, 400, "metadata", "strings"),
    ({"model": "away-half:fp16", "format": "gptq"}, 400, "format", "'precision'"),
])
def test_export_is_checked(daemon, job, tiny_files, body, status, param, says_):
    if "half" in str(body.get("model")):
        daemon.quantize("away-half", tiny_files, "fp16")
    body = body if "model" in body or body == {"format": "onnx"} else {"model": "away:int4", **body}
    assert says_ in error_of(daemon.post(EXPORTS, json=body), status, param)["message"]


def test_qnn(daemon, tiny_files):
    """A folder that is not served again: its matrices are coded by row, and the answer says so."""
    job = daemon.quantize("npu", tiny_files, "int4", formats=["qnn"])
    assert job["status"] == "succeeded" and job["formats"] == ["gguf", "qnn"], job
    made = export(daemon, "npu:int4", "qnn")
    assert made["status"] == "succeeded" and made["lossless"] is False, made
    assert made["changes"][0]["change"] == "coded_anew"
    for artifact in (job["artifacts"][1], made["artifacts"][0]):
        files = members(download(daemon, artifact).content, "npu-int4-qnn")
        assert {"embeddings.onnx", "context.onnx", "iterator.onnx", "lm_head_context.onnx",
                "lm_head_iterator.onnx", "model.onnx.data", "genai_config.json", "config.json",
                "tokenizer.json"} <= set(files)
    error = error_of(submit(daemon, "npu:int4", "qnn", precision="fp16"), 400, "precision")
    assert "qnn holds int8" in error["message"]
    failed = export(daemon, "npu:int4", "qnn", lossless=True)
    assert failed["status"] == "failed" and failed["error"]["param"] == "lossless", failed


def test_qnn_context_length(daemon, tiny_dir, tiny_files):
    """What the graphs are made for; of a source that is a .tar it is checked at the request too."""
    job = daemon.quantize("short", tiny_files, "int8", formats=["qnn"], context_length=128)
    assert job["status"] == "succeeded" and job["context_length"] == 128, job
    made = export(daemon, "short:int8", "qnn", context_length=192)
    assert made["status"] == "succeeded" and made["context_length"] == 192, made
    for artifact, length in ((job["artifacts"][1], 128), (made["artifacts"][0], 192)):
        files = members(download(daemon, artifact).content, "short-int8-qnn")
        assert json.loads(files["genai_config.json"])["model"]["context_length"] == length
    assert export(daemon, "short:int8", "mlx")["context_length"] is None
    archive = daemon.upload("long.tar", tar_of(model_members(tiny_dir, "phi/")))["id"]
    refused = daemon.submit("long", [archive], "int8", formats=["qnn"], context_length=2048)
    assert "the model's own of 1024" in error_of(refused, 400, "context_length")["message"]


def test_architecture_that_a_format_is_not_written_for(daemon, phimoe_dir):
    """Refused by the request of a job, whatever its source is, and of an export; what can be written
    is."""
    files = daemon.upload_dir(phimoe_dir)
    says_ = "qnn is written for phi3 models only, and this is phimoe"
    refused = daemon.submit("experts", files, "int8", formats=["mlx", "qnn"])
    assert says_ in error_of(refused, 400, "formats[1]")["message"]
    archive = daemon.upload("whole.tar", tar_of(model_members(phimoe_dir, "phi/")))["id"]
    refused = daemon.submit("experts", [archive], "int8", formats=["mlx", "qnn"])
    assert says_ in error_of(refused, 400, "formats[1]")["message"]
    made = daemon.quantize("experts", files, "int8", formats=["safetensors"])
    assert made["status"] == "succeeded", made
    gguf = daemon.upload("experts.gguf", download(daemon, made["artifacts"][0]).content)["id"]
    for source in ({"files": [gguf]}, {"model": "experts"}):
        refused = daemon.post(JOBS, json={"model": "experts-again", "source": source,
                                          "precision": "int4", "formats": ["gguf", "qnn"]})
        assert says_ in error_of(refused, 400, "formats[1]")["message"]
    assert says_ in error_of(submit(daemon, "experts:int8", "qnn"), 400, "format")["message"]
    cuda = "onnx for cuda is written for phi3 and phi2 models only, and this is phimoe"
    refused = daemon.submit("experts", files, "int8", formats=["mlx", "onnx"], provider="cuda")
    assert cuda in error_of(refused, 400, "formats[1]")["message"]
    refused = submit(daemon, "experts:int8", "onnx", provider="cuda")
    assert cuda in error_of(refused, 400, "format")["message"]
    for form in ("compressed-tensors", "openvino", "onnx"):
        answer = export(daemon, "experts:int8", form)
        assert answer["status"] == "succeeded", answer
        again = download(daemon, answer["artifacts"][0]).content
        assert served_again(daemon, f"experts-{form}", form, again)[0] == \
            says(daemon, "experts:int8")[0]


def test_onnx_of_phi2(daemon, phi2_dir):
    """A job's folder and an export's, both served again."""
    job = daemon.quantize("early", daemon.upload_dir(phi2_dir), "int4", formats=["onnx"])
    assert job["status"] == "succeeded" and job["formats"] == ["gguf", "onnx"], job
    made = export(daemon, "early:int4", "onnx", lossless=True)
    assert made["status"] == "succeeded" and made["lossless"] is True, made
    for index, artifact in enumerate((job["artifacts"][1], made["artifacts"][0])):
        data = download(daemon, artifact).content
        assert served_again(daemon, f"early-{index}", "onnx", data)[0] == \
            says(daemon, "early:int4")[0]


def test_unknown_export(daemon):
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events")):
        answer = daemon.request(method, f"{EXPORTS}/export-none{path}")
        assert error_of(answer, 404)["code"] == "not_found"


def test_pages_and_events(start_daemon, tiny_dir):
    other = start_daemon()
    job = other.quantize("m", other.upload_dir(tiny_dir))
    made = [export(other, "m", form)["id"] for form in ("gguf", "mlx", "onnx")]
    page = other.get(EXPORTS + "?limit=2").json()
    assert [one["id"] for one in page["data"]] == [made[2], made[1]] and page["has_more"]
    page = other.get(f"{EXPORTS}?limit=2&after={page['last_id']}").json()
    assert [one["id"] for one in page["data"]] == [made[0]] and not page["has_more"]
    assert [one["id"] for one in other.get(JOBS).json()["data"]] == [job["id"]]
    error_of(other.get(f"{EXPORTS}?after={job['id']}"), 400, "after")
    events = read_stream(other.get(f"{EXPORTS}/{made[1]}/events?stream=true", stream=True))
    assert events == other.get(f"{EXPORTS}/{made[1]}/events?limit=100").json()["data"]
    assert {event["object"] for event in events} == {"export.event"}
    assert events[0]["message"] == "queued: m:int4"
    assert events[-1]["message"].startswith("succeeded")


def test_download(daemon, job, tmp_path):
    """In pieces, and as curl -OJ names it; tar finds one folder in it."""
    artifact = job["artifacts"][FORMATS.index("openvino")]
    path = f"/v1/files/{artifact['file_id']}/content"
    whole = daemon.get(path)
    assert 'filename="away-int4-openvino.tar"' in whole.headers["Content-Disposition"]
    half = artifact["bytes"] // 2
    parts = [daemon.get(path, headers={"Range": f"bytes={piece}"})
             for piece in (f"0-{half - 1}", f"{half}-")]
    assert [part.status_code for part in parts] == [206, 206]
    assert b"".join(part.content for part in parts) == whole.content
    subprocess.run(["curl", "-sSOJ", daemon.url + path], cwd=tmp_path, check=True)
    subprocess.run(["tar", "-xf", "away-int4-openvino.tar"], cwd=tmp_path, check=True)
    names = {file.name for file in (tmp_path / "away-int4-openvino").iterdir()}
    assert {"openvino_model.xml", "openvino_model.bin", "config.json"} <= names


def test_deleting(start_daemon, tiny_dir):
    """What an export made lives as long as its file, whatever becomes of the model."""
    other = start_daemon()
    files = other.upload_dir(tiny_dir)
    job = other.quantize("m", files, formats=["mlx"])
    for file in [*files, *(artifact["file_id"] for artifact in job["artifacts"])]:
        assert other.delete(f"/v1/files/{file}").status_code == 200
    made = [export(other, "m", form)["artifacts"][0] for form in ("gguf", "onnx")]
    assert other.delete("/v1/models/m:int4").status_code == 200
    assert len(blobs(other)) == 2
    for artifact in made:
        assert download(other, artifact)
        assert other.delete(f"/v1/files/{artifact['file_id']}").status_code == 200
    assert blobs(other) == []
    error_of(submit(other, "m", "gguf"), 404, "model")


def test_model_deleted_while_running(start_daemon, slow_dir):
    other = start_daemon()
    other.quantize("m", other.upload_dir(slow_dir), "fp16")
    made = submit(other, "m", "openvino").json()
    assert other.delete("/v1/models/m:fp16").status_code == 200
    assert wait(other, made["id"])["status"] == "succeeded"


@pytest.fixture(scope="module")
def slow_model(daemon, slow_files):
    job = daemon.quantize("slow-away", slow_files, "int4")
    assert job["status"] == "succeeded", job
    return job["result_model"]


def test_cancel(daemon, slow_model):
    before = len(blobs(daemon))
    made = submit(daemon, slow_model, "onnx", precision="int4", symmetric=False).json()
    wait_exporting(daemon, f"{EXPORTS}/{made['id']}")
    answer = daemon.post(f"{EXPORTS}/{made['id']}/cancel")
    assert answer.status_code == 200 and answer.json()["id"] == made["id"]
    made = wait(daemon, made["id"], 30)
    assert made["status"] == "cancelled", made
    assert made["error"] is None and made["artifacts"] == [] and made["finished_at"]
    wait_until(lambda: work(daemon) == [])
    assert len(blobs(daemon)) == before
    assert "cancelled" in error_of(daemon.post(f"{EXPORTS}/{made['id']}/cancel"), 409)["message"]


def test_kill_and_restart(start_daemon, slow_dir):
    """In the middle of a job's formats, and of an export: both are done again, and whole."""
    other = start_daemon()
    files = other.upload_dir(slow_dir)
    job = other.submit("m", files, formats=["onnx", "openvino", "mlx"]).json()
    wait_exporting(other, f"{JOBS}/{job['id']}")
    other.kill()
    assert work(other)
    other.start()
    assert other.get("/v1/models").json()["data"] == [] and len(blobs(other)) == len(files)
    job = other.wait(job["id"])
    assert job["status"] == "succeeded" and len(job["artifacts"]) == 4, job
    made = submit(other, "m", "onnx", precision="int4", symmetric=False).json()
    wait_exporting(other, f"{EXPORTS}/{made['id']}")
    other.kill()
    assert work(other)
    other.start()
    made = wait(other, made["id"])
    assert made["status"] == "succeeded", made
    for artifact in job["artifacts"] + made["artifacts"]:
        download(other, artifact)
    wait_until(lambda: work(other) == [])
    assert len(blobs(other)) == len(files) + 5
