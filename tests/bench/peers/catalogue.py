"""What is compared: engines, the models that each is given, and how those are made."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

# File types of llama.cpp's quantizer (llama.h), for files that phid does not make of the checkpoint:
# its own Q4_K_M, and F16, as phid keeps numbers of bfloat16 as they are.
LLAMA_FTYPES = {"q4_k_m.gguf": 15, "f16.gguf": 1}


@dataclasses.dataclass(frozen=True)
class Entry:
    engine: str
    precision: str  # int4, int8, fp16, fp32: what is compared with what
    variant: str    # as the engine calls it
    model: str      # name in the folder of models; shared where the file is the same

    @property
    def label(self):
        return f"{self.engine} {self.variant}"


ENTRIES = [
    Entry("phid", "int4", "Q4_0", "int4.gguf"),
    Entry("llama.cpp", "int4", "Q4_0", "int4.gguf"),
    Entry("llama.cpp", "int4", "Q4_K_M", "q4_k_m.gguf"),
    Entry("onnxruntime", "int4", "INT4", "onnxruntime-int4"),
    Entry("openvino", "int4", "INT4", "openvino-int4"),
    Entry("mlx", "int4", "4 bit", "mlx-int4"),
    Entry("phid", "int8", "Q8_0", "int8.gguf"),
    Entry("llama.cpp", "int8", "Q8_0", "int8.gguf"),
    Entry("onnxruntime", "int8", "INT8", "onnxruntime-int8"),
    Entry("openvino", "int8", "INT8", "openvino-int8"),
    Entry("mlx", "int8", "8 bit", "mlx-int8"),
    Entry("phid", "fp16", "F16", "f16.gguf"),
    Entry("llama.cpp", "fp16", "F16", "f16.gguf"),
    Entry("phid", "fp16", "BF16", "bf16.gguf"),
    Entry("llama.cpp", "fp16", "BF16", "bf16.gguf"),
    Entry("phid", "fp32", "F32", "fp32.gguf"),
    Entry("llama.cpp", "fp32", "F32", "fp32.gguf"),
]
ENGINES = list(dict.fromkeys(entry.engine for entry in ENTRIES))
PRECISIONS = list(dict.fromkeys(entry.precision for entry in ENTRIES))

ADAPTERS = {"phid": "phid", "llama.cpp": "llama_cpp", "onnxruntime": "onnxruntime_genai",
            "openvino": "openvino_genai", "mlx": "mlx_lm"}
VENVS = {"phid": "tools", "llama.cpp": "llama_cpp", "onnxruntime": "onnxruntime",
         "openvino": "openvino", "mlx": "mlx"}

# Memory that making a model of Phi-3-mini's shape took at most, in GiB; a little less is asked for
# with fewer layers.
MEMORY_GIB = {"onnxruntime": 17, "openvino": 11, "mlx": 4}


def python_of(base, venv):
    """An environment's interpreter; this one where run.sh has made none, as in tests."""
    path = base / f"venv-{venv}" / "bin" / "python"
    return str(path) if path.exists() else sys.executable


def available_gib():
    with open("/proc/meminfo", encoding="ascii") as text:
        line = next(line for line in text if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 2**20


class Models:
    """The folder with one checkpoint and what was made of it. What is there is not made again;
    a model appears under its name when it is whole."""

    def __init__(self, base, shape, layers, phid):
        self.base = base
        self.shape = shape
        self.layers = layers
        self.phid = phid
        self.folder = base / f"{shape}-{layers or 'all'}-layers"
        self.checkpoint = self.folder / "checkpoint"
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, entry):
        path = self.folder / entry.model
        if not path.exists():
            partial = self.folder / f"partial-{entry.model}"
            if partial.is_dir():
                shutil.rmtree(partial)
            self.make_checkpoint()
            self.make(entry, partial)
            partial.rename(path)
        return path

    def drop(self, precision):
        """Frees what only this precision's entries need."""
        for name in {entry.model for entry in ENTRIES if entry.precision == precision}:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def call(self, command, **environment):
        log = self.folder / "making.log"
        print("making:", " ".join(map(str, command)), file=sys.stderr, flush=True)
        with open(log, "ab") as out:
            done = subprocess.run(
                list(map(str, command)), stdout=out, stderr=out, check=False,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
                     **environment})
        if done.returncode:
            tail = log.read_text(errors="replace").splitlines()[-8:]
            raise RuntimeError(f"exit status {done.returncode}; {log} ends:\n" + "\n".join(tail))

    def make_checkpoint(self):
        if (self.checkpoint / "model.safetensors").exists():
            return
        self.call([python_of(self.base, "tools"), HERE / "make_checkpoint.py", "--shape",
                   self.shape, "--layers", self.layers, self.checkpoint])

    def make(self, entry, out):
        needed = MEMORY_GIB.get(entry.engine, 1) if self.shape != "tiny" else 0
        if available_gib() < needed:
            raise RuntimeError(f"making it takes {needed} GiB of memory; {available_gib():.1f} "
                               "are available")
        if entry.model in LLAMA_FTYPES:
            self.make_llama_cpp(LLAMA_FTYPES[entry.model], out)
        elif entry.model.endswith(".gguf"):
            self.call([self.phid, "quantize", self.checkpoint, "--precision", entry.precision,
                       "--no-quality", "--out", out])
        elif entry.engine == "onnxruntime":
            self.call([python_of(self.base, "convert"), "-m", "onnxruntime_genai.models.builder",
                       "-i", self.checkpoint, "-o", out, "-p", entry.precision, "-e", "cpu",
                       "-c", self.folder / "builder-cache", "--extra_options",
                       "accuracy_level=4", "block_size=32"])
        elif entry.engine == "openvino":
            weights = ["--weight-format", entry.precision]
            if entry.precision == "int4":
                weights += ["--sym", "--group-size", "128", "--ratio", "1.0"]
            self.call([self.base / "venv-convert/bin/optimum-cli", "export", "openvino",
                       "--model", self.checkpoint, "--task", "text-generation-with-past",
                       *weights, out])
        else:
            self.call([python_of(self.base, "mlx"), "-m", "mlx_lm", "convert", "--hf-path",
                       self.checkpoint, "--mlx-path", out, "-q", "--q-group-size", "64",
                       "--q-bits", entry.precision.removeprefix("int")])

    def make_llama_cpp(self, ftype, out):
        """llama.cpp's own quantizer, from the bfloat16 that phid wrote."""
        source = self.get(next(entry for entry in ENTRIES if entry.model == "bf16.gguf"))
        self.call([python_of(self.base, "llama_cpp"), HERE / "llama_quantize.py", source, out,
                   ftype])
