#!/usr/bin/env python3
"""Writes the seeds of the fuzz target torch, with Debian's python3-torch.

Small files that torch.save wrote, in both containers; what follows the header of the older one, as
the target takes it; and a pickle that would run a program. Usage: make_torch_seeds.py [CORPUS_DIRECTORY]
"""
import collections
import io
import os
import sys

import torch

ROOT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "corpus")


def saved(value, archive):
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=archive)
    return out.getvalue()


def write(name, data):
    os.makedirs(os.path.join(ROOT, "torch"), exist_ok=True)
    with open(os.path.join(ROOT, "torch", name), "wb") as out:
        out.write(data)


half = torch.arange(6, dtype=torch.float16).reshape(2, 3)
state = collections.OrderedDict(a=half, tied=half, part=torch.arange(3.0)[1:], n=torch.tensor(3))
state._metadata = collections.OrderedDict([("", {"version": 1})])
other = {"p": torch.nn.Parameter(torch.ones(2, 2)), "t": torch.ones(2, 3).t(), "size": half.shape,
         "b": torch.ones(2, dtype=torch.bfloat16), "rate": 0.5, "names": ["x", ("y", None, True)]}
write("archive", saved(state, True))
write("archive_other", saved(other, True))
write("stream", saved(state, False))
for name, value in (("rest", state), ("rest_other", other)):
    stream = saved(value, False)
    system = stream.index(b".", stream.index(b"type_sizes")) + 1
    write(name, stream[system:])
write("program", b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.")
