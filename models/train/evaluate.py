"""Perplexity on held-out stories and the score on held-out questions.

    python3 evaluate.py --model ../phi-sample

prints both for the saved weights, and for the same weights with the layers' matrices
rounded plainly to INT8 and INT4 in groups of 32. It shows what rounding costs at the
least careful; the card's figures are measured through the daemon.
"""

import argparse
import json
import math
import os
import time
from collections import Counter

import torch
import torch.nn.functional as F

import export
from model import CONFIG, Phi3, fake_quantize
from questions import is_right
from tokenizer import Tokenizer

ANSWER_TOKENS_MAX = 24
# The stories are scored in windows of whole lines, as models/measure.py does.
WINDOW_LINES = 4


def chat_prompt(question):
    return "<|user|>\n" + question + "<|end|>\n<|assistant|>\n"


@torch.no_grad()
def perplexity(model, tokenizer, text):
    """exp of the mean loss over windows; the first token of a window is not scored."""
    lines = text.splitlines(keepends=True)
    loss, count = 0.0, 0
    for at in range(0, len(lines), WINDOW_LINES):
        window = "".join(lines[at:at + WINDOW_LINES])
        ids = torch.tensor([tokenizer.encode(window, parse_special=False)])
        logits = model(ids)[0, :-1].float()
        loss += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    return math.exp(loss / count)


@torch.no_grad()
def greedy(model, tokenizer, prompts, tokens_max=ANSWER_TOKENS_MAX, batch=100):
    """Greedy answers; prompts are run together, filled up on the right."""
    stops = {tokenizer.special["<|end|>"], tokenizer.special["<|endoftext|>"]}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [None] * len(prompts)
    for start in range(0, len(order), batch):
        rows = [list(prompts[i]) for i in order[start:start + batch]]
        done = [False] * len(rows)
        for _ in range(tokens_max):
            live = [i for i in range(len(rows)) if not done[i]]
            if not live:
                break
            longest = max(len(rows[i]) for i in live)
            ids = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in live])
            logits = model(ids)
            for number, i in enumerate(live):
                chosen = int(logits[number, len(rows[i]) - 1].argmax())
                rows[i].append(chosen)
                done[i] = chosen in stops
        for number, i in enumerate(order[start:start + batch]):
            answers[i] = tokenizer.decode(rows[number][len(prompts[i]):])
    return answers


def score(model, tokenizer, asked):
    """(right, per category right and asked) over question dictionaries."""
    prompts = [tokenizer.encode(chat_prompt(q["question"])) for q in asked]
    right, total = Counter(), Counter()
    for question, reply in zip(asked, greedy(model, tokenizer, prompts)):
        total[question["category"]] += 1
        right[question["category"]] += is_right(reply, question["answer"])
    return sum(right.values()), {c: (right[c], total[c]) for c in sorted(total)}


def load_held_out(folder):
    with open(os.path.join(folder, "heldout_questions.jsonl"), encoding="utf-8") as source:
        asked = [json.loads(line) for line in source]
    with open(os.path.join(folder, "heldout.txt"), encoding="utf-8") as source:
        return asked, source.read()


def report(model, tokenizer, asked, text, label):
    model.eval()
    start = time.time()
    right, parts = score(model, tokenizer, asked)
    loss = perplexity(model, tokenizer, text)
    print("{}: perplexity {:.4f}, {}/{} right, {} ({:.0f} s)".format(
        label, loss, right, len(asked),
        ", ".join("{} {}/{}".format(c, *n) for c, n in parts.items()), time.time() - start),
        flush=True)
    model.train()


def report_saved(folder, tokenizer, asked, text):
    """The figures of the saved weights, also with the layers rounded to INT8 and INT4."""
    saved = export.read_safetensors(os.path.join(folder, "model.safetensors"))
    for label, bits in (("saved weights, fp32", 0), ("int8 in groups of 32", 8),
                        ("int4 in groups of 32", 4)):
        model = Phi3(CONFIG)
        model.load_state_dict({
            name: fake_quantize(w, bits, 32) if bits and "_proj" in name else w
            for name, w in saved.items()})
        report(model, tokenizer, asked, text, label)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="../phi-sample")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.load(os.path.join(args.model, "tokenizer.json"))
    asked, text = load_held_out(args.model)
    report_saved(args.model, tokenizer, asked, text)


if __name__ == "__main__":
    main()
