"""Questions with one right answer.

Each maker draws one question and returns a Question. Its `key` names the fact that
the question is about (for a sum: the two operands; for an opposite: the word and
the wording), and the key alone decides whether the question is held out.

Every answer is one sentence whose last word is the right word or number. That is
also the scoring rule: see last_word() and is_right().
"""

import re
from collections import namedtuple

import words
from split import is_held_out

# Sums and differences stay within this number.
NUMBER_MAX = 60

Question = namedtuple("Question", "category key question sentence answer")

# Percent of the keys that are held out.
HELD_OUT_PERCENT = {
    "sum": 12, "difference": 12, "comparison": 12, "opposite": 15, "day": 30, "month": 25,
    "fact": 15,
}

# How many of each category the 500 held-out questions have.
HELD_OUT_COUNTS = {
    "sum": 110, "difference": 110, "comparison": 80, "opposite": 60, "day": 20, "month": 30,
    "fact": 90,
}

# How often the training text draws each category, in the first and in the second stage.
TRAINING_WEIGHTS = {
    1: {"sum": 27, "difference": 27, "comparison": 10, "opposite": 7, "day": 4, "month": 5,
        "fact": 20},
    2: {"sum": 18, "difference": 21, "comparison": 9, "opposite": 5, "day": 1, "month": 1,
        "fact": 45},
}
# How often one, two or three facts are told, in training as in the held-out questions.
FACT_COUNT_WEIGHTS = [60, 30, 10]
# The most questions that are asked about the same facts in the training text.
FACT_TURNS_MAX = 4


def draw_operands(rng):
    """A pair (a, b) with a + b <= NUMBER_MAX; small numbers come more often."""
    top = 20 if rng.random() < 0.2 else NUMBER_MAX
    total = rng.randint(0, top)
    first = rng.randint(0, total)
    return first, total - first


def make_sum(rng):
    a, b = draw_operands(rng)
    question = rng.choice([
        "What is {a} plus {b}?", "What is {a} + {b}?", "What is the sum of {a} and {b}?",
        "How much is {a} plus {b}?", "Add {a} and {b}.", "{a} + {b} = ?",
    ]).format(a=a, b=b)
    sentence = "{} plus {} is {}.".format(a, b, a + b)
    return Question("sum", "sum {} {}".format(min(a, b), max(a, b)), question, sentence,
                    str(a + b))


def make_difference(rng):
    small, rest = draw_operands(rng)
    a, b = small + rest, small
    question = rng.choice([
        "What is {a} minus {b}?", "What is {a} - {b}?", "How much is {a} minus {b}?",
        "What is the difference of {a} and {b}?", "Take {b} away from {a}.", "{a} - {b} = ?",
    ]).format(a=a, b=b)
    sentence = "{} minus {} is {}.".format(a, b, a - b)
    return Question("difference", "difference {} {}".format(a, b), question, sentence,
                    str(a - b))


def make_comparison(rng):
    a = rng.randint(0, 99)
    b = rng.randint(0, 99)
    while b == a:
        b = rng.randint(0, 99)
    want = rng.choice(["larger", "smaller"])
    question = rng.choice([
        "Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?",
        "What is the {w} number, {a} or {b}?", "Is {a} or {b} {w}?",
    ]).format(w=want, a=a, b=b)
    right = max(a, b) if want == "larger" else min(a, b)
    sentence = "The {} number is {}.".format(want, right)
    return Question("comparison", "comparison {} {}".format(min(a, b), max(a, b)), question,
                    sentence, str(right))


OPPOSITE_WORDINGS = [
    "What is the opposite of {w}?", "Tell me the opposite of {w}.",
    "What is the opposite of the word {w}?", "Which word is the opposite of {w}?",
    "The opposite of {w} is what?", "Name the opposite of {w}.",
    "Please tell me the opposite of {w}.", "Can you tell me the opposite of {w}?",
]


def make_opposite(rng):
    pair = rng.choice(words.OPPOSITES)
    word, other = pair if rng.random() < 0.5 else (pair[1], pair[0])
    number = rng.randrange(len(OPPOSITE_WORDINGS))
    return Question("opposite", "opposite {} {}".format(word, number),
                    OPPOSITE_WORDINGS[number].format(w=word),
                    "The opposite of {} is {}.".format(word, other), other)


CALENDAR_WORDINGS = [
    "What {u} comes {r} {x}?", "Which {u} is {r} {x}?", "Which {u} comes {r} {x}?",
    "What is the {u} {r} {x}?", "Tell me the {u} {r} {x}.", "Name the {u} that comes {r} {x}.",
    "Can you tell me which {u} comes {r} {x}?", "Please name the {u} {r} {x}.",
]


