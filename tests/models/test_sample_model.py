"""The sample model's generator, tokenizer and files. Needs the standard library only."""

import json
import math
import os
import random
import struct
import sys

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
MODEL = os.path.join(ROOT, "models", "phi-sample")
sys.path.insert(0, os.path.join(ROOT, "models", "train"))
sys.path.insert(0, os.path.join(ROOT, "models"))

import generator  # noqa: E402
import measure  # noqa: E402
import questions  # noqa: E402
import stories  # noqa: E402
import words  # noqa: E402
from split import is_held_out  # noqa: E402
from tokenizer import SPECIAL_TOKENS, Tokenizer, pre_tokenize, train_merges  # noqa: E402

FOLDER_BYTES_MAX = 8_000_000


def read(name):
    with open(os.path.join(MODEL, name), encoding="utf-8") as source:
        return source.read()


def load(name):
    return json.loads(read(name))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(os.path.join(MODEL, "tokenizer.json"))


@pytest.fixture(scope="module")
def training_documents():
    rng = random.Random(2)
    return [generator.draw_document(rng, 1 + number % 2) for number in range(4000)]


def test_generator_is_deterministic():
    def draw(seed):
        rng = random.Random(seed)
        return [generator.draw_document(rng) for _ in range(50)]
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_generator_documents_are_chats_or_stories(training_documents):
    for document in training_documents[:500]:
        text = generator.document_text(document)
        assert text.endswith("<|endoftext|>")
        if text.startswith("<|"):
            assert text.startswith(("<|system|>\n", "<|user|>\n"))
            assert text.endswith("<|end|>\n<|endoftext|>")
            assert text.count("<|user|>\n") == text.count("<|assistant|>\n") >= 1
        else:
            assert text.count("\n") == 1 and text.endswith("\n<|endoftext|>")


def test_story_words_all_filled_in():
    rng = random.Random(3)
    for _ in range(300):
        story = stories.draw_story(rng, False)
        assert "{" not in story and "  " not in story


def test_held_out_files_are_what_the_generator_writes():
    assert read("heldout_questions.jsonl") == generator.held_out_question_lines()
    assert read("heldout.txt") == generator.held_out_story_text()


def test_held_out_questions_count_and_fields():
    asked = [json.loads(line) for line in read("heldout_questions.jsonl").splitlines()]
    assert len(asked) == 500 == len({q["question"] for q in asked})
    for question in asked:
        assert set(question) == {"question", "answer", "category"}


def test_held_out_questions_not_in_training():
    held = set()
    rng = random.Random(generator.HELD_OUT_SEED)
    for question in questions.held_out_questions(rng):
        percent = questions.HELD_OUT_PERCENT[question.category]
        assert is_held_out(question.key, percent)
        held.add(question.key)
    rng = random.Random(4)
    for _ in range(20000):
        for question in questions.draw_training_questions(rng, rng.choice([1, 2])):
            assert question.key not in held


def test_held_out_texts_not_in_training(training_documents):
    asked = {json.loads(line)["question"] for line in read("heldout_questions.jsonl").splitlines()}
    lines = set(read("heldout.txt").splitlines())
    for document in training_documents:
        text = generator.document_text(document)
        for turn in text.split("<|user|>\n")[1:]:
            said, rest = turn.split("<|end|>\n<|assistant|>\n", 1)
            assert said not in asked
            assert rest.split("<|end|>")[0] not in lines
        assert text.split("\n")[0] not in lines


def test_sums_hold_both_orders_out_together():
    rng = random.Random(5)
    for _ in range(3000):
        made = questions.make_sum(rng)
        a, b = (int(w) for w in made.sentence.split(" is ")[0].split(" plus "))
        assert made.key == "sum {} {}".format(min(a, b), max(a, b))
        assert made.answer == str(a + b) and a + b <= questions.NUMBER_MAX


@pytest.mark.parametrize("category", sorted(questions.MAKERS))
def test_answers_pass_the_scoring_rule(category):
    rng = random.Random(6)
    for _ in range(500):
        made = questions.MAKERS[category](rng)
        assert questions.is_right(made.sentence, made.answer)
        assert not questions.is_right("It is something else.", made.answer)


def test_scoring_rule():
    assert questions.is_right(" 17 plus 25 is 42. And more.", "42")
    assert not questions.is_right("42 is 17 plus 25.", "42")
    assert not questions.is_right("17 plus 25 is 142.", "42")
    assert questions.is_right("The day after Monday is Tuesday", "tuesday")
    assert not questions.is_right("", "42")


def test_questions_about_the_same_facts_tell_them_once():
    rng = random.Random(7)
    for _ in range(300):
        first, *others = questions.make_facts(rng, questions.FACT_TURNS_MAX)
        assert first.question.count("?") == 1 and first.question.count(".") >= 1
        assert all("." not in other.question for other in others)
        assert len({q.question for q in others}) == len(others)


def test_opposites_are_unambiguous():
    flat = [word for pair in words.OPPOSITES for word in pair]
    assert len(flat) == len(set(flat))


@pytest.mark.parametrize("text, pieces", [
    ("Tom's ball  is", ["Tom", "'s", " ball", " ", " is"]),
    ("What is 17 plus 25?", ["What", " is", " 17", " plus", " 25", "?"]),
    ("a\n\nb \n", ["a", "\n", "\n", "b", " \n"]),
    (" \u00fcber 3\u00bd!?", [" \u00fcber", " 3\u00bd", "!?"]),
    ("  x", [" ", " x"]), (" ", [" "]), ("", []),
])
def test_pre_tokenizer(text, pieces):
    assert pre_tokenize(text) == pieces


