"""Writes the expected values that the engine's tests compare with.

    python3 golden.py --model ../phi-sample --out ../../tests/golden/phi-sample.json

For three prompts: the token ids, the ten largest logits of the last position and 32
greedy tokens, computed in float32 from the saved F16 weights.
"""

import argparse
import os

import torch

import export
from model import CONFIG, Phi3
from tokenizer import Tokenizer

GREEDY_TOKENS = 32
TOP = 10
# Prompts after which the best token is never nearly tied, see greedy_gap_min.
PROMPTS = [
    ("chat", "<|user|>\nTom has a red ball. What colour is Tom's ball?<|end|>\n<|assistant|>\n"),
    ("story", "Kate was a cheerful girl who lived near a forest. One warm morning Kate went to "
     "the forest. Her yellow drum was with her."),
    ("chat with system text and two turns",
     "<|system|>\nYou are a friendly assistant.<|end|>\n<|user|>\nWhat day comes after Monday?"
     "<|end|>\n<|assistant|>\nThe day after Monday is Tuesday.<|end|>\n<|user|>\n"
     "Tell me a story about Ben.<|end|>\n<|assistant|>\n"),
]


@torch.no_grad()
def expected(model, tokenizer, name, prompt):
    ids = tokenizer.encode(prompt)
    logits = model(torch.tensor([ids]))[0, -1]
    top = logits.topk(TOP)
    run, gap = list(ids), float("inf")
    for _ in range(GREEDY_TOKENS):
        best = model(torch.tensor([run]))[0, -1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        run.append(int(best.indices[0]))
    greedy = run[len(ids):]
    return {
        "name": name, "prompt": prompt, "ids": ids,
        "top_ids": top.indices.tolist(),
        "top_logits": [float("%.9g" % v) for v in top.values.tolist()],
        "logits_rms": float("%.9g" % logits.pow(2).mean().sqrt().item()),
        "greedy_ids": greedy, "greedy_text": tokenizer.decode(greedy, skip_special=False),
        # How close the runner-up came anywhere in the greedy run.
        "greedy_gap_min": float("%.6g" % gap),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="../phi-sample")
    parser.add_argument("--out", default="../../tests/golden/phi-sample.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(os.path.join(args.model, "tokenizer.json"))
    model = Phi3(CONFIG)
    model.load_state_dict(export.read_safetensors(os.path.join(args.model, "model.safetensors")))
    model.eval()
    export.write_json(args.out, {
        "made_by": "models/train/golden.py", "model": "models/phi-sample",
        "weights": "F16 widened to F32, computed in F32",
        "greedy_note": "greedy runs go on past stop tokens",
        "cases": [expected(model, tokenizer, name, prompt) for name, prompt in PROMPTS]})


if __name__ == "__main__":
    main()
