"""phid convert: the sample model as a folder of other ecosystems, and back, code for code."""

import array
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from gguf_file import Gguf, without  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "models" / "phi-sample"
PHI2 = ROOT / "tests" / "golden" / "phi2"
PHID = os.environ.get("PHID_BIN", str(ROOT / "build/release/server/phid"))
ASK = ["--raw", "the cat", "--temperature", "0", "--max-tokens", "24"]
FORMATS = ["onnx", "openvino"]
GGUFS = {
    "int8": ["--precision", "int8"],
    "int4": ["--precision", "int4"],
    "q4_k_m": ["--type", "q4_k_m"],
}
# What a folder of each may hold, that it hands over whole.
HUGGING_FACE = {
    "safetensors": ["fp16", "fp32"],
    "mlx": ["int4", "int4-offset", "int4-128", "int8", "int8-offset", "fp16"],
    "gptq": ["int4", "int4-offset", "int4-128", "int4-row", "int8", "int8-offset", "int8-row"],
    "compressed-tensors": ["int4", "int4-offset", "int4-128", "int4-row", "int8", "int8-offset", "int8-row"],
}
CODINGS = {
    "int4": ["--precision", "int4"],
    "int4-offset": ["--precision", "int4", "--asymmetric", "--group-size", "64"],
    "int4-128": ["--precision", "int4", "--group-size", "128"],
    "int4-row": ["--precision", "int4", "--group-size", "-1"],
    "int8": ["--precision", "int8"],
    "int8-offset": ["--precision", "int8", "--asymmetric", "--group-size", "128"],
    "int8-row": ["--precision", "int8", "--group-size", "-1"],
    "fp16": ["--precision", "fp16"],
    "fp32": ["--precision", "fp32"],
}


