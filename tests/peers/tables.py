"""Tables of the docs that tests make.

A page keeps such a table between two comments, each alone on its line:

    <!-- table every-pair -->
    | ... |
    <!-- end of table every-pair -->

The test that finds the table's contents hands its lines to `check_table`, which fails where the page
has others, and says which. With PHID_WRITE_TABLES=1 in the environment it puts them into the page
instead: read the difference before it is committed. What a test hands over must be the same on every
machine: counts, and figures of few digits.
"""

import difflib
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
WRITE = "PHID_WRITE_TABLES"


def table(head, rows):
    """The lines of a table of Markdown: its head and each row are sequences of cells."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    assert len({line.count("|") for line in lines}) == 1, "every row has the head's number of cells"
    return lines


def _place(lines, name, path):
    """The indices of the first line between the comments, and of the one behind the last."""
    found = []
    for comment in (f"<!-- table {name} -->", f"<!-- end of table {name} -->"):
        at = [i for i, line in enumerate(lines) if line == comment]
        assert len(at) == 1, f"{path} must have the line '{comment}' once; it has it {len(at)} times"
        found += at
    begin, end = found
    assert begin < end, f"{path}: table {name} ends before it begins"
    return begin + 1, end


def check_table(path, name, lines):
    """Holds table `name` of the page at `path` (from the project's root on) to `lines`."""
    page = ROOT / path
    text = page.read_text(encoding="utf-8").split("\n")
    begin, end = _place(text, name, path)
    if os.environ.get(WRITE) == "1":
        page.write_text("\n".join([*text[:begin], *lines, *text[end:]]), encoding="utf-8")
        return
    differences = "\n".join(difflib.unified_diff(text[begin:end], lines, f"table {name} of {path}",
                                                 "what the test found", lineterm="", n=0))
    assert not differences, f"{differences}\n{WRITE}=1 writes what the test found into the page"
