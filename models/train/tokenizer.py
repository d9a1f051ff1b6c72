"""Byte-level BPE: trainer, encoder, decoder and the Hugging Face files.

The pre-tokenizer is GPT-2's. Words with a digit in them are left out when merges
are learned, so every digit stays one token, which is what makes carrying learnable.
"""

import json
import unicodedata
from collections import Counter

SPECIAL_TOKENS = [
    # (content, whether the whitespace after it is swallowed), as in Phi-3-mini.
    ("<|endoftext|>", False), ("<|assistant|>", True), ("<|placeholder1|>", True),
    ("<|placeholder2|>", True), ("<|placeholder3|>", True), ("<|placeholder4|>", True),
    ("<|system|>", True), ("<|end|>", True), ("<|placeholder5|>", True),
    ("<|placeholder6|>", True), ("<|user|>", True),
]
VOCAB_SIZE = 1024


def byte_to_char():
    """GPT-2's map from bytes to printable characters."""
    kept = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    table = {b: chr(b) for b in kept}
    for number, b in enumerate(b for b in range(256) if b not in table):
        table[b] = chr(256 + number)
    return table


BYTE_TO_CHAR = byte_to_char()
CHAR_TO_BYTE = {c: b for b, c in BYTE_TO_CHAR.items()}
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
WHITE_SPACE = set("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
                  + "".join(chr(c) for c in range(0x2000, 0x200B)))


def char_class(char):
    """s(pace), L(etter), N(umber) or o(ther), as GPT-2's expression sorts them."""
    if char in WHITE_SPACE:
        return "s"
    category = unicodedata.category(char)[0]
    return category if category in "LN" else "o"


def pre_tokenize(text):
    """Splits as GPT-2's expression does:

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
    """
    pieces, at = [], 0
    while at < len(text):
        end = at
        for contraction in CONTRACTIONS:
            if text.startswith(contraction, at):
                end = at + len(contraction)
                break
        if end == at:
            start = at + 1 if text[at] == " " and at + 1 < len(text) else at
            kind = char_class(text[start])
            if kind == "s":
                start = at
                kind = char_class(text[at])
            end = start
            while end < len(text) and char_class(text[end]) == kind:
                end += 1
            if kind == "s" and end < len(text) and end - at > 1:
                end -= 1
        pieces.append(text[at:end])
        at = end
    return pieces


def to_symbols(piece):
    return [BYTE_TO_CHAR[b] for b in piece.encode("utf-8")]


def merge_pair(symbols, pair):
    out, at = [], 0
    while at < len(symbols):
        if at + 1 < len(symbols) and (symbols[at], symbols[at + 1]) == pair:
            out.append(symbols[at] + symbols[at + 1])
            at += 2
        else:
            out.append(symbols[at])
            at += 1
    return out


def train_merges(texts, count):
    """Learns up to `count` merges; ties go to the pair that sorts first."""
    words = Counter()
    for text in texts:
        words.update(p for p in pre_tokenize(text) if not any(c.isdigit() for c in p))
    entries = [(to_symbols(word), number) for word, number in sorted(words.items())]
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for symbols, number in entries:
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += number
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        entries = [(merge_pair(symbols, best), number) for symbols, number in entries]
    return merges


class Tokenizer:
    """Encodes and decodes exactly as the tokenizer.json that it writes says."""

    def __init__(self, merges):
        self.merges = [tuple(pair) for pair in merges]
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        pieces = sorted(CHAR_TO_BYTE) + [a + b for a, b in self.merges]
        self.vocab = {piece: number for number, piece in enumerate(pieces)}
        self.special = {content: len(pieces) + number
                        for number, (content, _) in enumerate(SPECIAL_TOKENS)}
        self.rstrip = dict(SPECIAL_TOKENS)
        self.pieces = {number: piece for piece, number in self.vocab.items()}
        self.special_names = {number: name for name, number in self.special.items()}
        self.cache = {}

    @classmethod
    def load(cls, path):
        with open(path, encoding="utf-8") as source:
            merges = json.load(source)["model"]["merges"]
        return cls([tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges])

    def encode_piece(self, piece):
        if piece not in self.cache:
            symbols = to_symbols(piece)
            while len(symbols) > 1:
                pair = min(zip(symbols, symbols[1:]),
                           key=lambda p: self.ranks.get(p, len(self.ranks)))
                if pair not in self.ranks:
                    break
                symbols = merge_pair(symbols, pair)
            self.cache[piece] = [self.vocab[s] for s in symbols]
        return self.cache[piece]

    def encode(self, text, parse_special=True):
        """Token ids; a special token with rstrip swallows the whitespace after it."""
        ids, at = [], 0
        while at < len(text):
            found = None
            if parse_special:
                hits = [(text.find(name, at), name) for name in self.special]
                found = min((hit for hit in hits if hit[0] >= 0), default=None)
            end = found[0] if found else len(text)
            for piece in pre_tokenize(text[at:end]):
                ids.extend(self.encode_piece(piece))
            if not found:
                break
            ids.append(self.special[found[1]])
            at = end + len(found[1])
            while self.rstrip[found[1]] and at < len(text) and text[at] in WHITE_SPACE:
                at += 1
        return ids

    def decode(self, ids, skip_special=True):
        data = bytearray()
        for number in ids:
            if number in self.special_names:
                if not skip_special:
                    data += self.special_names[number].encode("utf-8")
            elif number in self.pieces:
                data += bytes(CHAR_TO_BYTE[c] for c in self.pieces[number])
        return data.decode("utf-8", errors="replace")

    def added_tokens(self):
        return [{"id": number, "content": name, "single_word": False, "lstrip": False,
                 "rstrip": self.rstrip[name], "normalized": False, "special": True}
                for name, number in self.special.items()]

    def tokenizer_json(self):
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                      "use_regex": True}
        return {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": self.added_tokens(), "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": self.vocab, "merges": [a + " " + b for a, b in self.merges]},
        }
