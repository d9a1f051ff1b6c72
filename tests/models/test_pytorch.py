"""The sample model saved by PyTorch itself: the same weights, so the same files and answers."""

import json
import shutil
import subprocess

import pytest

from conftest import ROOT, binary, read_safetensors

torch = pytest.importorskip("torch")

SAMPLE = ROOT / "models" / "phi-sample"
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
PROMPT = "What is 12 plus 7?"


def state_dict():
    return {name: torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).reshape(shape)
            for name, (dtype, shape, data) in
            read_safetensors(SAMPLE / "model.safetensors").items()}


def folder(path):
    path.mkdir()
    for source in SAMPLE.glob("*.json"):
        shutil.copy(source, path / source.name)
    return path


@pytest.fixture(scope="module", params=["archive", "stream", "shards"])
def saved(request, tmp_path_factory):
    path = folder(tmp_path_factory.mktemp("torch") / request.param)
    state = state_dict()
    if request.param != "shards":
        torch.save(state, path / "pytorch_model.bin",
                   _use_new_zipfile_serialization=request.param == "archive")
        return path
    names = list(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2],
             "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, held in parts.items():
        torch.save({name: state[name] for name in held}, path / file)
    index = {"metadata": {}, "weight_map": {n: file for file, held in parts.items() for n in held}}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return path


def run(*arguments):
    result = subprocess.run([str(binary()), *map(str, arguments)], capture_output=True, text=True,
                            timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_inspect(saved):
    first, *tensors = run("inspect", saved).splitlines()
    assert ": pytorch, phi3, " in first
    assert tensors == run("inspect", SAMPLE).splitlines()[1:]


@pytest.mark.parametrize("precision", ["int4", "fp32"])
def test_quantized_files_are_the_same(saved, tmp_path, precision):
    made = []
    for source in (SAMPLE, saved):
        out = tmp_path / f"{source.name}.gguf"
        run("quantize", source, "--precision", precision, "--no-quality", "--out", out)
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_answers_are_the_same(saved):
    answers = [run("generate", source, PROMPT, "--temperature", "0")
               for source in (SAMPLE, saved)]
    assert answers[0] == answers[1] and "19" in answers[0]


def test_a_module_is_refused(tmp_path):
    path = folder(tmp_path / "module")
    torch.save(torch.nn.Linear(2, 2), path / "pytorch_model.bin")
    result = subprocess.run([str(binary()), "inspect", str(path)], capture_output=True, text=True,
                            timeout=60, check=False)
    assert result.returncode == 1
    assert "refused global torch.nn.modules.linear.Linear at byte 2" in result.stderr
