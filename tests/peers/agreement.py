"""Whether phid and another runtime compute the same model from the same file.

The right logits are those that transformers computes in fp32 of the weights in the file, as phid widens
them; that the file holds just these is what the other runtime shows, which reads it by itself. Where
weights are codes, phid and most runtimes round activations to 8 bits, each in its own way, and llama.cpp
rounds them to fp16 where weights are: there a token may be another one where the right logits of both lie
within that rounding.
"""

import programs
import sources

import numpy as np

# How far phid's logits may be from the right ones, as a share of the largest of these: in fp32 by the
# order of sums alone; with fp16 weights keys and values are kept in fp16 too; with codes, activations
# are 8 bits. More is allowed where the runtime itself is farther off.
BOUND = {"fp32": 1e-4, "fp16": 4e-3, "codes": 0.05}
# How far the runtime's may be: more would be other weights.
THEIRS = {"fp32": 1e-4, "fp16": 4e-3, "codes": 0.08}
# And of an architecture in which it rounds in fp32 too: llama.cpp's phi2 was off by 2.6e-4.
THEIRS_ROUNDED = 5e-4


def is_as_near(found, wanted, source, logits, near):
    """Whether a runtime's own tokens are phid's up to where two lie within `near`: behind the first
    other token the texts are others."""
    for step in range(max(len(found), len(wanted))):
        one, other = (tokens[step] if step < len(tokens) else None for tokens in (found, wanted))
        if one != other:
            best = [max(logits[step, list(source.ends)]) if token is None else logits[step, token]
                    for token in (one, other)]
            return abs(float(best[0] - best[1])) <= near
    return True


def compare(path, source, runtime_class, precision, scratch):
    """Holds phid and a runtime to the right logits after the prompts and after each token that phid
    continues them with; and both texts to each other."""
    programs.phid("convert", path, scratch, "--format", "safetensors", "--precision", "fp32")
    right = sources.Reference(scratch)
    runtime = runtime_class(path, source)
    prompts = [prompt for prompt in sources.PROMPTS
               if not runtime.is_long_only or len(sources.ids_of(prompt)) > (source.original or 0)]
    heads = [sources.ids_of(prompt) for prompt in prompts]
    said = [programs.continued(path, prompt, sources.STEPS) for prompt in prompts]
    ours = programs.logits_of_ids(path, "f32" if precision == "fp32" else "f16",
                                  [(head, tokens) for head, (tokens, _) in zip(heads, said)])
    texts = [(len(head) - 1, head + tokens) for head, (tokens, _) in zip(heads, said)]
    truth = [right.logits(ids)[begin:] for begin, ids in texts]
    theirs = [runtime.logits(ids)[begin:] for begin, ids in texts]
    size = max(float(np.abs(logits).max()) for logits in truth)
    off_ours, off_theirs = (max(float(np.abs(a - b).max()) for a, b in zip(some, truth)) / size
                            for some in (ours, theirs))
    print(f"phid {off_ours:.2g}, {runtime.name} {off_theirs:.2g}")
    # phid has no part in what the runtime rounds in its own way: its bound stays.
    is_rounded = precision == "fp32" and source.architecture in runtime.rounded
    bound = THEIRS_ROUNDED if is_rounded else THEIRS[precision]
    assert off_theirs <= bound, "the runtime reads other weights"
    allowed = max(0.0 if is_rounded else off_theirs, BOUND[precision])
    assert off_ours <= allowed, "phid computes something else"
    near = 0.0 if precision == "fp32" else 2 * allowed * size
    for head, (tokens, end), own, logits in zip(heads, said, ours, truth):
        assert end["prompt_tokens"] == len(head)
        assert [int(row.argmax()) for row in own[:len(tokens)]] == tokens
        for step, token in enumerate(tokens):
            assert logits[step].max() - logits[step, token] <= near, f"step {step}: {token}"
        if end["finish_reason"] == "stop":
            assert logits[-1].max() - logits[-1, list(source.ends)].max() <= near
        else:
            assert len(tokens) == sources.STEPS
        found = runtime.greedy(head, sources.STEPS)
        assert is_as_near(found, tokens, source, logits, near), (found, tokens)
    runtime.close()