def test_tokenizer_file_is_what_the_tokenizer_writes(tokenizer):
    assert load("tokenizer.json") == tokenizer.tokenizer_json()


def test_merges_learned_again_are_the_same():
    texts = ["the cat and the hat", "the cat sat"] * 3
    assert train_merges(texts, 20) == train_merges(list(reversed(texts)), 20)
    assert not any("1" in a + b for a, b in train_merges(["17 plus 17"] * 9, 20))


def test_tokenizer_round_trip(tokenizer, training_documents):
    for text in [read("heldout.txt"), "na\u00efve \u2713 \U0001f98a\n\t 12,5", "Tom's 99 plums"]:
        assert tokenizer.decode(tokenizer.encode(text, parse_special=False)) == text
    for document in training_documents[:300]:
        text = generator.document_text(document)
        swallowed = text
        for name, rstrip in SPECIAL_TOKENS:
            if rstrip:
                swallowed = swallowed.replace(name + "\n", name)
        assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == swallowed


def test_tokenizer_parts_equal_the_whole(tokenizer, training_documents):
    """Training tokenizes a document part by part; that must not change the ids."""
    for document in training_documents[:300]:
        parts = [i for text, _ in document for i in tokenizer.encode(text)]
        assert parts == tokenizer.encode(generator.document_text(document))


def test_tokenizer_digits_stay_single(tokenizer):
    ids = tokenizer.encode("17 plus 25")
    assert [tokenizer.pieces[i] for i in ids][:2] == ["1", "7"]
    assert not any(c.isdigit() for a, b in tokenizer.merges for c in a + b if len(a + b) > 1)


def test_special_tokens(tokenizer):
    added = load("tokenizer.json")["added_tokens"]
    config = load("tokenizer_config.json")
    assert [t["content"] for t in added] == [name for name, _ in SPECIAL_TOKENS]
    for token in added:
        number = str(token.pop("id"))
        assert config["added_tokens_decoder"][number] == token
    assert tokenizer.encode("<|user|>\n\n hi", True)[1:] == tokenizer.encode("hi")
    stops = load("generation_config.json")["eos_token_id"]
    assert tokenizer.special["<|end|>"] in stops and tokenizer.special["<|endoftext|>"] in stops
    assert max(tokenizer.special.values()) < load("config.json")["vocab_size"]


def expected_shapes(config):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = hidden // heads
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden],
              "lm_head.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        shapes.update({"model.layers.{}.{}.weight".format(layer, name): shape for name, shape in {
            "input_layernorm": [hidden], "post_attention_layernorm": [hidden],
            "self_attn.qkv_proj": [(heads + 2 * kv_heads) * size, hidden],
            "self_attn.o_proj": [hidden, heads * size],
            "mlp.gate_up_proj": [2 * inner, hidden], "mlp.down_proj": [hidden, inner],
        }.items()})
    return shapes


def test_weights_match_the_config():
    config = load("config.json")
    assert config["architectures"] == ["Phi3ForCausalLM"] and config["model_type"] == "phi3"
    assert not config["tie_word_embeddings"]
    path = os.path.join(MODEL, "model.safetensors")
    with open(path, "rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        header = json.loads(source.read(length))
    header.pop("__metadata__")
    assert {name: entry["shape"] for name, entry in header.items()} == expected_shapes(config)
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        assert entry["dtype"] == "F16", name
        begin, end = entry["data_offsets"]
        assert begin == at and end - begin == 2 * math.prod(entry["shape"])
        at = end
    assert os.path.getsize(path) == 8 + length + at


def test_quantized_dimensions_suit_every_group():
    config = load("config.json")
    for name in ("hidden_size", "intermediate_size"):
        assert config[name] % 256 == 0
    assert config["hidden_size"] % config["num_attention_heads"] == 0
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0


def test_folder_is_small_enough():
    total = sum(os.path.getsize(os.path.join(MODEL, name)) for name in os.listdir(MODEL))
    assert total <= FOLDER_BYTES_MAX


def test_expected_values_fit_the_tokenizer(tokenizer):
    with open(os.path.join(ROOT, "tests", "golden", "phi-sample.json"), encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    assert len(cases) == 3
    for case in cases:
        assert tokenizer.encode(case["prompt"]) == case["ids"]
        assert len(case["greedy_ids"]) == 32 and len(case["top_ids"]) == len(case["top_logits"])
        assert case["greedy_ids"][0] == case["top_ids"][0]


def test_measure_writes_only_between_the_markers(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("before\n" + measure.BEGIN + "\nold\n" + measure.END + "\nafter\n")
    rows = [("fp32", 2.0, 490, 1.0), ("int4", 2.1, 480, 1.0)]
    measure.write_card(str(card), measure.table(rows, 500))
    text = card.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| INT4 | 2.1000 | +5.00% | 480 of 500 | 96.0% |" in text
    card.write_text("no markers")
    with pytest.raises(SystemExit):
        measure.write_card(str(card), "x")


def test_card_has_the_markers():
    card = read("README.md")
    assert card.count(measure.BEGIN) == 1 == card.count(measure.END)