def make_calendar(rng, unit, names):
    index = rng.randrange(len(names))
    relation = rng.choice(["after", "before"])
    number = rng.randrange(len(CALENDAR_WORDINGS))
    step = 1 if relation == "after" else -1
    right = names[(index + step) % len(names)]
    return Question(unit, "{} {} {} {}".format(unit, relation, names[index], number),
                    CALENDAR_WORDINGS[number].format(u=unit, r=relation, x=names[index]),
                    "The {} {} {} is {}.".format(unit, relation, names[index], right), right)


def make_day(rng):
    return make_calendar(rng, "day", words.DAYS)


def make_month(rng):
    return make_calendar(rng, "month", words.MONTHS)


def colour_facts(rng, count):
    owners = rng.sample(words.NAMES, count)
    things = rng.sample(words.THINGS, count)
    colours = rng.sample(words.COLOURS, count)
    form = rng.choice(["{o} has a {c} {t}.", "{o} has a {c} {t}.", "{o}'s {t} is {c}."])
    told = []
    for o, t, c in zip(owners, things, colours):
        fact = form.format(o=o, t=t, c=c)
        told.append((fact, "What colour is {}'s {}?".format(o, t),
                     "{}'s {} is {}.".format(o, t, c), c))
        if " has " in fact:
            told.append((fact, "Who has the {}?".format(t),
                         "The {} belongs to {}.".format(t, o), o))
    return told


def place_facts(rng, count):
    who = rng.sample(words.ANIMALS, count)
    where = rng.sample(words.PLACES, count)
    return [("The {} is in the {}.".format(w, p), "Where is the {}?".format(w),
             "The {} is in the {}.".format(w, p), p) for w, p in zip(who, where)]


def food_facts(rng, count):
    who = rng.sample(words.NAMES, count)
    foods = rng.sample(words.FOODS, count)
    told = []
    for w, f in zip(who, foods):
        fact = "{} likes {}.".format(w, f)
        told.append((fact, "What does {} like?".format(w), fact, f))
        told.append((fact, "Who likes {}?".format(f),
                     "The one who likes {} is {}.".format(f, w), w))
    return told


def make_facts(rng, turns):
    """Up to `turns` questions about one to three facts; only the first tells the facts."""
    maker = rng.choice([colour_facts, colour_facts, place_facts, food_facts])
    told = maker(rng, rng.choices([1, 2, 3], FACT_COUNT_WEIGHTS)[0])
    text = " ".join(dict.fromkeys(fact for fact, _, _, _ in told)) + " "
    made = []
    for fact, question, sentence, answer in rng.sample(told, min(turns, len(told))):
        # The fact asked for and the question make the key; the other facts only distract.
        made.append(Question("fact", "fact {} {}".format(fact, question), text + question,
                             sentence, answer))
        text = ""
    return made


def make_fact(rng):
    return make_facts(rng, 1)[0]


MAKERS = {
    "sum": make_sum, "difference": make_difference, "comparison": make_comparison,
    "opposite": make_opposite, "day": make_day, "month": make_month, "fact": make_fact,
}


def draw_question(rng, category, held_out):
    """One question of the category from the asked side of the split."""
    while True:
        made = MAKERS[category](rng)
        if is_held_out(made.key, HELD_OUT_PERCENT[category]) == held_out:
            return made


def draw_training_questions(rng, stage):
    """One question, or several that go on about the same facts."""
    weights = TRAINING_WEIGHTS[stage]
    category = rng.choices(list(weights), list(weights.values()))[0]
    if category != "fact":
        return [draw_question(rng, category, False)]
    while True:
        made = make_facts(rng, rng.randint(1, FACT_TURNS_MAX))
        if not any(is_held_out(q.key, HELD_OUT_PERCENT["fact"]) for q in made):
            return made


def held_out_questions(rng):
    """The 500 held-out questions; no two have the same text."""
    made, seen = [], set()
    for category, count in HELD_OUT_COUNTS.items():
        left = count
        while left > 0:
            one = draw_question(rng, category, True)
            if one.question not in seen:
                seen.add(one.question)
                made.append(one)
                left -= 1
    rng.shuffle(made)
    return made


def last_word(reply):
    """The last word or number of the reply's first sentence, lower case."""
    first = re.split(r"[.!?\n]", reply.strip(), maxsplit=1)[0]
    found = re.findall(r"[A-Za-z]+|[0-9]+", first)
    return found[-1].lower() if found else ""


def is_right(reply, answer):
    """The scoring rule: the reply's first sentence must end with the right word."""
    return last_word(reply) == answer.lower()
