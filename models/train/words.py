"""The word lists that the text generator draws from.

Everything the sample model ever reads is put together from these lists and from
the sentence patterns in stories.py and questions.py.
"""

BOYS = ["Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Paul", "Finn"]
GIRLS = ["Anna", "Mia", "Lucy", "Sara", "Emma", "Rose", "Lily", "Kate"]
NAMES = BOYS + GIRLS

COLOURS = ["red", "blue", "green", "yellow", "black", "white", "brown", "pink"]
THINGS = ["ball", "kite", "hat", "boat", "book", "cup", "drum", "bag", "coat", "bike", "lamp",
          "key"]
ANIMALS = ["cat", "dog", "bird", "fox", "frog", "duck", "horse", "rabbit", "mouse", "bear",
           "sheep", "goat"]
PLACES = ["garden", "park", "forest", "kitchen", "house", "school", "field", "barn", "street",
          "village"]
FOODS = ["apples", "plums", "pears", "nuts", "cakes", "eggs", "carrots", "cherries"]
WEATHER = ["sunny", "rainy", "windy", "cold", "warm", "cloudy"]
SIZES = ["small", "big", "little"]
TRAITS = ["kind", "brave", "clever", "quiet", "cheerful", "friendly"]

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August",
          "September", "October", "November", "December"]

# Every pair is asked in both directions, so no word may stand in two pairs.
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("day", "night"), ("fast", "slow"),
    ("open", "closed"), ("happy", "sad"), ("old", "young"), ("hard", "soft"),
    ("light", "dark"), ("left", "right"), ("high", "low"), ("wet", "dry"), ("full", "empty"),
    ("good", "bad"), ("early", "late"), ("near", "far"), ("long", "short"), ("rich", "poor"),
    ("loud", "quiet"), ("clean", "dirty"), ("strong", "weak"), ("first", "last"),
    ("in", "out"), ("true", "false"), ("yes", "no"), ("begin", "end"), ("win", "lose"),
    ("push", "pull"), ("thick", "thin"),
]