def phid(*arguments, fails=False):
    done = subprocess.run([PHID, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def convert(source, out, form, *options):
    return json.loads(phid("convert", source, out, "--format", form, "--json", *options))


def inspected(path):
    return json.loads(phid("inspect", path, "--json"))["tensors"]


def values(folder, out):
    """All that the folder's codes stand for; files of other formats have other names in them."""
    phid("quantize", folder, "--precision", "fp32", "--no-quality", "--out", out)
    return out.read_bytes()[-sum(tensor["bytes"] for tensor in inspected(out)):]


@pytest.mark.parametrize("form, coding", [(form, coding) for form in FORMATS for coding in CODINGS
                                          if form != "onnx" or "row" not in coding])
def test_there_and_onward(form, coding, tmp_path):
    first = convert(SAMPLE, tmp_path / "first", form, *CODINGS[coding])
    assert first["matrices"] == 18
    assert first["exact"] == (18 if coding.startswith("fp") else 0)
    before = values(tmp_path / "first", tmp_path / "first.gguf")
    for onward in FORMATS:
        folder = tmp_path / f"then-{onward}"
        then = convert(tmp_path / "first", folder, onward)
        assert (then["exact"], then["requantized"]) == (18, 0)
        assert values(folder, tmp_path / f"{onward}.gguf") == before


@pytest.mark.parametrize("form, coding", [(form, coding) for form, codings in HUGGING_FACE.items()
                                          for coding in codings])
def test_hugging_face_there_and_again(form, coding, tmp_path):
    """What is read of a folder is what was written, and it converts to itself without loss."""
    convert(SAMPLE, tmp_path / "first", form, *CODINGS[coding])
    said = phid("inspect", tmp_path / "first")
    assert {"safetensors": "safetensors", "mlx": "" if coding == "fp16" else "MLX", "gptq": "GPTQ",
            "compressed-tensors": "compressed-tensors"}[form] in said
    before = values(tmp_path / "first", tmp_path / "first.gguf")
    then = convert(tmp_path / "first", tmp_path / "second", form)
    assert then["requantized"] == 0
    assert values(tmp_path / "second", tmp_path / "second.gguf") == before
    answer = phid("generate", tmp_path / "second", *ASK)
    assert answer == phid("generate", tmp_path / "first", *ASK)
    if coding in ("int8", "fp16", "fp32"):
        assert answer == phid("generate", SAMPLE, *ASK)


@pytest.mark.parametrize("form", ["safetensors", "mlx"])
@pytest.mark.parametrize("kind", ["default", "longrope"])
def test_rotary_settings_where_everybody_looks(form, kind, tmp_path):
    """transformers 5 has them in rope_parameters alone, which mlx-lm passes over."""
    source = shutil.copytree(SAMPLE, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    for name in ("rope_theta", "rope_scaling", "partial_rotary_factor",
                 "original_max_position_embeddings"):
        del config[name]
    settings = {"rope_type": kind, "rope_theta": 3000.0, "partial_rotary_factor": 0.75}
    if kind == "longrope":
        settings |= {"short_factor": [1.0 + i / 24 for i in range(24)], "long_factor": [2.0] * 24,
                     "original_max_position_embeddings": 512}
    (source / "config.json").write_text(json.dumps({**config, "rope_parameters": settings}))
    answer = phid("generate", source, *ASK)
    assert answer != phid("generate", SAMPLE, *ASK)
    convert(source, tmp_path / "out", form)
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written.pop("rope_parameters") == settings
    assert (written["rope_theta"], written["partial_rotary_factor"]) == (3000.0, 0.75)
    (tmp_path / "out/config.json").write_text(json.dumps(written))
    assert phid("generate", tmp_path / "out", *ASK) == answer


@pytest.mark.parametrize("form", ["safetensors", "openvino", "gguf"])
def test_the_trained_context_is_the_graphs(form, tmp_path):
    """optimum-intel's from_pretrained(export=True) leaves LongRoPE's original context in config.json for
    the trained one, from which the attention factor follows: what phid writes says the right one."""
    source = shutil.copytree(SAMPLE, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config |= {"original_max_position_embeddings": 256,
               "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}}
    (source / "config.json").write_text(json.dumps(config))
    answer = phid("generate", source, *ASK)
    folder = tmp_path / "openvino"
    convert(source, folder, "openvino")
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    out = tmp_path / ("out.gguf" if form == "gguf" else "out")
    convert(folder, out, form)
    assert phid("generate", out, *ASK) == answer
    if form != "gguf":
        assert json.loads((out / "config.json").read_text())["max_position_embeddings"] == 1024


@pytest.mark.parametrize("source", ["onnx", "openvino"])
@pytest.mark.parametrize("form, coding", [("mlx", "int4"), ("gptq", "int4"), ("compressed-tensors", "int4"),
                                          ("compressed-tensors", "int4-offset")])
def test_codes_go_over(form, coding, source, tmp_path):
    convert(SAMPLE, tmp_path / "source", source, *CODINGS[coding])
    then = convert(tmp_path / "source", tmp_path / "then", form)
    assert (then["matrices"], then["requantized"]) == (18, 0)
    assert values(tmp_path / "then", tmp_path / "then.gguf") == \
        values(tmp_path / "source", tmp_path / "source.gguf")
    back = convert(tmp_path / "then", tmp_path / "back", source)
    assert back["requantized"] == 0
    assert values(tmp_path / "back", tmp_path / "back.gguf") == \
        values(tmp_path / "source", tmp_path / "source.gguf")


@pytest.mark.parametrize("precision, bits", [("int4", 4), ("int8", 8)])
def test_one_scale_a_row(precision, bits, tmp_path):
    """Whatever the width of the matrix: config.json says so as the loaders know it."""
    for form in ("gptq", "compressed-tensors"):
        convert(SAMPLE, tmp_path / form, form, "--precision", precision, "--group-size", "-1")
    section = quantization(tmp_path / "gptq")
    assert (section["bits"], section["group_size"]) == (bits, -1)
    weights = quantization(tmp_path / "compressed-tensors")["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["strategy"], weights["group_size"]) == (bits, "channel", None)
    before = values(tmp_path / "gptq", tmp_path / "gptq.gguf")
    again = convert(tmp_path / "gptq", tmp_path / "again", "gptq")
    assert again["exact"] == 18 and quantization(tmp_path / "again")["group_size"] == -1
    then = convert(tmp_path / "gptq", tmp_path / "openvino", "openvino")
    assert then["exact"] == 18
    assert values(tmp_path / "openvino", tmp_path / "openvino.gguf") == before


def quantization(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def test_zero_points_and_small_groups_help_int8(tmp_path):
    errors = [convert(SAMPLE, tmp_path / str(i), "openvino", "--precision", "int8", *options)["weight_rmse"]
              for i, options in enumerate([["--group-size", "-1"], ["--group-size", "128"],
                                           ["--group-size", "128", "--asymmetric"], ["--group-size", "16"]])]
    assert errors == sorted(errors, reverse=True) and errors[0] < 0.01


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("options", [[], ["--asymmetric"]], ids=["symmetric", "offsets"])
@pytest.mark.parametrize("form", ["onnx", "openvino", "mlx", "gptq", "compressed-tensors"])
def test_large_groups_come_out_of_a_gguf(form, options, tmp_path):
    """It has blocks of 32, which repeat a group's scale: elsewhere the group has one."""
    for group in (32, 128):
        phid("quantize", SAMPLE, "--precision", "int4", "--group-size", group, "--no-quality",
             *options, "--out", tmp_path / f"{group}.gguf")
        then = convert(tmp_path / f"{group}.gguf", tmp_path / str(group), form)
        if not options or form == "mlx":
            assert then["requantized"] == 0
            before = values(tmp_path / f"{group}.gguf", tmp_path / f"{group}-in.gguf")
            after = values(tmp_path / str(group), tmp_path / f"{group}-out.gguf")
            # As numbers: a scale below zero makes a zero of the other sign.
            assert array.array("f", after) == array.array("f", before)
    assert bytes_of(tmp_path / "32") > bytes_of(tmp_path / "128")
    if form == "mlx":
        section = json.loads((tmp_path / "128" / "config.json").read_text())["quantization"]
        assert section["group_size"] == 128


@pytest.mark.parametrize("form", FORMATS)
def test_answers(form, tmp_path):
    for coding in ("fp32", "int8"):
        convert(SAMPLE, tmp_path / coding, form, *CODINGS[coding])
        assert phid("generate", tmp_path / coding, *ASK) == phid("generate", SAMPLE, *ASK)


@pytest.mark.parametrize("coding", ["int4", "int4-offset", "int4-128", "int8", "fp16"])
def test_for_cuda(coding, tmp_path):
    """fp16 throughout; codes go over to the folder for the CPU and back as they are."""
    first = convert(SAMPLE, tmp_path / "cuda", "onnx", "--provider", "cuda", *CODINGS[coding])
    assert first["exact"] == (18 if coding == "fp16" else 0)
    before = values(tmp_path / "cuda", tmp_path / "cuda.gguf")
    then = convert(tmp_path / "cuda", tmp_path / "cpu", "onnx", "--provider", "cpu")
    assert (then["exact"], then["requantized"]) == (18, 0)
    assert values(tmp_path / "cpu", tmp_path / "cpu.gguf") == before
    back = convert(tmp_path / "cpu", tmp_path / "back", "onnx", "--provider", "cuda")
    assert (back["exact"], back["requantized"]) == (18, 0)
    assert values(tmp_path / "back", tmp_path / "back.gguf") == before


def test_larger_groups_are_split_for_cuda(tmp_path):
    """Its kernel for one token has none of 256."""
    convert(SAMPLE, tmp_path / "gptq", "gptq", "--precision", "int4", "--group-size", "256")
    then = convert(tmp_path / "gptq", tmp_path / "cuda", "onnx", "--provider", "cuda")
    assert then["exact"] == 18
    assert b"block_size\xa0\x01\x02\x18\x80\x01" in (tmp_path / "cuda" / "model.onnx").read_bytes()
    assert values(tmp_path / "cuda", tmp_path / "cuda.gguf") == \
        values(tmp_path / "gptq", tmp_path / "gptq.gguf")


def test_more_bits_cost_less(tmp_path):
    errors = [convert(SAMPLE, tmp_path / coding, "onnx", *CODINGS[coding])["weight_rmse"]
              for coding in ("int4-128", "int4", "int8", "fp32")]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


@pytest.mark.parametrize("arguments, says", [
    ([SAMPLE, "out"], "--format is missing"),
    ([SAMPLE, "--format", "onnx"], "name a source and a result"),
    ([SAMPLE, "out", "--format", "tflite"], "it must be onnx, qnn, openvino, safetensors"),
    ([SAMPLE, "out", "--format", "onnx", "--precision", "int5"], "it must be int4, int8, fp16 or fp32"),
    ([SAMPLE, "out", "--format", "onnx", "--precision", "int4", "--group-size", "48"],
     "must be 16, 32, 64, 128 or 256"),
    ([SAMPLE, "out", "--format", "onnx", "--precision", "int8", "--group-size", "-1"],
     "the group size is -1, the row; for onnx it must be 16"),
    ([SAMPLE, "out", "--format", "mlx", "--precision", "int8", "--group-size", "256"], "32, 64 or 128"),
    ([SAMPLE, "out", "--format", "onnx", "--precision", "fp16", "--asymmetric"], "int4 and int8 only"),
    ([SAMPLE, "out", "--format", "onnx", "--group-size", "64"], "int4 and int8 only"),
    ([SAMPLE, "out", "--format", "gguf", "--precision", "int8", "--asymmetric"], "int4 only"),
    ([SAMPLE, "out", "--format", "gguf", "--precision", "int4", "--group-size", "-1"], "32, 64 or 128"),
    ([SAMPLE, "out", "--format", "qnn", "--precision", "int8", "--group-size", "64"], "one scale a row"),
    ([SAMPLE, "out", "--format", "onnx", "--type", "q4_k_m"], "--type applies to --format gguf"),
    ([SAMPLE, "out", "--format", "gguf", "--type", "q4_k_m", "--precision", "int4"], "--type applies to"),
    ([SAMPLE, "out", "--format", "gguf", "--type", "q4_9"], "it must be"),
    ([SAMPLE, "out", "--format", "gguf", "--precision", "int4", "--group-size", "256"], "32, 64 or 128"),
    ([SAMPLE, "out", "--format", "onnx", "--provider", "tpu"], "it must be cpu or cuda"),
    ([SAMPLE, "out", "--format", "mlx", "--provider", "cuda"], "onnx only"),
    ([SAMPLE, "out", "--format", "gguf", "--provider", "cpu"], "onnx only"),
    ([SAMPLE, "out", "--format", "onnx", "--provider", "cuda", "--precision", "fp32"],
     "must be int4, int8 or fp16"),
    ([SAMPLE, "out", "--format", "onnx", "--provider", "cuda", "--precision", "int4", "--group-size",
      "256"], "on CUDA it must be 16, 32, 64 or 128"),
    (["/nowhere", "out", "--format", "onnx"], "nowhere"),
    ([SAMPLE, "out", "--format", "qnn", "--precision", "int4"], "qnn holds int8"),
    ([SAMPLE, "out", "--format", "qnn", "--context-length", "100"], "must be a multiple of 64"),
    ([SAMPLE, "out", "--format", "qnn", "--context-length", "2048"], "the model's own of 1024"),
    ([SAMPLE, "out", "--format", "onnx", "--context-length", "128"], "qnn only"),
    ([PHI2.with_name("phi2-grouped"), "out", "--format", "onnx"],
     "8 rotary dimensions: onnxruntime's GroupQueryAttention takes a multiple of 16"),
    ([PHI2, "out", "--format", "qnn"], "qnn is written for phi3 models only, and this is phi2"),
])
def test_refusals(arguments, says, tmp_path):
    arguments = [tmp_path / "out" if argument == "out" else argument for argument in arguments]
    assert says in phid("convert", *arguments, fails=True)
    assert not (tmp_path / "out").exists()


def test_qnn_from_anywhere(tmp_path):
    """Codes by row, whatever there was before; from the same weights the same folder. A folder of
    several graphs is not read."""
    made = convert(SAMPLE, tmp_path / "hf", "qnn", "--precision", "int8")
    assert (made["matrices"], made["exact"], made["requantized"]) == (18, 0, 18)
    assert 0 < made["weight_rmse"] < 0.02
    phid("quantize", SAMPLE, "--precision", "fp16", "--no-quality", "--out", tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "gguf", "qnn")
    for name in ("model.onnx.data", "context.onnx", "iterator.onnx", "genai_config.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (tmp_path / "gguf" / name).read_bytes(), name
    assert "pipeline" in phid("inspect", tmp_path / "hf", fails=True)


def test_qnn_of_a_long_context(tmp_path):
    """Its rotary tables have a row for each token, and the caches are as long; a token more is refused."""
    shutil.copytree(SAMPLE, tmp_path / "long")
    config = json.loads((SAMPLE / "config.json").read_text())
    config["max_position_embeddings"] = 131072
    (tmp_path / "long" / "config.json").write_text(json.dumps(config))
    convert(tmp_path / "long", tmp_path / "out", "qnn", "--context-length", "131072")
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    assert (tmp_path / "out" / "embeddings.onnx").stat().st_size > 2 * 131072 * half * 4
    made = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert made["model"]["context_length"] == 131072
    assert "at most the model's own of 131072" in phid("convert", tmp_path / "long", tmp_path / "more", "--format",
                                                       "qnn", "--context-length", str(131072 + 64), fails=True)


def test_qnn_without_a_tokenizer(tmp_path):
    says = phid("convert", ROOT / "tests" / "golden" / "tied", tmp_path / "out", "--format", "qnn",
                fails=True)
    assert "ranges are measured on a text" in says
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module", name="ggufs")
def make_ggufs(tmp_path_factory):
    """The sample model as GGUFs: as phid writes them, and without the tokenizer.json in them."""
    folder = tmp_path_factory.mktemp("ggufs")
    for name, options in GGUFS.items():
        whole = folder / f"{name}.gguf"
        phid("quantize", SAMPLE, *options, "--no-quality", "--out", whole)
        without(whole, folder / f"{name}-arrays.gguf", "tokenizer.huggingface.json")
    return folder


@pytest.mark.parametrize("kind", ["", "-arrays"])
@pytest.mark.parametrize("form", FORMATS + ["safetensors", "mlx", "gptq", "compressed-tensors"])
def test_gguf_becomes_a_folder(form, kind, ggufs, tmp_path):
    source = ggufs / f"int8{kind}.gguf"
    said = convert(source, tmp_path / "out", form)
    assert (said["matrices"], said["requantized"]) == (18, 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    files = {entry.name for entry in (tmp_path / "out").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} <= files
    assert form == "onnx" or "generation_config.json" in files
    same = (tmp_path / "out/tokenizer.json").read_bytes() == (SAMPLE / "tokenizer.json").read_bytes()
    assert same == (kind == "")
    assert values(tmp_path / "out", tmp_path / "out.gguf") == values(source, tmp_path / "in.gguf")
    chat = ["Hello", "--temperature", "0", "--max-tokens", "24"]
    for ask in (ASK, chat):
        assert phid("generate", tmp_path / "out", *ask) == phid("generate", source, *ask)


# How many of the 18 matrices of Q4_K (INT4 by 32 with offsets), Q5_K (INT8, the same) and Q6_K (INT8
# by 16) a format takes over as they are, and how many it codes anew. OpenVINO has zero points of fp32 for
# the offsets. Of the last two formats the embedding and the head are floats.
@pytest.mark.parametrize("form, exact, anew", [
    ("openvino", 18, 0), ("onnx", 3, 15), ("mlx", 15, 3), ("safetensors", 18, 0), ("gptq", 2, 16),
    ("compressed-tensors", 2, 16)])
def test_mixed_types_of_gguf(form, exact, anew, ggufs, tmp_path):
    said = convert(ggufs / "q4_k_m.gguf", tmp_path / "out", form)
    assert (said["exact"], said["requantized"]) == (exact, anew)
    assert said["weight_rmse"] < 0.1
    assert phid("generate", tmp_path / "out", *ASK).startswith(" is in the ")
    if anew == 0:
        assert same_values(tmp_path / "out", ggufs / "q4_k_m.gguf", tmp_path)


@pytest.mark.parametrize("options", [CODINGS["int4-offset"], ["--type", "q5_1"], ["--type", "q5_k_m"]],
                         ids=lambda options: options[1])
def test_offsets_through_openvino(options, tmp_path):
    """Zero points of fp32 give back every offset: the values are the source's own, and what is written
    again is the same file."""
    source, there, again = (tmp_path / name for name in ("a.gguf", "there", "again"))
    convert(SAMPLE, source, "gguf", *options)
    assert convert(source, there, "openvino")["exact"] == 18
    assert same_values(there, source, tmp_path)
    assert convert(there, again, "openvino")["exact"] == 18
    assert (again / "openvino_model.bin").read_bytes() == (there / "openvino_model.bin").read_bytes()
    if "--type" not in options:
        assert convert(there, tmp_path / "back.gguf", "gguf")["exact"] == 18
        assert same_values(tmp_path / "back.gguf", source, tmp_path)


def test_groups_that_are_all_offset(tmp_path):
    """A scale of 0, which llama.cpp's quantizer makes of a group that is one value throughout: no zero
    point gives its offset. Codes beside it say nothing."""
    source = tmp_path / "a.gguf"
    convert(SAMPLE, source, "gguf", "--type", "q4_1")
    file = Gguf(source)
    data = bytearray(file.data)
    start = file.offsets["blk.1.ffn_down.weight"]
    for block in range(0, 60, 3):  # of 20 bytes: scale, offset, 32 codes
        data[start + block * 20:start + block * 20 + 4] = struct.pack("<ee", 0.0, 0.01 * (block - 20))
    file.data = bytes(data)
    file.write(source)
    assert convert(source, tmp_path / "out", "openvino")["exact"] == 18
    assert same_values(tmp_path / "out", source, tmp_path)


def test_gguf_config_is_whole(ggufs, tmp_path):
    convert(ggufs / "int8-arrays.gguf", tmp_path / "out", "safetensors")
    made = json.loads((tmp_path / "out/config.json").read_text())
    first = json.loads((SAMPLE / "config.json").read_text())
    for key in ("architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "intermediate_size", "vocab_size", "max_position_embeddings",
                "tie_word_embeddings", "sliding_window", "rope_theta"):
        assert made[key] == first[key], key
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    theirs = json.loads((SAMPLE / "tokenizer_config.json").read_text())
    for key in ("chat_template", "bos_token", "eos_token", "pad_token", "add_bos_token", "tokenizer_class"):
        assert config.get(key) == theirs.get(key), key


def test_output_that_is_there(tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    assert "is not empty (it has 'mine.txt')" in phid("convert", SAMPLE, full, "--format", "onnx", fails=True)
    assert "is not empty" in phid("convert", SAMPLE, SAMPLE, "--format", "onnx", fails=True)
    assert "is a file" in phid("convert", SAMPLE, full / "mine.txt", "--format", "onnx", fails=True)
    assert [entry.name for entry in full.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    convert(SAMPLE, tmp_path / "empty", "onnx")
    assert (tmp_path / "empty/model.onnx").exists()
    assert not list(tmp_path.glob("**/*.tmp-*")) and not list(tmp_path.glob("**/.tmp-*"))


def test_nothing_is_left_of_a_failure(tmp_path):
    """A tokenizer that OpenVINO's operations cannot express is found while the folder is made."""
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json"):
        shutil.copy(SAMPLE / name, tmp_path / name)
    tokenizer = json.loads((SAMPLE / "tokenizer.json").read_text())
    tokenizer["added_tokens"][1]["single_word"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "single word" in phid("convert", tmp_path, tmp_path / "sub/out", "--format", "openvino", fails=True)
    assert not list((tmp_path / "sub").iterdir())


# How many of the sample model's 18 matrices a GGUF takes over as they are, how many with scales (or
# offsets, which zero points become) that fp16 rounds, and how many it codes anew: MLX's embedding and
# head have 8 bits with offsets, which no type of GGUF has.
TO_GGUF = [
    ("mlx", "int4", (16, 0, 2), "Q4_1"), ("mlx", "int4-128", (16, 0, 2), "Q4_1"), ("mlx", "fp16", (18, 0, 0), "F16"),
    ("onnx", "int4", (16, 2, 0), "Q4_0"), ("onnx", "int8", (0, 18, 0), "Q8_0"),
    ("openvino", "int4", (18, 0, 0), "Q4_0"), ("openvino", "int8", (18, 0, 0), "Q8_0"),
    ("openvino", "int4-offset", (2, 16, 0), "Q4_1"),
    ("gptq", "int4", (18, 0, 0), "Q4_0"), ("gptq", "int4-128", (18, 0, 0), "Q4_0"), ("gptq", "int8", (18, 0, 0), "Q8_0"),
    ("gptq", "int4-offset", (2, 16, 0), "Q4_1"),
    ("compressed-tensors", "int4", (18, 0, 0), "Q4_0"), ("compressed-tensors", "int4-offset", (2, 16, 0), "Q4_1"),
    ("safetensors", "fp32", (18, 0, 0), "F32"),
]


def same_values(left, right, tmp_path):
    """As numbers: the zero of a negative scale equals the other zero."""
    both = [array.array("f", values(path, tmp_path / "as-floats")) for path in (left, right)]
    return both[0] == both[1]


@pytest.mark.parametrize("form, coding, counts, kind", TO_GGUF)
def test_codes_become_gguf(form, coding, counts, kind, tmp_path):
    """Code for code: the GGUF's values are the folder's, and it answers as the folder does."""
    first, made = tmp_path / "first", tmp_path / "a.gguf"
    convert(SAMPLE, first, form, *CODINGS[coding])
    said = convert(first, made, "gguf")
    assert (said["exact"], said["rescaled"], said["requantized"]) == counts
    types = {tensor["name"]: tensor["type"] for tensor in inspected(made)}
    assert types["blk.1.ffn_down.weight"] == kind
    assert same_values(made, first, tmp_path) == (counts[0] == 18)
    assert said["weight_rmse"] < (0.007 if counts[2] else 5e-4)
    assert phid("generate", made, *ASK) == phid("generate", first, *ASK)
    back = convert(made, tmp_path / "back", form)
    if kind == "Q4_1" and form not in ("mlx", "openvino"):
        assert back["requantized"] == 16  # rounded offsets are no whole number of scales
    else:
        assert back["requantized"] == 0
        assert same_values(tmp_path / "back", made, tmp_path)


def test_gguf_is_what_quantize_writes(ggufs, tmp_path):
    """One writer: the same options give the same bytes, and a GGUF without any is copied."""
    for name, options in GGUFS.items():
        convert(SAMPLE, tmp_path / f"{name}.gguf", "gguf", *options)
        assert (tmp_path / f"{name}.gguf").read_bytes() == (ggufs / f"{name}.gguf").read_bytes()
        said = convert(ggufs / f"{name}.gguf", tmp_path / f"{name}-again.gguf", "gguf")
        assert said["exact"] == 18
        assert inspected(tmp_path / f"{name}-again.gguf") == inspected(ggufs / f"{name}.gguf")
        assert values(tmp_path / f"{name}-again.gguf", tmp_path / "b") == values(ggufs / f"{name}.gguf", tmp_path / "c")


def test_what_gguf_cannot_hold_is_coded_anew(tmp_path):
    """Groups of 16 are no GGUF type's but the K-quants'."""
    convert(SAMPLE, tmp_path / "first", "onnx", "--precision", "int4", "--group-size", "16")
    said = convert(tmp_path / "first", tmp_path / "a.gguf", "gguf")
    assert (said["requantized"], said["rescaled"]) == (16, 2)
    assert 0.01 < said["weight_rmse"] < 0.1


def test_gguf_that_is_there(ggufs, tmp_path):
    shutil.copy(ggufs / "int4.gguf", tmp_path / "a.gguf")
    before = (tmp_path / "a.gguf").read_bytes()
    assert "is there already" in phid("convert", SAMPLE, tmp_path / "a.gguf", "--format", "gguf", fails=True)
    said = phid("quantize", tmp_path / "a.gguf", "--precision", "int8", "--out", tmp_path / "a.gguf", fails=True)
    assert "is the source" in said
    assert (tmp_path / "a.gguf").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.gguf"]
