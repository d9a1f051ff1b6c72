#!/usr/bin/env python3
"""Streams a chat through nginx with deploy/nginx/phid.conf and checks that events arrive as they
are made, not in one lump: the first must come well before the last.

Starts its own daemon and its own nginx on free ports, and stops both.
"""

import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHID = os.environ.get("PHID_BIN", str(ROOT / "build/release/server/phid"))
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing listens on port {port}")


def nginx_config(folder, front, back):
    site = (ROOT / "deploy/nginx/phid.conf").read_text()
    site = site.replace("127.0.0.1:8080", f"127.0.0.1:{back}")
    site = re.sub(r"listen \d+;", f"listen 127.0.0.1:{front};", site)
    path = pathlib.Path(folder) / "nginx.conf"
    path.write_text(f"""daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
user root;
events {{}}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
{site} }}""")
    return path


def make_model(folder):
    out = pathlib.Path(folder) / "phi-sample.gguf"
    subprocess.run([PHID, "quantize", str(ROOT / "models/phi-sample"), "--precision", "int4",
                    "--out", str(out), "--no-quality"], check=True, capture_output=True)
    return out


def post(port, path, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def serve_model(port, gguf):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/files?filename={gguf.name}&purpose=model",
        gguf.read_bytes(), {"Content-Type": "application/octet-stream"}, method="PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        file_id = json.load(answer)["id"]
    job = post(port, "/v1/quantization/jobs",
               {"model": "phi-sample", "precision": "int4", "source": {"files": [file_id]}})
    while True:
        with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/v1/quantization/jobs/{job['id']}") as answer:
            state = json.load(answer)
        if state["status"] not in ("queued", "running"):
            break
        time.sleep(0.05)
    if state["status"] != "succeeded":
        sys.exit(f"the job ended as {state['status']}: {state['error']}")


def stream_times(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps({
        "model": "phi-sample:int4", "stream": True, "max_tokens": 300, "ignore_eos": True,
        "messages": [{"role": "user", "content": "Tell me a story about a cat."}]}),
        {"Content-Type": "application/json"})
    answer = connection.getresponse()
    times = []
    began = time.monotonic()
    while True:
        line = answer.readline()
        if not line:
            sys.exit("the stream ended without [DONE]")
        if line.startswith(b"data: "):
            times.append(time.monotonic() - began)
        if line.startswith(b"data: [DONE]"):
            return times


def main():
    back, front = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        daemon = subprocess.Popen([PHID, "serve", "--listen", f"127.0.0.1:{back}", "--data-dir",
                                   folder + "/data"], stderr=subprocess.DEVNULL)
        proxy = subprocess.Popen([NGINX, "-c", str(nginx_config(folder, front, back)), "-p",
                                  folder])
        try:
            wait_for(back)
            wait_for(front)
            serve_model(front, make_model(folder))
            times = stream_times(front)
        finally:
            for process in (proxy, daemon):
                process.terminate()
                process.wait(timeout=30)
    print(f"nginx: {len(times)} events, first after {times[0] * 1000:.0f} ms, "
          f"last after {times[-1] * 1000:.0f} ms")
    if times[0] > times[-1] / 2:
        sys.exit("events arrived in one lump: the proxy buffers")


if __name__ == "__main__":
    main()
