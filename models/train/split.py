"""Decides which facts and stories are held out.

The decision depends on nothing but the key's text, so the training text and the
held-out questions can never share a key, whatever the seeds are.
"""

import hashlib


def is_held_out(key, percent):
    """True for about `percent` of all keys; always the same for the same key."""
    digest = hashlib.sha256(("phi-sample " + key).encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "little") % 100 < percent
