"""Models of the phi2 and phimoe architectures, as every command of phid sees them."""

import array
import json
import math
import os
import pathlib
import shutil
import subprocess

import pytest

from conftest import read_safetensors, write_safetensors

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHID = os.environ.get("PHID_BIN", str(ROOT / "build/release/server/phid"))
ASK = ["--raw", "the cat", "--temperature", "0", "--max-tokens", "24"]


def phid(*arguments, fails=False):
    done = subprocess.run([PHID, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def values(folder, out):
    phid("quantize", folder, "--precision", "fp32", "--no-quality", "--out", out)
    tensors = json.loads(phid("inspect", out, "--json"))["tensors"]
    # Numbers, not bytes: a zero of either sign is one value.
    return array.array("f", out.read_bytes()[-sum(tensor["bytes"] for tensor in tensors):])


@pytest.fixture(params=["phi2", "phimoe"])
def folder(request):
    """One of each."""
    return request.getfixturevalue(f"{request.param}_dir")


def test_inspect_phi2(phi2_dir):
    said = json.loads(phid("inspect", phi2_dir, "--json"))
    assert said["model"]["architecture"] == "phi2"
    assert said["model"]["rotary"] == 32
    names = {tensor["name"]: tensor for tensor in said["tensors"]}
    assert names["blk.0.attn_qkv.bias"]["cols"] == 768
    assert names["blk.1.ffn_up.weight"]["rows"] == 512
    assert "output.bias" in names and "blk.0.ffn_norm.weight" not in names


def test_inspect_phimoe(phimoe_dir):
    said = json.loads(phid("inspect", phimoe_dir, "--json"))
    assert said["model"]["architecture"] == "phimoe"
    assert said["model"]["experts"] == 4
    names = {tensor["name"]: tensor for tensor in said["tensors"]}
    assert names["blk.0.ffn_gate_exps.weight"]["rows"] == 4 * 64
    assert names["blk.1.ffn_down_exps.weight"]["rows"] == 4 * 256
    assert "4 experts, 2 for each token" in phid("inspect", phimoe_dir)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_quantize(folder, precision, tmp_path):
    out = tmp_path / "out.gguf"
    phid("quantize", folder, "--precision", precision, "--out", out)
    answer = phid("generate", out, *ASK)
    assert answer.strip()
    if precision == "fp32":
        assert answer == phid("generate", folder, *ASK)


def test_a_router_stays_as_it_is(phimoe_dir, tmp_path):
    out = tmp_path / "out.gguf"
    phid("quantize", phimoe_dir, "--type", "q4_k_m", "--no-quality", "--out", out)
    types = {tensor["name"]: tensor["type"]
             for tensor in json.loads(phid("inspect", out, "--json"))["tensors"]}
    assert types["blk.0.ffn_gate_inp.weight"] == "F32"
    assert types["blk.0.ffn_up_exps.weight"] == "Q4_K"
    for form in ("onnx", "openvino"):  # which have no bf16
        said = json.loads(phid("convert", phimoe_dir, tmp_path / form, "--format", form, "--precision",
                               "fp32", "--json"))
        assert (said["exact"], said["matrices"]) == (14, 14)


@pytest.mark.parametrize("form, options", [
    ("safetensors", ["--precision", "fp32"]), ("mlx", ["--precision", "int4"]),
    ("gptq", ["--precision", "int4"]), ("compressed-tensors", ["--precision", "int8"]),
    ("openvino", ["--precision", "fp32"]), ("openvino", ["--precision", "int4"]),
    ("openvino", ["--precision", "int8"]),
])
def test_convert_there_and_again(folder, form, options, tmp_path):
    check_there_and_again(folder, form, options, tmp_path)


@pytest.mark.parametrize("provider, options", [
    ("cpu", ["--precision", "fp32"]), ("cpu", ["--precision", "fp16"]),
    ("cpu", ["--precision", "int8"]), ("cpu", ["--precision", "int4"]),
    ("cpu", ["--precision", "int4", "--asymmetric", "--group-size", "64"]),
    ("cuda", ["--precision", "fp16"]), ("cuda", ["--precision", "int4", "--group-size", "64"]),
])
def test_onnx_there_and_again(folder, provider, options, tmp_path):
    """What is read is what was written: codes, scales, zero points and biases."""
    if folder.name == "phimoe" and provider == "cuda":
        pytest.skip("phimoe has no folder for CUDA")
    check_there_and_again(folder, "onnx", [*options, "--provider", provider], tmp_path)
    phid("convert", tmp_path / "first", tmp_path / "same", "--format", "onnx", "--provider", provider)
    for name in ("model.onnx.data", "model.onnx", "genai_config.json"):
        assert (tmp_path / "same" / name).read_bytes() == \
            (tmp_path / "first" / name).read_bytes(), name
    kind = json.loads((tmp_path / "same/genai_config.json").read_text())["model"]["type"]
    assert kind == {"phi2": "phi", "phimoe": "phimoe"}[folder.name]


def check_there_and_again(folder, form, options, tmp_path):
    phid("convert", folder, tmp_path / "first", "--format", form, *options)
    phid("convert", tmp_path / "first", tmp_path / "second", "--format", form)
    assert values(tmp_path / "first", tmp_path / "first.gguf") == \
        values(tmp_path / "second", tmp_path / "second.gguf")
    if form not in ("mlx", "onnx"):
        # MLX's embedding has 8 bits and offsets, which no type of GGUF has, and ONNX's scales are
        # fp32, which GGUF's types round.
        phid("convert", tmp_path / "first", tmp_path / "kept.gguf", "--format", "gguf")
        assert values(tmp_path / "kept.gguf", tmp_path / "kept-f32.gguf") == \
            values(tmp_path / "first", tmp_path / "first.gguf")
    if "fp32" in options:
        assert values(tmp_path / "first", tmp_path / "first.gguf") == \
            values(folder, tmp_path / "source.gguf")
        # Of a GGUF, whose description config.json is made of.
        phid("convert", tmp_path / "first.gguf", tmp_path / "third", "--format", form)
        assert values(tmp_path / "third", tmp_path / "third.gguf") == \
            values(folder, tmp_path / "source.gguf")
        assert phid("generate", tmp_path / "third", *ASK) == phid("generate", folder, *ASK)


def test_loaders_are_told_of_the_routers(phimoe_dir, tmp_path):
    """Software that makes modules by these sections would else look for a router's codes."""
    routers = [f"model.layers.{layer}.block_sparse_moe.gate" for layer in range(2)]

    def section(form):
        phid("convert", phimoe_dir, tmp_path / form, "--format", form, "--precision", "int4")
        return json.loads((tmp_path / form / "config.json").read_text())["quantization_config"]

    assert section("compressed-tensors")["ignore"] == ["lm_head", *routers]
    assert section("gptq")["dynamic"] == {f"-:^{router}$": {} for router in routers}
    mlx = section("mlx")
    assert [mlx[router] for router in routers] == [False, False]


def rewritten(folder, out, *changes):
    """A folder whose tensors, by name, are changed."""
    shutil.copytree(folder, out)
    tensors = read_safetensors(folder / "model.safetensors")
    for change in changes:
        change(tensors)
    write_safetensors(out / "model.safetensors", tensors)
    return out


def stack(tensors):
    """Each expert's matrices become one, as mlx-lm writes them."""
    for layer in range(2):
        moe = f"model.layers.{layer}.block_sparse_moe."
        for own, name in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
            parts = [tensors.pop(f"{moe}experts.{expert}.{own}.weight") for expert in range(4)]
            tensors[f"{moe}switch_mlp.{name}_proj.weight"] = (
                "BF16", [4, *parts[0][1]], b"".join(part[2] for part in parts))


def test_experts_as_mlx_stacks_them(phimoe_dir, tmp_path):
    right = values(phimoe_dir, tmp_path / "right.gguf")
    folder = rewritten(phimoe_dir, tmp_path / "stacked", stack)
    assert values(folder, tmp_path / "stacked.gguf") == right
    # What is written for MLX is stacked, in codes and in floats, and for others it is not.
    for form, options in (("mlx", ["--precision", "int4"]), ("mlx", ["--precision", "fp32"]),
                          ("safetensors", [])):
        out = tmp_path / "-".join([form, *options[1:]])
        phid("convert", folder, out, "--format", form, *options)
        shapes = {name: shape for name, (_, shape, _) in
                  read_safetensors(out / "model.safetensors").items()}
        moe = "model.layers.1.block_sparse_moe."
        if form == "mlx":
            assert shapes[moe + "switch_mlp.down_proj.weight"] == \
                [4, 256, 64 // 8 if "int4" in options else 64]
            assert not any("experts." in name for name in shapes)
        else:
            assert shapes[moe + "experts.3.w2.weight"] == [256, 64]
            assert not any("switch_mlp" in name for name in shapes)
    assert values(tmp_path / "mlx-fp32", tmp_path / "again.gguf") == right


def name_as_auto_round(tensors):
    """The names that auto-round gives experts and router."""
    names = {"block_sparse_moe.gate.": "block_sparse_moe.router.", ".w1.": ".gate_proj.",
             ".w2.": ".down_proj.", ".w3.": ".up_proj."}
    for name in list(tensors):
        tensor = tensors.pop(name)
        for own, other in names.items():
            name = name.replace(own, other)
        tensors[name] = tensor


@pytest.mark.parametrize("form, options", [
    ("safetensors", []), ("gptq", ["--precision", "int4"]), ("compressed-tensors", ["--precision", "int8"]),
])
def test_experts_as_auto_round_names_them(phimoe_dir, form, options, tmp_path):
    phid("convert", phimoe_dir, tmp_path / "ours", "--format", form, *options)
    folder = rewritten(tmp_path / "ours", tmp_path / "theirs", name_as_auto_round)
    assert values(folder, tmp_path / "theirs.gguf") == values(tmp_path / "ours", tmp_path / "ours.gguf")
    # What is written of it has the names of the published models.
    phid("convert", folder, tmp_path / "again", "--format", form)
    again, ours = (read_safetensors(tmp_path / name / "model.safetensors") for name in ("again", "ours"))
    assert again == ours


def stack_as_classes(tensors):
    """As transformers 5 calls and stacks them in its own classes: save_original_format=False."""
    for layer in range(2):
        moe, mlp = (f"model.layers.{layer}.{name}." for name in ("block_sparse_moe", "mlp"))
        gate, down, up = ([tensors.pop(f"{moe}experts.{expert}.{own}.weight")[2] for expert in range(4)]
                          for own in ("w1", "w2", "w3"))
        tensors[f"{mlp}router.weight"] = tensors.pop(f"{moe}gate.weight")
        tensors[f"{mlp}experts.gate_up_proj"] = ("BF16", [4, 2 * 64, 256], b"".join(
            one + other for one, other in zip(gate, up)))
        tensors[f"{mlp}experts.down_proj"] = ("BF16", [4, 256, 64], b"".join(down))


def test_experts_as_transformers_stacks_them(phimoe_dir, tmp_path):
    folder = rewritten(phimoe_dir, tmp_path / "stacked", stack_as_classes)
    assert values(folder, tmp_path / "stacked.gguf") == values(phimoe_dir, tmp_path / "right.gguf")
    assert phid("generate", folder, *ASK) == phid("generate", phimoe_dir, *ASK)


@pytest.mark.parametrize("name, shape, said", [
    ("gate_up_proj", [8, 64, 256], "has shape [8, 64, 256]; [4, 128, 256] is right"),
    ("down_proj", [4, 64, 256], "has shape [4, 64, 256]; [4, 256, 64] is right"),
    ("gate_up_proj", None, "is missing"),
])
def test_stacks_of_transformers_that_do_not_fit_are_named(phimoe_dir, name, shape, said, tmp_path):
    name = f"model.layers.1.mlp.experts.{name}"

    def change(tensors):
        dtype, _, data = tensors.pop(name)
        if shape:
            tensors[name] = dtype, shape, data

    told = phid("inspect", rewritten(phimoe_dir, tmp_path / "stacked", stack_as_classes, change), fails=True)
    assert said in told
    assert ("experts.0.w1.weight" if shape is None else name) in told


@pytest.mark.parametrize("shape, said", [
    ([2, 8 * 16, 256], "has shape [2, 128, 256]; [4, 64, 256] is right"),
    ([4 * 64, 256], "has shape [256, 256]; [4, 64, 256] is right"),
])
def test_stacks_that_do_not_fit_are_named(phimoe_dir, shape, said, tmp_path):
    name = "model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight"

    def change(tensors):
        dtype, _, data = tensors[name]
        tensors[name] = dtype, shape, data

    folder = rewritten(phimoe_dir, tmp_path / "stacked", stack, change)
    assert f'tensor "{name}" {said}' in phid("inspect", folder, fails=True)


def test_coded_stacks_that_do_not_fit_are_named(phimoe_dir, tmp_path):
    folder = tmp_path / "mlx"
    phid("convert", phimoe_dir, folder, "--format", "mlx", "--precision", "int4")
    tensors = read_safetensors(folder / "model.safetensors")
    name = "model.layers.0.block_sparse_moe.switch_mlp.up_proj.scales"
    dtype, shape, data = tensors[name]
    assert shape == [4, 64, 8]
    tensors[name] = dtype, [2, 128, 8], data
    write_safetensors(folder / "model.safetensors", tensors)
    said = phid("inspect", folder, fails=True)
    assert f'tensor "{name}" has 3 dimensions, of which the first is 2; 3, and 4' in said


@pytest.mark.parametrize("tensor, shape, said", [
    ("block_sparse_moe.gate.weight", [4, 1, 256], "has shape [4, 1, 256]; [4, 256] is right"),
    ("input_layernorm.bias", [4, 64, 256], "has shape [4, 64, 256]; [256] is right"),
    ("block_sparse_moe.experts.1.w1.weight", [4, 16, 256],
     "has shape [4, 16, 256]; [64, 256] is right"),
    ("block_sparse_moe.experts.3.w2.weight", None, "is missing"),
])
def test_what_does_not_fit_is_named(phimoe_dir, tensor, shape, said, tmp_path):
    folder = tmp_path / "wrong"
    shutil.copytree(phimoe_dir, folder)
    tensors = read_safetensors(folder / "model.safetensors")
    name = f"model.layers.1.{tensor}"
    dtype, _, data = tensors.pop(name)
    if shape:
        tensors[name] = dtype, shape, data * (2 * math.prod(shape) // len(data))
    write_safetensors(folder / "model.safetensors", tensors)
    told = phid("inspect", folder, fails=True)
    assert f'tensor "{name}" {said}' in told


def test_former_names_are_known(phi2_dir, tmp_path):
    folder = tmp_path / "former"
    shutil.copytree(phi2_dir, folder)
    tensors = {name.replace("model.layers.", "transformer.h.").replace("self_attn.", "mixer.")
               .replace("q_proj", "Wqkv").replace("model.embed_tokens", "transformer.embd.wte"): tensor
               for name, tensor in read_safetensors(folder / "model.safetensors").items()}
    write_safetensors(folder / "model.safetensors", tensors)
    said = phid("inspect", folder, fails=True)
    assert 'tensor "model.embed_tokens.weight" is missing; the files have Phi\'s former layout' in said


@pytest.mark.parametrize("arch, options, said", [
    ("phi2", ["qnn"], "qnn is written for phi3 models only, and this is phi2; it can be converted to "
                      "gguf, safetensors, openvino, onnx, mlx"),
    ("phimoe", ["qnn"], "qnn is written for phi3 models only, and this is phimoe"),
    ("phimoe", ["onnx", "--provider", "cuda"], "onnx for cuda is written for phi3 and phi2 models "
     "only, and this is phimoe; it can be converted to gguf, safetensors, openvino, onnx for cpu"),
])
def test_graphs_are_refused_by_name(arch, options, said, request, tmp_path):
    told = phid("convert", request.getfixturevalue(f"{arch}_dir"), tmp_path / "out", "--format",
                *options, fails=True)
    assert said in told
    assert not (tmp_path / "out").exists()
