"""Drills in looking things up: the quickest way for the model to learn to look back.

A drill is plain text. Either a list of words is said twice, or some facts are told and
then said again in other words and in another order.
"""

import words
from questions import colour_facts, food_facts, is_held_out, place_facts, HELD_OUT_PERCENT

TOLD_WEIGHT = 0.1
AGAIN_WEIGHT = 2.0
LIST_WORDS = (words.NAMES + words.COLOURS + words.THINGS + words.ANIMALS + words.PLACES
              + words.FOODS + [word for pair in words.OPPOSITES for word in pair])


def draw_list(rng):
    chosen = rng.sample(LIST_WORDS, rng.randint(3, 12))
    text = ", ".join(chosen)
    return [(text + ".", TOLD_WEIGHT), (" " + text + ".", 1.0)]


def draw_facts(rng):
    maker = rng.choice([colour_facts, colour_facts, place_facts, food_facts])
    told = maker(rng, rng.randint(1, 6))
    facts = " ".join(dict.fromkeys(fact for fact, _, _, _ in told))
    allowed = [(fact, sentence) for fact, question, sentence, _ in told
               if not is_held_out("fact {} {}".format(fact, question), HELD_OUT_PERCENT["fact"])]
    which = 0 if rng.random() < 0.3 else 1
    again = list(dict.fromkeys(both[which] for both in allowed))
    rng.shuffle(again)
    return [(facts, TOLD_WEIGHT)] + [(" " + sentence, AGAIN_WEIGHT) for sentence in again]


def draw_drill(rng):
    return draw_list(rng) if rng.random() < 0.3 else draw_facts(rng)
