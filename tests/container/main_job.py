#!/usr/bin/env python3
"""The main job over HTTP against a daemon that runs already: upload, quantize, chat.

Needs nothing but the standard library; the daemon's address is in PHID_URL.
"""

import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request

URL = os.environ["PHID_URL"]
SAMPLE = pathlib.Path(__file__).resolve().parents[2] / "models" / "phi-sample"
FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
         "model.safetensors"]


def call(method, path, body=None, kind="application/json"):
    data = json.dumps(body).encode() if kind == "application/json" and body is not None else body
    request = urllib.request.Request(URL + path, data=data, method=method)
    if data is not None:
        request.add_header("Content-Type", kind)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_until_alive():
    for _ in range(100):
        try:
            urllib.request.urlopen(URL + "/healthz", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit("the daemon did not answer within 10 s")


def upload(name, purpose="model"):
    data = (SAMPLE / name).read_bytes()
    return call("PUT", f"/v1/files?filename={name}&purpose={purpose}", data,
                "application/octet-stream")["id"]


def run_job(files):
    job = call("POST", "/v1/quantization/jobs",
               {"model": "phi-sample", "precision": "int4", "source": {"files": files},
                "quality": {"file": upload("heldout.txt", "calibration")}})
    for _ in range(600):
        job = call("GET", "/v1/quantization/jobs/" + job["id"])
        if job["status"] not in ("queued", "running"):
            break
        time.sleep(0.1)
    if job["status"] != "succeeded":
        sys.exit(f"the job ended as {job['status']}: {job['error']}")
    return job


def main():
    wait_until_alive()
    job = run_job([upload(name) for name in FILES])
    question = "What is 12 plus 7?"
    answer = call("POST", "/v1/chat/completions", {
        "model": job["result_model"], "temperature": 0,
        "messages": [{"role": "user", "content": question}]})
    text = answer["choices"][0]["message"]["content"]
    print(f"perplexity {job['quality']['perplexity']['result']:.3f}; {question} {text}")
    if "19" not in text:
        sys.exit("the answer is wrong")


if __name__ == "__main__":
    main()
