"""Trains the sample model from nothing.

    python3 train.py --out ../phi-sample --minutes 60

The learning rate follows the clock, not the step number: it warms up, holds, and
reaches its end when the minutes are used up, so a slower machine still ends with a
finished model (that has read less text).
"""

import argparse
import math
import os
import random
import time

import torch
import torch.nn.functional as F

import evaluate
import export
import generator
from model import CONFIG, Phi3, QuantLinear
from tokenizer import SPECIAL_TOKENS, VOCAB_SIZE, Tokenizer, train_merges

TOKENIZER_DOCUMENTS = 6000
WARMUP_STEPS = 100
# From this part of the time on, every second step trains with INT4 weights.
ROUNDING_FROM = 0.6
# Tokens in a row. Now and then the rows fill the whole context, so that every position
# is learned; they cost several times as much.
ROW = 192
LONG_ROW = 1024
LONG_EVERY = 20


def make_tokenizer(seed):
    rng = random.Random(seed)
    texts = []
    for _ in range(TOKENIZER_DOCUMENTS):
        text = generator.document_text(generator.draw_document(rng))
        for name, _ in SPECIAL_TOKENS:
            text = text.replace(name + "\n", " ").replace(name, " ")
        texts.append(text)
    return Tokenizer(train_merges(texts, VOCAB_SIZE - 256 - len(SPECIAL_TOKENS)))


class Batches:
    """Packs documents into rows; a row starts at the start of a document."""

    def __init__(self, tokenizer, seed, stage):
        self.rng = random.Random(seed)
        self.stage = stage
        self.tokenizer = tokenizer

    def document(self):
        """Ids and weights; the parts are tokenized apart, as tags end each of them."""
        ids, weights = [], []
        for text, weight in generator.draw_document(self.rng, self.stage):
            part = self.tokenizer.encode(text)
            ids += part
            weights += [weight] * len(part)
        return ids, weights

    def row(self, length):
        ids, weights = [], []
        while len(ids) < length + 1:
            more_ids, more_weights = self.document()
            ids += more_ids
            weights += more_weights
        return ids[:length + 1], weights[:length + 1]

    def draw(self, rows, length):
        made = [self.row(length) for _ in range(rows)]
        ids = torch.tensor([ids for ids, _ in made])
        weights = torch.tensor([weights for _, weights in made])
        return ids[:, :-1], ids[:, 1:], weights[:, 1:]


def learning_rate(args, step, used):
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return args.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, used))))


def make_optimizer(model, args):
    """Only the layers' matrices decay."""
    matrices = [p for name, p in model.named_parameters() if "_proj" in name]
    others = [p for name, p in model.named_parameters() if "_proj" not in name]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": args.decay},
                              {"params": others, "weight_decay": 0.0}],
                             lr=args.rate, betas=(0.9, 0.98), eps=1e-9)


@torch.no_grad()
def spread_words(model, size):
    """Adds the same random vector to a word's row in the embedding and in the head.

    Words that the text so far used in the same places (the colours, above all) have
    nearly the same rows, and what looks the same cannot be looked up and said again.
    """
    noise = torch.randn_like(model.lm_head.weight) * size
    model.lm_head.weight += noise
    model.model.embed_tokens.weight += noise


def train(args, tokenizer):
    asked, text = evaluate.load_held_out(args.held_out)
    torch.manual_seed(args.seed)
    model = Phi3(CONFIG)
    if args.start_from:
        model.load_state_dict(export.read_safetensors(
            os.path.join(args.start_from, "model.safetensors")))
    if args.spread:
        spread_words(model, args.spread)
    optimizer = make_optimizer(model, args)
    batches = Batches(tokenizer, args.seed + args.stage, args.stage)
    start = time.time()
    budget = args.minutes * 60
    next_report = args.report_every
    step = tokens = 0
    mean = None
    while time.time() - start < budget:
        used = (time.time() - start) / budget
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, step, used)
        rows, length = (2, LONG_ROW) if step % LONG_EVERY == 0 else (args.tokens // ROW, ROW)
        ids, targets, weights = batches.draw(rows, length)
        QuantLinear.rounding = used > ROUNDING_FROM and step % 2 == 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids).float()
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1),
                               reduction="none")
        loss = (loss * weights.reshape(-1)).sum() / weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        QuantLinear.rounding = False
        step += 1
        tokens += ids.numel()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        seconds = time.time() - start
        if step % 50 == 0:
            print("step {} {:.0f} s loss {:.4f} rate {:.5f} {:.0f} tokens/s".format(
                step, seconds, mean, optimizer.param_groups[0]["lr"], tokens / seconds),
                flush=True)
        if seconds > next_report:
            next_report = time.time() - start + args.report_every
            evaluate.report(model, tokenizer, asked[:120], text, "step {}".format(step))
            export.write_safetensors(os.path.join(args.out, "model.safetensors"),
                                     model.state_dict())
    print("trained {} steps, {} tokens, {:.0f} s".format(step, tokens, time.time() - start))
    export.write_safetensors(os.path.join(args.out, "model.safetensors"), model.state_dict())
    evaluate.report_saved(args.out, tokenizer, asked, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="../phi-sample")
    parser.add_argument("--held-out", default="../phi-sample",
                        help="folder with the held-out questions and stories")
    parser.add_argument("--start-from", metavar="DIR",
                        help="go on from the weights and the tokenizer of this folder")
    parser.add_argument("--stage", type=int, choices=[1, 2], default=1,
                        help="which mix of documents to read")
    parser.add_argument("--spread", type=float, default=0.0,
                        help="how far words' rows are moved apart at the start")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--report-every", type=float, default=240, help="seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--tokens", type=int, default=3072, help="tokens per step")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    start = time.time()
    if args.start_from:
        tokenizer = Tokenizer.load(os.path.join(args.start_from, "tokenizer.json"))
    else:
        tokenizer = make_tokenizer(args.seed)
    print("tokenizer: {} merges, {:.0f} s".format(len(tokenizer.merges), time.time() - start),
          flush=True)
    export.write_text_files(args.out, CONFIG, tokenizer)
    train(args, tokenizer)


if __name__ == "__main__":
    main()
