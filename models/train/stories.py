"""Short stories put together from sentence patterns and a few hundred words."""

import words
from split import is_held_out

# Percent of the casts (plot, hero, animal, thing, place) that are held out.
HELD_OUT_PERCENT = 5

OPENINGS = [
    "Once there was a {trait} {child} called {hero}.",
    "{hero} was a {trait} {child} who lived near a {place}.",
    "There was once a {child} called {hero}. {He} was very {trait}.",
    "{hero} lived in a {size} house with {his} mother and father.",
]
MORNINGS = [
    "One {weather} morning {hero} went to the {place}.",
    "It was a {weather} day, and {hero} walked to the {place}.",
    "On {day} {hero} wanted to play in the {place}.",
    "One day in {month} {hero} went out to the {place}.",
]
ENDINGS = [
    "That night {hero} slept well.", "It was the best day of the week.",
    "From that day on they were good friends.", "{hero} went home with a big smile.",
    "They were happy until the sun went down.", "Mother was very proud of {hero}.",
    "{hero} never forgot that day.", "In the evening {he} told {his} mother about it.",
]

# A plot is a list of steps; a step is a list of wordings of which one is taken.
PLOTS = {
    "lost": [
        ["{He} took {his} {colour} {thing} along.", "{His} {colour} {thing} was with {him}.",
         "{He} had a {colour} {thing} that {he} loved very much."],
        ["But soon the {thing} was gone.", "After a while {he} could not find the {thing}.",
         "Then the {thing} was lost."],
        ["{hero} looked under the tree and behind the wall.", "{He} looked here and there.",
         "{He} was sad and began to cry."],
        ["A {size} {animal} came by and asked, \"Why are you so sad?\"",
         "Then {he} met a {trait2} {animal}.", "A {animal} saw {him} and wanted to help."],
        ["\"I have lost my {thing},\" said {hero}.",
         "{hero} told the {animal} about the {thing}."],
        ["The {animal} ran away and came back with the {colour} {thing}.",
         "The {animal} found the {thing} in the tall grass.",
         "Together they found the {thing} near the old bridge."],
        ["\"Thank you!\" said {hero}.", "{hero} gave the {animal} some {food}.",
         "{hero} laughed and danced with the {animal}."],
    ],
    "friend": [
        ["There {he} saw a {size} {animal}.", "A {animal} sat on a stone and looked at {him}.",
         "Behind a tree {he} found a {size} {animal}."],
        ["The {animal} was alone and hungry.", "The {animal} had no friends.",
         "The {animal} was cold and tired."],
        ["\"Do you want some {food}?\" asked {hero}.", "{hero} had some {food} in {his} bag.",
         "{hero} said, \"Come, we can share my {food}.\""],
        ["The {animal} ate all the {food}.", "The {animal} was very glad.",
         "They sat down and ate the {food} together."],
        ["Then they played with a {colour} {thing}.", "They ran and jumped in the {place}.",
         "After that they played until it was late."],
        ["\"You are my friend,\" said {hero}.", "\"Will you come back?\" asked the {animal}.",
         "\"I will come back every day,\" said {hero}."],
    ],
    "gift": [
        ["It was the birthday of {friend}.", "{friend} had a birthday that day.",
         "{His} friend {friend} was sick and stayed in bed."],
        ["{hero} wanted to give {friend} a {thing}.", "{hero} thought of a gift for a long time.",
         "\"What can I give to {friend}?\" thought {hero}."],
        ["{He} made a {colour} {thing} with {his} own hands.",
         "In the {place} {he} found a {colour} {thing}.",
         "A {trait2} man gave {him} a {colour} {thing}."],
        ["On the way {he} met a {animal}.", "A {size} {animal} walked with {him}.",
         "A {animal} followed {him} all the way."],
        ["\"This {thing} is for you,\" {he} said to {friend}.",
         "{hero} gave the {thing} to {friend}.", "{friend} opened the door and saw the {thing}."],
        ["{friend} was very happy.", "\"It is so beautiful!\" said {friend}.",
         "\"Thank you, {hero}!\" said {friend}."],
        ["Then they all ate {food}.", "They shared some {food} and sang a song.",
         "They played with the {thing} and the {animal}."],
    ],
    "storm": [
        ["Soon dark clouds came over the {place}.", "Then a strong wind began to blow.",
         "All at once it began to rain."],
        ["{hero} was afraid and held {his} {thing}.", "{His} {colour} {thing} got very wet.",
         "The wind took {his} {colour} {thing} away."],
        ["Under a tree sat a {size} {animal}.", "{He} saw a {animal} in the rain.",
         "A {animal} was afraid of the storm too."],
        ["\"Come with me,\" said {hero} to the {animal}.",
         "{hero} took the {animal} under {his} coat.",
         "\"We must find a dry place,\" said the {animal}."],
        ["They ran to an old barn and waited.", "They found a warm place and sat down.",
         "In a little house they were safe and dry."],
        ["An hour later the sun came out.", "At last the rain stopped.",
         "After the storm there was a rainbow in the sky."],
        ["{hero} and the {animal} ate some {food}.", "{hero} laughed, and the {animal} was glad.",
         "\"You are very {trait},\" said the {animal}."],
    ],
    "garden": [
        ["{He} had a seed in {his} hand.", "{His} father gave {him} a seed.",
         "In an old {colour} {thing} {he} found a seed."],
        ["{hero} put the seed in the ground.", "{He} made a hole and put the seed in.",
         "{He} planted it near the wall."],
        ["Every day {he} gave it water.", "{He} waited for many days.",
         "The sun was warm, and the rain was soft."],
        ["A {animal} wanted to eat the plant.", "A {size} {animal} came to look at it.",
         "One night a {animal} came into the {place}."],
        ["\"Please do not eat it,\" said {hero}.",
         "\"You must wait,\" {hero} said to the {animal}.",
         "{hero} asked the {animal} to wait."],
        ["In {month2} there was a big tree.", "Slowly the plant grew and grew.",
         "Soon there were {colour} flowers on it."],
        ["{hero} and the {animal} shared the {food}.", "The {animal} helped {him} with the work.",
         "Then there were {food} for everyone."],
    ],
    "help": [
        ["{hero} heard a noise near the {place}.", "Somebody called for help.",
         "\"Help me!\" called somebody."],
        ["A {size} {animal} was in a deep hole.", "A {animal} was up in a tall tree.",
         "A {animal} could not get out of the water."],
        ["\"I will help you,\" said {hero}.", "{hero} was not afraid.",
         "{hero} thought about it for a minute."],
        ["{He} called {his} friend {friend}.", "{He} ran to {friend}, who was strong.",
         "{friend} came with a long rope."],
        ["Together they pulled and pulled.", "{friend} held {his} hand, and {hero} pulled.",
         "They worked hard for an hour."],
        ["At last the {animal} was free.", "Then the {animal} was safe.",
         "Soon the {animal} could run again."],
        ["The {animal} gave them a {colour} {thing}.", "The {animal} thanked {hero} and {friend}.",
         "They gave the {animal} some {food}."],
    ],
}


