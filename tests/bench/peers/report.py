#!/usr/bin/env python3
"""Writes the tables and the plot of docs/performance.md from compare.py's results.

    report.py RESULTS.json [--page docs/performance.md] [--no-plot]

Tables go between the page's two markers that name phid's kernel set, or to its end if it has none,
so that a run on one kind of machine leaves those of the others; nothing else of the page is touched.
The plot lies beside the page. Every figure is the median of the rounds, with the least and the greatest behind it.
"""

import argparse
import json
import pathlib
import statistics
import sys

from catalogue import ENTRIES, HERE, PRECISIONS

ROOT = HERE.parents[2]
BEGIN, END = "<!-- peers {}: begin -->", "<!-- peers {}: end -->"
# A run is named disturbed when others took more of the CPUs' time than this.
DISTURBED = 0.05
PRECISION_NAMES = {"int4": "INT4", "int8": "INT8", "fp16": "FP16", "fp32": "FP32"}
COLOURS = {"phid": "#1f6feb", "llama.cpp": "#8a8f98", "onnxruntime": "#d98c2b",
           "openvino": "#6f9e4c", "mlx": "#a36bb5"}


class Cell:
    """One measure of one entry over all rounds."""

    def __init__(self, runs, value):
        self.failed = next((run["failed"] for run in runs if "failed" in run), None)
        self.values = sorted(value(run) for run in runs if "failed" not in run)

    @property
    def median(self):
        return statistics.median(self.values) if self.values else None

    def text(self, notes):
        if self.values:
            low, high = number(self.values[0]), number(self.values[-1])
            spread = f" ({low} to {high})" if low != high else ""
            return number(self.median) + spread
        if self.failed is None:
            return "-"
        reason = " ".join(self.failed.split())
        if reason not in notes:
            notes.append(reason)
        return f"no [{notes.index(reason) + 1}]"


def number(value):
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"


def speed(run):
    return run["tokens_per_s"]


def started(run):
    return run["start_s"]


def memory(run):
    return run["memory_mib"]["after"]["pss"]


def columns_of(runs):
    """Heading, measure and value of each column; as long as something was measured for it."""
    found = {run["measure"] for run in runs}
    lengths = sorted(int(name.split("-")[1]) for name in found if name.startswith("prefill-"))
    batches = sorted(int(name.split("-x")[1]) for name in found if name.startswith("decode-x"))
    columns = [("start, s", "start", started), ("memory, MiB", "start", memory)]
    columns += [(f"prefill of {n}", f"prefill-{n}", speed) for n in lengths]
    columns += [("decode", "decode", speed)]
    columns += [(f"decode of {n}", f"decode-x{n}", speed) for n in batches]
    return [column for column in columns if column[1] in found]


def rows_of(runs, precision):
    """(entry, its runs) in the catalogue's order."""
    for entry in ENTRIES:
        own = [run for run in runs if run["precision"] == precision and
               run["engine"] == entry.engine and run["variant"] == entry.variant]
        if own:
            yield entry, own


def cell(own, measure, value):
    return Cell([run for run in own if run["measure"] == measure], value)


def table(runs, precision, notes):
    columns = columns_of([run for run in runs if run["precision"] == precision])
    lines = ["| engine | weights | file, MB | " + " | ".join(c[0] for c in columns) + " |",
             "| --- | --- | ---: |" + " ---: |" * len(columns)]
    for entry, own in rows_of(runs, precision):
        cells = [cell(own, measure, value).text(notes) for _, measure, value in columns]
        size = max(run.get("bytes", 0) for run in own) / 1e6
        lines.append(f"| {entry.engine} | {entry.variant} | {size:.0f} | " +
                     " | ".join(cells) + " |")
    return lines


def kernel_set(runs):
    """Which of phid's kernels ran."""
    found = sorted({run["isa"] for run in runs if "isa" in run})
    if len(found) != 1:
        sys.exit(f"phid's runs name {len(found)} kernel sets, not one: {', '.join(found)}")
    return found[0]


def ceilings(runs):
    """What the machine could do at most, by phid's own measurement around each of its runs."""
    found = [side for run in runs if "ceilings" in run
             for side in (run["ceilings"]["before"], run["ceilings"]["after"])]
    if not found:
        return []
    lines = []
    for key, name in (("read_bytes_per_s", "GB/s read from memory"),
                      ("int8_ops_per_s", "GOP/s of int8"), ("fp32_ops_per_s", "GOP/s of fp32")):
        values = sorted(side[key] / 1e9 for side in found if side[key])
        if values:
            lines.append(f"{number(statistics.median(values))} {name} "
                         f"({number(values[0])} to {number(values[-1])})")
    return [f"phid's kernels: {kernel_set(runs)}. The machine's ceilings, measured before and after "
            f"each of phid's runs: {'; '.join(lines)}."]


