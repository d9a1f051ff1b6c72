#!/usr/bin/env python3
"""Holds the tree to its layering and to the rules that no compiler checks.

Each source file may include only what its directory is allowed to, third-party headers stay in
quarantine, and a few functions are banned. Prints every violation and exits 1 if there is one.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Directory -> directories (or single headers) whose headers it may include, beside its own.
MAY_INCLUDE = {
    "base": [],
    "config": ["base"],
    "engine/tensor": ["base", "config/limits.h"],
    "engine/formats": ["base", "config/limits.h", "engine/tensor"],
    "engine/kernels": ["base", "config/limits.h", "engine/tensor"],
    "engine/tokenizer": ["base", "config/limits.h", "engine/tensor", "engine/formats"],
    "engine/model": ["base", "config/limits.h", "engine/tensor", "engine/formats",
                     "engine/kernels"],
    "engine/runtime": ["base", "config/limits.h", "engine/tensor", "engine/formats",
                       "engine/kernels", "engine/tokenizer", "engine/model"],
    "engine/quant": ["base", "config/limits.h", "engine/tensor", "engine/formats",
                     "engine/kernels", "engine/tokenizer", "engine/model"],
    "engine/bench": ["base", "config/limits.h", "engine/tensor", "engine/formats",
                     "engine/kernels", "engine/model"],
    "engine": ["base", "config/limits.h", "engine"],
    "server": ["base", "config", "engine/engine.h", "server"],
    "server/http": ["base", "config/limits.h", "server/work.h"],
    "server/store": ["base", "config/limits.h"],
}

# Third-party header prefix -> path prefixes where it may be included.
QUARANTINE = {
    "microhttpd.h": ["server/http/"],
    "uv.h": ["server/"],
    "cblas.h": ["engine/kernels/blas.c"],
    "expat.h": ["engine/formats/openvino_xml.c"],
    "jansson.h": ["config/", "engine/formats/", "engine/tokenizer/", "server/"],
    "sqlite3.h": ["server/store/"],
    "pcre2.h": ["engine/tokenizer/"],
    "nettle/": ["base/hash.c"],
    "archive.h": ["server/"],
    "archive_entry.h": ["server/"],
    "immintrin.h": ["engine/kernels/avx2/", "engine/kernels/avx512/", "engine/kernels/amx/"],
    "arm_neon.h": ["engine/kernels/neon/"],
}

BANNED = re.compile(
    r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|strtok|gets|atoi|atol|atof|strtoul|strtoull|strtol|"
    r"strtoll)\s*\(")
ALLOCATION = re.compile(r"(?<![\w.>])(malloc|calloc|realloc|free|strdup|strndup)\s*\(")
PRINTING = re.compile(r"(?<![\w.>])(printf|puts|putchar)\s*\(")
EXITING = re.compile(r"(?<![\w.>])(exit|_exit|sleep|usleep|nanosleep)\s*\(")
LINE_COMMENT = re.compile(r"(^|[^:\"'])//")
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')

FILE_LINES_MAX = 1000


def sources():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.c", "*.h"],
        cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return [name for name in listed
            if name.split("/")[0] in ("base", "config", "engine", "server")
            and (ROOT / name).exists()]


def owner(name):
    """The longest directory of the table that holds the file."""
    folder = str(pathlib.PurePosixPath(name).parent)
    while folder not in MAY_INCLUDE:
        folder = str(pathlib.PurePosixPath(folder).parent)
    return folder


def allowed(folder, included):
    if included.startswith(folder + "/"):
        return True
    for target in MAY_INCLUDE[folder]:
        if included == target or included.startswith(target + "/"):
            return True
    return False


def strip_strings(line):
    return re.sub(r'"(\\.|[^"\\])*"', '""', line)


def check_include(name, bracket, included):
    if bracket == '"':
        first = included.split("/")[0]
        if first in ("base", "config", "engine", "server"):
            if not (ROOT / included).exists():
                return f"includes {included}, which does not exist"
            if not allowed(owner(name), included):
                return f"may not include {included}"
        return None
    for header, places in QUARANTINE.items():
        if included.startswith(header) and not any(name.startswith(p) for p in places):
            return f"may not include <{included}> (only {', '.join(places)})"
    return None


def check_code(name, code):
    if BANNED.search(code):
        return "uses a banned function"
    if ALLOCATION.search(code) and name != "base/mem.c":
        return "allocates past base/mem.h"
    if PRINTING.search(code) and not name.startswith(("server/cmd_", "server/main.c")):
        return "prints; only commands do"
    if EXITING.search(code) and name not in ("server/main.c",):
        return "exits or sleeps"
    if LINE_COMMENT.search(code):
        return "has a // comment"
    return None


def check_file(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = text.splitlines()
    problems = []
    if len(lines) > FILE_LINES_MAX:
        problems.append((1, f"has {len(lines)} lines; split it (at most {FILE_LINES_MAX})"))
    if name.endswith(".h"):
        head = text[:1500]
        for word in ("Purpose:", "Owns:", "Threads:", "Errors:", "Limits:"):
            if word not in head:
                problems.append((1, f"its opening comment lacks '{word}'"))
    in_comment = False
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if found and not in_comment:
            problem = check_include(name, *found.groups())
            if problem:
                problems.append((number, problem))
            continue
        code = strip_strings(line)
        if in_comment:
            if "*/" not in code:
                continue
            code = code.split("*/", 1)[1]
            in_comment = False
        code = re.sub(r"/\*.*?\*/", "", code)
        if "/*" in code:
            code = code.split("/*", 1)[0]
            in_comment = True
        problem = check_code(name, code)
        if problem:
            problems.append((number, problem))
    return problems


def main():
    failed = 0
    names = sources()
    for name in names:
        for number, problem in check_file(name):
            print(f"{name}:{number}: {problem}")
            failed += 1
    print(f"layers: {len(names)} files, {failed} problems")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
