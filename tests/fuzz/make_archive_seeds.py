#!/usr/bin/env python3
"""Writes the seeds of the fuzz target archive, with Python's tarfile and, for sparse files, GNU tar.

A model's folder in each format of .tar, and what is refused: links, a device, names that lead
elsewhere, sparse files. Usage: make_archive_seeds.py [CORPUS_DIRECTORY]
"""
import io
import os
import subprocess
import sys
import tarfile
import tempfile

ROOT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "corpus")
CONFIG = b'{"model_type": "phi3"}'
LONG = "a" * 120 + ".json"


def write(name, data):
    os.makedirs(os.path.join(ROOT, "archive"), exist_ok=True)
    with open(os.path.join(ROOT, "archive", name), "wb") as out:
        out.write(data)


def member(name, data=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def packed(members, form=tarfile.USTAR_FORMAT):
    out = io.BytesIO()
    # The last record is not filled up: a fuzzer does better with small inputs.
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return out.getvalue()[:end + 1024]


def sparse(form):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "model.bin"), "wb") as out:
            out.truncate(70000)
            out.seek(4096)
            out.write(b"x" * 512)
        return subprocess.run(
            ["tar", "--create", "--sparse", f"--format={form}", "--record-size=512", "--mtime=@0",
             "--owner=0", "--group=0", "model.bin"],
            cwd=folder, stdout=subprocess.PIPE, check=True).stdout


def main():
    folder = [member("phi", kind=tarfile.DIRTYPE), member("phi/config.json", CONFIG),
              member("phi/empty.bin"), member("phi/below/other.json", b"{}")]
    write("folder", packed(folder))
    write("top", packed([member("./config.json", CONFIG), member("b.json", b"2" * 600)]))
    for name, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        write(name, packed([member(LONG, b"{}"), member("config.json", CONFIG)], form))
    odd = [member("x", kind=tarfile.SYMTYPE, link="/etc"), member("../x", b"1"), member("/x", b"1"),
           member("y", kind=tarfile.LNKTYPE, link="config.json"),
           member("z", kind=tarfile.CHRTYPE), member("config.json", CONFIG)]
    for i, one in enumerate(odd[:-1]):
        write(f"refused{i}", packed([odd[-1], one]))
    write("twice", packed([odd[-1], odd[-1]]))
    for form in ("gnu", "posix"):
        write(f"sparse_{form}", sparse(form))


main()