def shares(runs):
    """phid's speed as a share of the ceiling that binds."""
    parts = []
    for precision in PRECISIONS:
        for entry, runs_of_entry in rows_of(runs, precision):
            for _, measure, value in columns_of(runs_of_entry):
                own = [run["share"]["of_limit"] for run in runs_of_entry if
                       run["measure"] == measure and
                       run.get("share") and run["share"]["of_limit"]]
                if entry.engine == "phid" and value is speed and own:
                    parts.append(f"{entry.variant} {measure} {100 * statistics.median(own):.0f}%")
    return [f"phid's share of the ceiling that binds: {', '.join(parts)}."] if parts else []


def layers_text(runs):
    """Where not all of the shape's layers were taken."""
    text = ""
    for layers in sorted({run["layers"] for run in runs if run["layers"]}):
        found = {run["precision"] for run in runs if run["layers"] == layers}
        names = ", ".join(PRECISION_NAMES[name] for name in PRECISIONS if name in found)
        text += f" {layers} of the layers for {names}."
    return text


def page_text(data, plot):
    runs, notes = data["runs"], []
    versions = sorted({run["version"] for run in runs if "version" in run})
    rounds = max(run["round"] for run in runs)
    shapes = " and ".join(sorted({run["shape"] for run in runs}))
    threads = " and ".join(map(str, sorted({run["threads"] for run in runs})))
    disturbed = sum(run.get("others_share", 0) > DISTURBED for run in runs)
    lines = [f"Measured on {data['date']} at commit {data['commit']}: {data['cpu']}, "
             f"{data['cpus']} CPUs, {threads} threads; shape {shapes}."
             f"{layers_text(runs)} Rounds: up to {rounds}. {'; '.join(versions)}."]
    if disturbed:
        lines.append(f"In {disturbed} of {len(runs)} runs other programs took more than "
                     f"{100 * DISTURBED:.0f}% of the CPUs' time: the figures are low and uneven.")
    lines += ceilings(runs) + shares(runs)
    text = "\n\n".join(lines)
    for precision in PRECISIONS:
        if any(run["precision"] == precision for run in runs):
            text += f"\n\n#### {PRECISION_NAMES[precision]}\n\n" + "\n".join(
                table(runs, precision, notes))
    for index, note in enumerate(notes, 1):
        text += f"\n\n[{index}] {note[:400]}"
    if plot:
        text += f"\n\n![Speeds of the engines side by side]({plot})"
    return text


def write_page(path, kernels, text):
    begin, end = BEGIN.format(kernels), END.format(kernels)
    page = path.read_text()
    if begin not in page:
        page += f"\n### Kernels: {kernels}\n\n{begin}\n{end}\n"
    head, _, rest = page.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_end:
        sys.exit(f"{path} has {begin} without {end}")
    path.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}")


def panel(axis, runs, measure):
    """Bars of one measure, a group for each precision; drawn from zero."""
    place, ticks = 0.0, []
    for precision in PRECISIONS:
        begin = place
        for entry, own in rows_of(runs, precision):
            found = cell(own, measure, speed)
            if found.values:
                spread = [[found.median - found.values[0]], [found.values[-1] - found.median]]
                axis.bar(place, found.median, 0.9, color=COLOURS[entry.engine], yerr=spread,
                         error_kw={"elinewidth": 0.8, "capsize": 2})
                axis.text(place, found.values[-1], f"{entry.variant}\n{number(found.median)}",
                          ha="center", va="bottom", fontsize=6)
                place += 1
        if place > begin:
            ticks.append(((begin + place - 1) / 2, PRECISION_NAMES[precision]))
            place += 0.8
    axis.set_xticks([at for at, _ in ticks], [name for _, name in ticks])
    axis.set_ylabel("tokens/s")
    axis.set_title(measure, fontsize=9)
    axis.margins(y=0.2)
    axis.spines[["top", "right"]].set_visible(False)


def write_plot(path, data):
    """An SVG whose texts are texts; the same results give the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "phid", "font.size": 8})
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    runs = data["runs"]
    measures = [measure for _, measure, value in columns_of(runs) if value is speed]
    figure, axes = pyplot.subplots(len(measures), 1, squeeze=False,
                                   figsize=(9, 2.4 * len(measures)))
    for axis, measure in zip(axes.flat, measures):
        panel(axis, runs, measure)
    seen = {run["engine"] for run in runs if "tokens_per_s" in run}
    figure.legend(handles=[Patch(color=colour, label=engine)
                           for engine, colour in COLOURS.items() if engine in seen],
                  loc="upper center", ncols=len(seen), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "docs/performance.md")
    parser.add_argument("--no-plot", action="store_true")
    arguments = parser.parse_args()
    data = json.loads(arguments.results.read_text())
    drawn = not arguments.no_plot and any("tokens_per_s" in run for run in data["runs"])
    kernels = kernel_set(data["runs"])
    plot = arguments.page.with_name(f"performance-peers-{kernels}.svg")
    if drawn:
        write_plot(plot, data)
    write_page(arguments.page, kernels, page_text(data, plot.name if drawn else None))


if __name__ == "__main__":
    main()
