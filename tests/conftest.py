"""Fixtures of the black-box tests: daemons on free ports with data directories of their own.

PHID_BIN names the binary; without it the release build's is taken, and if there is none the tests
are skipped.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import zipfile

import pytest
import requests

ROOT = pathlib.Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 30
JOB_TIMEOUT_S = 300


def binary():
    path = pathlib.Path(os.environ.get("PHID_BIN", ROOT / "build/release/server/phid"))
    if not path.is_file():
        pytest.skip(f"{path} is not built")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    """One phid process; `settings` are flags with '_' for '-', `isa` the kernel set, or None."""

    def __init__(self, data_dir, settings, limit=None, isa=None):
        self.data_dir = pathlib.Path(data_dir)
        self.settings = settings
        self.limit = limit
        self.isa = isa
        self.process = None
        self.start()

    def start(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = self.data_dir.parent / f"{self.data_dir.name}.log"
        command = [str(binary()), "serve", "--listen", f"127.0.0.1:{self.port}",
                   "--data-dir", str(self.data_dir)]
        for name, value in self.settings.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("PHID_")}
        if self.isa:
            environment["PHID_ISA"] = self.isa
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment,
                                            preexec_fn=self.limit)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self.process.poll() is None, f"phid did not start:\n{self.log()}"
            assert time.monotonic() < deadline, f"phid does not answer:\n{self.log()}"
            try:
                if requests.get(self.url + "/healthz", timeout=5).status_code == 200:
                    return
            except requests.ConnectionError:
                time.sleep(0.05)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def alive(self):
        return (self.process.poll() is None and
                requests.get(self.url + "/healthz", timeout=10).status_code == 200)

    def kill(self):
        """As kill -9 does it: nothing is tidied up."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def request(self, method, path, **arguments):
        arguments.setdefault("timeout", 60)
        return requests.request(method, self.url + path, **arguments)

    def get(self, path, **arguments):
        return self.request("GET", path, **arguments)

    def post(self, path, **arguments):
        return self.request("POST", path, **arguments)

    def delete(self, path, **arguments):
        return self.request("DELETE", path, **arguments)

    # ---- what many tests do ----

    def upload(self, name, data, purpose="model", headers=None):
        """Uploads bytes or a path with PUT; returns the file object."""
        body = data if isinstance(data, bytes) else open(data, "rb")
        answer = self.request("PUT", "/v1/files", params={"filename": name, "purpose": purpose},
                              data=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload_dir(self, directory):
        """Uploads a Hugging Face folder; returns the file ids."""
        names = [path for path in sorted(pathlib.Path(directory).iterdir())
                 if path.suffix in (".json", ".safetensors", ".bin", ".onnx", ".data", ".xml")]
        return [self.upload(path.name, path)["id"] for path in names]

    def submit(self, model, files, precision="int4", **fields):
        body = {"model": model, "source": {"files": files}, "precision": precision, **fields}
        return self.post("/v1/quantization/jobs", json=body)

    def wait(self, job_id, timeout_s=JOB_TIMEOUT_S):
        """Polls until the job has ended; returns the job object."""
        deadline = time.monotonic() + timeout_s
        while True:
            job = self.get(f"/v1/quantization/jobs/{job_id}").json()
            if job["status"] not in ("queued", "running"):
                return job
            assert time.monotonic() < deadline, f"the job does not end: {job}"
            time.sleep(0.1)

    def quantize(self, model, files, precision="int4", **fields):
        answer = self.submit(model, files, precision, **fields)
        assert answer.status_code == 200, answer.text
        return self.wait(answer.json()["id"])


@pytest.fixture(scope="session")
def start_daemon():
    """start_daemon(data_dir=None, limit=None, isa=None, **settings) -> Daemon, stopped at the end."""
    daemons = []
    root = pathlib.Path(tempfile.mkdtemp(prefix="phid-http-"))

    def start(data_dir=None, limit=None, isa=None, **settings):
        data_dir = data_dir or tempfile.mkdtemp(dir=root, prefix="data-")
        settings.setdefault("log_level", "debug")
        daemon = Daemon(data_dir, settings, limit, isa)
        daemons.append(daemon)
        return daemon

    yield start
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.terminate()
    for daemon in daemons:
        try:
            daemon.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            daemon.process.kill()
            daemon.process.wait()
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def daemon(start_daemon):
    """One daemon without keys that most tests share."""
    return start_daemon()


@pytest.fixture(scope="session")
def sample_dir():
    directory = ROOT / "models/phi-sample"
    if not list(directory.glob("*.safetensors")):
        pytest.skip(f"{directory} has no weights")
    return directory


@pytest.fixture(scope="session")
def sample_model(daemon, sample_dir):
    """The sample, uploaded and quantized: {"int4": id, "fp32": id, "files": [...], "jobs": {}}."""
    files = daemon.upload_dir(sample_dir)
    made = {"files": files, "jobs": {}}
    for precision in ("int4", "fp32"):
        job = daemon.quantize("phi-sample", files, precision)
        assert job["status"] == "succeeded", job
        made[precision] = job["result_model"]
        made["jobs"][precision] = job
    return made


# ---- a small model with random weights, for tests that do not care what it says ----

def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            out.write(data)


def read_safetensors(path):
    """As write_safetensors takes them."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"],
                   data[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]])
            for name, entry in header.items()}


def pickled_text(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def write_torch(path, tensors, pickle=None):
    """The same tensors as torch.save writes them; `pickle` stands in for the right one."""
    storages = {"F16": b"Half", "BF16": b"BFloat16", "F32": b"Float"}
    dump = b"\x80\x02}("
    with zipfile.ZipFile(path, "w") as out:
        for key, (name, (dtype, shape, data)) in enumerate(tensors.items()):
            stride, count = [], 1
            for size in reversed(shape):
                stride, count = [count] + stride, count * size
            numbers = [b"".join(b"J" + struct.pack("<i", n) for n in part)
                       for part in (shape, stride)]
            dump += (pickled_text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" +
                     pickled_text("storage") + b"ctorch\n" + storages[dtype] + b"Storage\n" +
                     pickled_text(str(key)) + pickled_text("cpu") + b"J" +
                     struct.pack("<i", count) + b"tQK\0(" + numbers[0] + b"t(" + numbers[1] +
                     b"t\x89ccollections\nOrderedDict\n)RtR")
            out.writestr(f"archive/data/{key}", data)
        out.writestr("archive/data.pkl", pickle or dump + b"u.")
        out.writestr("archive/version", "3\n")


def random_weights(seed):
    """A maker of small random bfloat16 tensors: no zeros, no infinities."""
    rng = random.Random(seed)
    # Sign and exponent byte of +-[2^-7, 2^-6) and +-[2^-5, 2^-4).
    high = bytes((0x3C, 0xBC, 0x3D, 0xBD)[i % 4] for i in range(256))

    def weights(*shape):
        count = 1
        for size in shape:
            count *= size
        data = bytearray(2 * count)
        data[0::2] = rng.randbytes(count)
        data[1::2] = rng.randbytes(count).translate(high)
        return "BF16", list(shape), bytes(data)

    return weights


def make_model(directory, layers=1, hidden=64, ffn=128, seed=1):
    """A Phi-3 folder with the sample's tokenizer and small random bfloat16 weights."""
    directory.mkdir(parents=True, exist_ok=True)
    source = ROOT / "models/phi-sample"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, directory / name)
    config = json.loads((source / "config.json").read_text())
    config.update(hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
                  num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64,
                  tie_word_embeddings=True, torch_dtype="bfloat16")
    (directory / "config.json").write_text(json.dumps(config))
    weights = random_weights(seed)

    def ones(size):
        return "BF16", [size], b"\x80\x3f" * size

    tensors = {"model.embed_tokens.weight": weights(config["vocab_size"], hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = ones(hidden)
        tensors[prefix + "post_attention_layernorm.weight"] = ones(hidden)
        tensors[prefix + "self_attn.qkv_proj.weight"] = weights(3 * hidden, hidden)
        tensors[prefix + "self_attn.o_proj.weight"] = weights(hidden, hidden)
        tensors[prefix + "mlp.gate_up_proj.weight"] = weights(2 * ffn, hidden)
        tensors[prefix + "mlp.down_proj.weight"] = weights(hidden, ffn)
    tensors["model.norm.weight"] = ones(hidden)
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


def make_phi2(directory, layers=2, hidden=256, ffn=512, seed=3):
    """A folder of the phi2 architecture with the sample's tokenizer and small random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    source = ROOT / "models/phi-sample"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, directory / name)
    sample = json.loads((source / "config.json").read_text())
    vocab = sample["vocab_size"]
    config = {"architectures": ["PhiForCausalLM"], "model_type": "phi", "hidden_size": hidden,
              "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": 4,
              "num_key_value_heads": 4, "vocab_size": vocab, "max_position_embeddings": 512,
              "hidden_act": "gelu_new", "partial_rotary_factor": 0.5, "rope_theta": 10000.0,
              "layer_norm_eps": 1e-5, "qk_layernorm": False, "tie_word_embeddings": False,
              "bos_token_id": sample["bos_token_id"], "eos_token_id": sample["eos_token_id"]}
    (directory / "config.json").write_text(json.dumps(config))
    weights = random_weights(seed)

    def put(name, rows, cols):
        tensors[name + ".weight"] = weights(rows, cols)
        tensors[name + ".bias"] = weights(rows)

    tensors = {"model.embed_tokens.weight": weights(vocab, hidden)}
    norms = [f"model.layers.{layer}.input_layernorm" for layer in range(layers)]
    for name in [*norms, "model.final_layernorm"]:
        tensors[name + ".weight"] = "BF16", [hidden], b"\x80\x3f" * hidden
        tensors[name + ".bias"] = weights(hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            put(prefix + "self_attn." + name, hidden, hidden)
        put(prefix + "mlp.fc1", ffn, hidden)
        put(prefix + "mlp.fc2", hidden, ffn)
    put("lm_head", vocab, hidden)
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


def make_phimoe(directory, layers=2, hidden=256, ffn=64, experts=4, seed=5):
    """A folder of the phimoe architecture, the same way."""
    directory.mkdir(parents=True, exist_ok=True)
    source = ROOT / "models/phi-sample"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, directory / name)
    sample = json.loads((source / "config.json").read_text())
    vocab = sample["vocab_size"]
    config = {"architectures": ["PhiMoEForCausalLM"], "model_type": "phimoe",
              "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": vocab,
              "max_position_embeddings": 512, "hidden_act": "silu", "rope_theta": 10000.0,
              "rms_norm_eps": 1e-5, "num_local_experts": experts, "num_experts_per_tok": 2,
              "router_jitter_noise": 0.01, "attention_bias": True, "lm_head_bias": True,
              "tie_word_embeddings": False, "bos_token_id": sample["bos_token_id"],
              "eos_token_id": sample["eos_token_id"]}
    (directory / "config.json").write_text(json.dumps(config))
    weights = random_weights(seed)
    tensors = {"model.embed_tokens.weight": weights(vocab, hidden)}

    def put(name, rows, cols):
        tensors[name + ".weight"] = weights(rows, cols)
        tensors[name + ".bias"] = weights(rows)

    norms = [f"model.layers.{layer}.{which}_layernorm" for layer in range(layers)
             for which in ("input", "post_attention")]
    for name in [*norms, "model.norm"]:
        tensors[name + ".weight"] = "BF16", [hidden], b"\x80\x3f" * hidden
        tensors[name + ".bias"] = weights(hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", hidden // 2), ("v", hidden // 2), ("o", hidden)):
            put(prefix + f"self_attn.{name}_proj", rows, hidden)
        moe = prefix + "block_sparse_moe."
        tensors[moe + "gate.weight"] = weights(experts, hidden)
        for expert in range(experts):
            tensors[f"{moe}experts.{expert}.w1.weight"] = weights(ffn, hidden)
            tensors[f"{moe}experts.{expert}.w2.weight"] = weights(hidden, ffn)
            tensors[f"{moe}experts.{expert}.w3.weight"] = weights(ffn, hidden)
    put("lm_head", vocab, hidden)
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


@pytest.fixture(scope="session")
def phimoe_dir(tmp_path_factory):
    return make_phimoe(tmp_path_factory.mktemp("models") / "phimoe")


@pytest.fixture(scope="session")
def phi2_dir(tmp_path_factory):
    return make_phi2(tmp_path_factory.mktemp("models") / "phi2")


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def slow_dir(tmp_path_factory):
    """Takes long enough to quantize that a test can interfere."""
    return make_model(tmp_path_factory.mktemp("models") / "slow", layers=6, hidden=512, ffn=1024)


@pytest.fixture(scope="session")
def tiny_files(daemon, tiny_dir):
    return daemon.upload_dir(tiny_dir)


@pytest.fixture(scope="session")
def slow_files(daemon, slow_dir):
    return daemon.upload_dir(slow_dir)
