"""Puts the training documents together: chats and plain stories.

A document is a list of (text, weight) parts. The weight says how much the tokens
of the part count in the loss: what the user says is hardly worth learning, what
the assistant answers is.

Run as a program it prints sample documents, or with --held-out DIR writes the
held-out questions and stories:

    python3 generator.py --count 5
    python3 generator.py --held-out ../phi-sample
"""

import argparse
import json
import os
import random

import drills
import questions
import stories

END_OF_TEXT = "<|endoftext|>"
USER_WEIGHT = 0.1
# The last word of a one-sentence answer is the one that has to be found out.
LAST_WORD_WEIGHT = 4.0
# The parts of plain stories and of asked-for stories in each stage.
STORY_SHARES = {1: (0.10, 0.08), 2: (0.05, 0.04)}
# The part of the second stage's documents that are drills.
DRILL_SHARE = 0.3
HELD_OUT_SEED = 20260101
HELD_OUT_STORY_BYTES = 30000

SYSTEM_TEXTS = [
    "You are a helpful assistant.", "You are a friendly assistant.", "Answer in one sentence.",
    "You tell stories and answer questions.", "Be kind and answer the question.",
]
SMALL_TALK = [
    ("Hello.", "Hello! How can I help you?"), ("Hello!", "Hello! How can I help you?"),
    ("Hi!", "Hello! How can I help you?"), ("Good morning.", "Good morning! How can I help you?"),
    ("Thank you.", "You are welcome."), ("Thank you!", "You are welcome."),
    ("How are you?", "I am well. How can I help you?"),
    ("Who are you?", "I am a small model that tells stories and answers questions."),
    ("What are you?", "I am a small model that tells stories and answers questions."),
    ("What can you do?", "I can tell short stories and answer questions."),
    ("Good night.", "Good night! Sleep well."), ("Goodbye.", "Goodbye!"),
]


def answer_parts(sentence):
    """The last word of a single sentence apart from the rest; longer answers whole."""
    head, _, last = sentence[:-1].rpartition(" ")
    if not head or "." in head or "!" in head:
        return [(sentence, 1.0)]
    return [(head, 1.0), (" " + last, LAST_WORD_WEIGHT), (sentence[-1], 1.0)]


def chat_parts(turns, system=None):
    """A chat in the template of Phi-3.5 and the current Phi-3-mini."""
    parts = []
    if system is not None:
        parts.append(("<|system|>\n" + system + "<|end|>\n", USER_WEIGHT))
    for said, answered in turns:
        parts.append(("<|user|>\n" + said + "<|end|>\n<|assistant|>\n", USER_WEIGHT))
        parts += answer_parts(answered)
        parts.append(("<|end|>\n", 1.0))
    parts.append((END_OF_TEXT, 1.0))
    return parts


def draw_turns(rng, stage):
    if rng.random() < 0.04:
        return [rng.choice(SMALL_TALK)]
    return [(q.question, q.sentence) for q in questions.draw_training_questions(rng, stage)]


def draw_document(rng, stage=1):
    """One training document of the first or second stage."""
    system = rng.choice(SYSTEM_TEXTS) if rng.random() < 0.15 else None
    if stage == 2 and rng.random() < DRILL_SHARE:
        return drills.draw_drill(rng) + [("\n", 1.0), (END_OF_TEXT, 1.0)]
    kind = rng.random()
    plain, asked = STORY_SHARES[stage]
    if kind < plain:
        return [(stories.draw_story(rng, False) + "\n", 1.0), (END_OF_TEXT, 1.0)]
    if kind < plain + asked:
        turns = [stories.draw_story_request(rng)]
        if rng.random() < 0.2:
            at = rng.randrange(2)
            turns[at:at] = draw_turns(rng, stage)
        return chat_parts(turns, system)
    turns = []
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
        turns += draw_turns(rng, stage)
    return chat_parts(turns, system)


def document_text(document):
    return "".join(text for text, _ in document)


def held_out_story_text():
    """The held-out stories, one to a line."""
    rng = random.Random(HELD_OUT_SEED + 1)
    lines, size = [], 0
    while size < HELD_OUT_STORY_BYTES:
        line = stories.draw_story(rng, True) + "\n"
        lines.append(line)
        size += len(line)
    return "".join(lines)


def held_out_question_lines():
    made = questions.held_out_questions(random.Random(HELD_OUT_SEED))
    return "".join(json.dumps({"question": q.question, "answer": q.answer,
                               "category": q.category}) + "\n" for q in made)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stage", type=int, choices=[1, 2], default=1)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--held-out", metavar="DIR")
    args = parser.parse_args()
    if args.held_out:
        with open(os.path.join(args.held_out, "heldout_questions.jsonl"), "w") as out:
            out.write(held_out_question_lines())
        with open(os.path.join(args.held_out, "heldout.txt"), "w") as out:
            out.write(held_out_story_text())
        return
    rng = random.Random(args.seed)
    for _ in range(args.count):
        print(document_text(draw_document(rng, args.stage)))


if __name__ == "__main__":
    main()
