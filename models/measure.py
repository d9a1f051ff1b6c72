#!/usr/bin/env python3
"""Measures the sample model through a running daemon, at each precision.

    models/measure.py --url http://127.0.0.1:8080 --write-card

Asks the 500 held-out questions through /v1/chat/completions and takes the perplexity
of the held-out stories from the log probabilities that /v1/completions echoes. Prints
a table; --write-card puts it into the model card, so that the card shows measured
figures only. Needs nothing but Python's standard library.
"""

import argparse
import http.client
import json
import math
import os
import sys
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "train"))

from questions import is_right  # noqa: E402

BEGIN = "<!-- measured -->"
END = "<!-- /measured -->"
ANSWER_TOKENS_MAX = 24
# The stories are cut into windows of whole lines; a line is about 110 tokens.
WINDOW_LINES = 4
REPLY_SECONDS_MAX = 300


class Daemon:
    def __init__(self, url, api_key):
        self.url = urllib.parse.urlsplit(url)
        if self.url.scheme != "http" or not self.url.hostname:
            raise SystemExit("--url: must be http://HOST:PORT, got " + url)
        self.headers = {"Content-Type": "application/json"}
        if api_key:
            self.headers["Authorization"] = "Bearer " + api_key

    def post(self, path, body):
        link = http.client.HTTPConnection(self.url.hostname, self.url.port or 80,
                                          timeout=REPLY_SECONDS_MAX)
        try:
            link.request("POST", self.url.path.rstrip("/") + path, json.dumps(body),
                         self.headers)
            reply = link.getresponse()
            data = reply.read()
        finally:
            link.close()
        if reply.status != 200:
            raise SystemExit("POST {} for {}: {} {}".format(
                path, body.get("model"), reply.status, data.decode("utf-8", "replace")[:400]))
        return json.loads(data)


def ask(daemon, model, question):
    reply = daemon.post("/v1/chat/completions", {
        "model": model, "temperature": 0, "max_tokens": ANSWER_TOKENS_MAX,
        "messages": [{"role": "user", "content": question}]})
    return reply["choices"][0]["message"]["content"] or ""


def count_right(daemon, model, asked, threads):
    with ThreadPoolExecutor(threads) as pool:
        replies = list(pool.map(lambda q: ask(daemon, model, q["question"]), asked))
    wrong = [(q, r) for q, r in zip(asked, replies) if not is_right(r, q["answer"])]
    return len(asked) - len(wrong), wrong


def window_loss(daemon, model, text):
    """The summed negative log probability of a window, and how many tokens it has."""
    reply = daemon.post("/v1/completions", {
        "model": model, "prompt": text, "echo": True, "logprobs": 1, "max_tokens": 0,
        "temperature": 0})
    scored = reply["choices"][0]["logprobs"]["token_logprobs"][1:]
    if not scored or any(value is None for value in scored):
        raise SystemExit("/v1/completions: token_logprobs must be numbers after the first")
    return -sum(scored), len(scored)


def perplexity(daemon, model, text, threads):
    lines = text.splitlines(keepends=True)
    windows = ["".join(lines[i:i + WINDOW_LINES]) for i in range(0, len(lines), WINDOW_LINES)]
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda w: window_loss(daemon, model, w), windows))
    return math.exp(sum(loss for loss, _ in parts) / sum(count for _, count in parts))


def measure(args, asked, text):
    daemon = Daemon(args.url, args.api_key)
    rows = []
    for precision in args.precisions.split(","):
        model = args.model + ":" + precision
        start = time.time()
        loss = perplexity(daemon, model, text, args.threads)
        right, wrong = count_right(daemon, model, asked, args.threads)
        if args.show_wrong:
            for question, reply in wrong:
                print("{}: {!r} -> {!r}, right is {!r}".format(
                    model, question["question"], reply, question["answer"]), file=sys.stderr)
        rows.append((precision, loss, right, time.time() - start))
    return rows


def table(rows, asked_count):
    base = next((loss for precision, loss, _, _ in rows if precision == "fp32"), None)
    lines = ["| Precision | Perplexity | Against FP32 | Right answers | Score |",
             "| --- | --- | --- | --- | --- |"]
    for precision, loss, right, _ in rows:
        change = "" if base is None else "{:+.2f}%".format(100 * (loss / base - 1))
        lines.append("| {} | {:.4f} | {} | {} of {} | {:.1f}% |".format(
            precision.upper(), loss, change, right, asked_count, 100 * right / asked_count))
    return "\n".join(lines) + "\n"


def write_card(path, text):
    with open(path, encoding="utf-8") as source:
        card = source.read()
    if card.count(BEGIN) != 1 or card.count(END) != 1 or card.index(BEGIN) > card.index(END):
        raise SystemExit("{}: needs one {} and after it one {}".format(path, BEGIN, END))
    head, rest = card.split(BEGIN)
    with open(path, "w", encoding="utf-8") as out:
        out.write(head + BEGIN + "\n" + text + END + rest.split(END)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--api-key", default=os.environ.get("PHID_API_KEY"))
    parser.add_argument("--model", default="phi-sample", help="name before the colon")
    parser.add_argument("--precisions", default="fp32,fp16,int8,int4")
    parser.add_argument("--threads", type=int, default=4, help="requests in flight")
    parser.add_argument("--limit", type=int, help="ask only so many questions")
    parser.add_argument("--show-wrong", action="store_true", help="list the wrong answers")
    parser.add_argument("--write-card", action="store_true")
    args = parser.parse_args()
    folder = os.path.join(HERE, "phi-sample")
    with open(os.path.join(folder, "heldout_questions.jsonl"), encoding="utf-8") as source:
        asked = [json.loads(line) for line in source][:args.limit]
    with open(os.path.join(folder, "heldout.txt"), encoding="utf-8") as source:
        text = source.read()
    if args.write_card and args.limit:
        raise SystemExit("--write-card: not together with --limit")
    rows = measure(args, asked, text)
    print(table(rows, len(asked)), end="")
    for precision, _, _, seconds in rows:
        print("{} took {:.1f} s".format(precision, seconds), file=sys.stderr)
    if args.write_card:
        write_card(os.path.join(folder, "README.md"), table(rows, len(asked)))


if __name__ == "__main__":
    main()
