"""phid quantize and phid convert when the place to write to is none, is full, or the user stops."""

import os
import resource
import signal
import subprocess
import time

import pytest

from conftest import binary

SIZE_LIMIT = 20_000  # bytes: less than any of the results
FORMATS = ["safetensors", "mlx", "gptq", "compressed-tensors", "onnx", "openvino"]


def command_of(what, source, out):
    if what == "quantize":
        return ["quantize", source, "--precision", "int4", "--no-quality", "--out", out]
    precision = "fp16" if what == "safetensors" else "int4"
    return ["convert", source, out, "--format", what, "--precision", precision]


def phid(*arguments, **options):
    return subprocess.run([str(binary()), *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, check=False, **options)


def limit_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_LIMIT, SIZE_LIMIT))


@pytest.mark.parametrize("what", ["quantize", *FORMATS])
def test_no_room(what, tiny_dir, tmp_path):
    """A file that may not grow is a disk that is full."""
    done = phid(*command_of(what, tiny_dir, tmp_path / "out"), preexec_fn=limit_size)
    assert done.returncode == 1, done
    assert "File too large" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["quantize", "mlx", "onnx", "openvino"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(what, number, slow_dir, tmp_path):
    command = command_of(what, slow_dir, tmp_path / "out") + ["--threads", "1"]
    process = subprocess.Popen([str(binary()), *map(str, command)], stderr=subprocess.PIPE,
                               text=True)
    # Its work has begun when something lies in the folder.
    while process.poll() is None and not list(tmp_path.iterdir()):
        time.sleep(0.005)
    process.send_signal(number)
    _, says = process.communicate(timeout=60)
    assert process.returncode == 130, says
    assert "interrupted" in says.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_out_is_no_file(tiny_dir, tmp_path):
    """What is not a file is not replaced by one."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = phid(*command_of("quantize", tiny_dir, pipe))
    assert done.returncode == 1
    assert "pipe', which is no regular file" in done.stderr
    done = phid(*command_of("mlx", tiny_dir, pipe))
    assert done.returncode == 1
    assert "pipe" in done.stderr
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_out_is_the_source(tiny_dir):
    before = {path.name: path.read_bytes() for path in tiny_dir.iterdir()}
    for out in (tiny_dir, f"{tiny_dir}/", f"{tiny_dir}/../{tiny_dir.name}"):
        done = phid(*command_of("mlx", tiny_dir, out))
        assert done.returncode == 1
        assert "is not empty" in done.stderr
    assert {path.name: path.read_bytes() for path in tiny_dir.iterdir()} == before
