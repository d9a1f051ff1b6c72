"""Exporters that run in a process of their own, because they change how others log or export, and one
process for many models, because they take longer to import than to run.

A line of standard input is a function of this file and its arguments, as JSON; the answer is a line on
standard output: JSON's null, or what went wrong.
"""

import gc
import json
import os
import runpy
import sys
import traceback


def module(name, *arguments):
    """As `python -m` runs it."""
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def optimum_intel_class(source, path):
    from optimum.intel import OVModelForCausalLM
    OVModelForCausalLM.from_pretrained(source, export=True, load_in_8bit=False,
                                       compile=False).save_pretrained(path)


FUNCTIONS = {function.__name__: function for function in (module, optimum_intel_class)}


def answer(name, *arguments):
    try:
        FUNCTIONS[name](*arguments)
    except SystemExit as end:
        return f"{arguments[0]} ends with {end.code}" if end.code else None
    except Exception:  # pylint: disable=broad-except
        return traceback.format_exc()
    return None


def main():
    # What exporters print is not an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        found = answer(*json.loads(line))
        # They collect garbage often, which need not look at all that was imported each time.
        gc.freeze()
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