def draw_cast(rng, wanted):
    """Draws who and what the story is about; `wanted` fixes some of it."""
    hero = wanted.get("hero") or rng.choice(words.NAMES)
    boy = hero in words.BOYS
    trait = rng.choice(words.TRAITS)
    cast = {
        "hero": hero, "child": "boy" if boy else "girl", "he": "he" if boy else "she",
        "his": "his" if boy else "her", "him": "him" if boy else "her",
        "He": "He" if boy else "She", "His": "His" if boy else "Her", "trait": trait,
        "friend": rng.choice([n for n in words.NAMES if n != hero]),
        "trait2": rng.choice([t for t in words.TRAITS if t != trait]),
        "animal": wanted.get("animal") or rng.choice(words.ANIMALS),
        "thing": wanted.get("thing") or rng.choice(words.THINGS),
        "place": wanted.get("place") or rng.choice(words.PLACES),
        "colour": rng.choice(words.COLOURS), "food": rng.choice(words.FOODS),
        "weather": rng.choice(words.WEATHER), "size": rng.choice(words.SIZES),
        "day": rng.choice(words.DAYS), "month": rng.choice(words.MONTHS),
        "month2": rng.choice(words.MONTHS), "plot": rng.choice(list(PLOTS)),
    }
    return cast


def cast_key(cast):
    return "story {plot} {hero} {animal} {thing} {place}".format(**cast)


def draw_story(rng, held_out, wanted=None):
    """One story as a single paragraph, from the asked side of the split."""
    while True:
        cast = draw_cast(rng, wanted or {})
        if is_held_out(cast_key(cast), HELD_OUT_PERCENT) == held_out:
            break
    steps = [OPENINGS, MORNINGS] + PLOTS[cast["plot"]] + [ENDINGS]
    return " ".join(rng.choice(step).format(**cast) for step in steps)


def draw_story_request(rng):
    """A request for a story and the story that answers it."""
    kind = rng.choice(["hero", "animal", "animal", "thing", "place", "any"])
    wording = rng.choice(["Tell me a story{}.", "Write a short story{}.",
                          "Please tell me a story{}.", "Can you tell me a short story{}?",
                          "Write a story{}."])
    if kind == "any":
        return wording.format(""), draw_story(rng, False)
    names = {"hero": words.NAMES, "animal": words.ANIMALS, "thing": words.THINGS,
             "place": words.PLACES}[kind]
    chosen = rng.choice(names)
    about = " about {}".format(chosen) if kind == "hero" else " about a {}".format(chosen)
    return wording.format(about), draw_story(rng, False, {kind: chosen})
