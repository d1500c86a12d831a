#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of what scripts/evaluate.sh measured: DIRECTORY/NAME-tables.md, NAME.json and NAME-*.svg.

    apt install python3-matplotlib
    scripts/evaluation_report.py RESULTS.jsonl DIRECTORY --name text [--model FILE]
"""
import argparse
import hashlib
import json
import math
import os
import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")
matplotlib.rcParams["svg.hashsalt"] = "purekv"  # the same picture for the same data
import matplotlib.pyplot as plt

# Okabe and Ito's colours, told apart by the colour-blind; markers and dashes repeat what they say.
STYLES = [("#0072b2", "o", "-"), ("#d55e00", "s", "--"), ("#009e73", "^", "-."), ("#cc79a7", "D", ":"),
          ("#e69f00", "v", "-"), ("#56b4e9", "P", "--"), ("#000000", "X", "-."), ("#666666", "*", ":")]
DRAWN = ["purekv_deep", "purekv", "purekv_drop", "snapkv", "snapkv_spans", "tova", "streaming", "purekv_paper",
         "kvzip", "h2o", "expected_attention"]


def wilson(right, count):
    z = 1.959964
    p, zz = right / count, z * z / count
    middle, reach = p + zz / 2, z * math.sqrt(p * (1 - p) / count + zz / (4 * count))
    return max(0.0, (middle - reach) / (1 + zz)), min(1.0, (middle + reach) / (1 + zz))


def mean(values):
    return sum(values) / len(values)


def standard_error(values):
    m = mean(values)
    return math.sqrt(sum((v - m) ** 2 for v in values) / (len(values) - 1) / len(values)) if len(values) > 1 else 0.0


def read(path):
    header, sets = None, {}
    with open(path) as file:
        for line in file:
            record = json.loads(line)
            if "of" in record:
                header = record["of"]
            elif "set" in record:
                sets.setdefault(record["set"], []).append(record)
    for records in sets.values():
        records.sort(key=lambda record: record["document"])
    return header, sets


def rows_of(records):
    """{(preset, compression): [row of each document]}; the full cache is ("full", 1)."""
    rows = {}
    for record in records:
        if "full" in record:
            rows.setdefault(("full", 1), []).append(record["full"])
        for row in record.get("rows") or []:
            rows.setdefault((row["preset"], row["compression"]), []).append(row)
    return rows


def summarise(records):
    summary = []
    for (preset, compression), rows in rows_of(records).items():
        entry = {"preset": preset, "compression": compression, "documents": len(rows)}
        if "prefill_seconds" in rows[0]:
            for key in ("prefill_seconds", "attention_seconds", "compression_seconds", "repetition_seconds",
                        "decoded_tokens_per_second", "cache_bytes", "peak_cache_bytes"):
                entry[key] = mean([row[key] for row in rows])
        else:
            entry["bytes"] = mean([row["bytes"] for row in rows])
            entry["nll"] = mean([row["nll"] for row in rows])
            entry["nll_error"] = standard_error([row["nll"] for row in rows])
        if "right" in rows[0]:
            entry["right"] = sum(row["right"] for row in rows)
            entry["found"] = sum(row["found"] for row in rows)
            entry["low"], entry["high"] = wilson(entry["right"], len(rows))
            full = [record["full"]["right"] for record in records]
            entry["of_full"] = sum(row["right"] and whole for row, whole in zip(rows, full))
            entry["full_right"] = sum(full)
        summary.append(entry)
    return summary


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"] +
                     ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def ratio(entry):
    return "-" if entry["preset"] == "full" else f"{entry['compression']}x"


def answers_table(summary):
    return table(["preset", "smaller", "cache MB", "right", "95 %", "where full is right", "found", "nats per token"],
                 [[e["preset"], ratio(e), f"{e['bytes'] / 1e6:.2f}", f"{e['right']}/{e['documents']}",
                   f"{100 * e['low']:.0f}-{100 * e['high']:.0f} %", f"{e['of_full']}/{e['full_right']}", str(e["found"]),
                   f"{e['nll']:.3f} ± {e['nll_error']:.3f}"] for e in summary])


def perplexity_table(summary):
    full = next(e for e in summary if e["preset"] == "full")
    return table(["preset", "smaller", "cache MB", "perplexity", "of full", "nats per token"],
                 [[e["preset"], ratio(e), f"{e['bytes'] / 1e6:.2f}", f"{math.exp(e['nll']):.2f}",
                   f"{math.exp(e['nll'] - full['nll']):.3f}", f"{e['nll']:.3f} ± {e['nll_error']:.3f}"] for e in summary])


def time_table(summary):
    full = next(e for e in summary if e["preset"] == "full")
    return table(["preset", "smaller", "prefill s", "full / this", "attention s", "compression s", "repetition s",
                  "tokens/s", "cache MB", "peak MB"],
                 [[e["preset"], ratio(e), f"{e['prefill_seconds']:.2f}",
                   f"{full['prefill_seconds'] / (e['prefill_seconds'] + e['repetition_seconds']):.2f}",
                   f"{e['attention_seconds']:.2f}", f"{e['compression_seconds']:.3f}", f"{e['repetition_seconds']:.2f}",
                   f"{e['decoded_tokens_per_second']:.0f}", f"{e['cache_bytes'] / 1e6:.2f}",
                   f"{e['peak_cache_bytes'] / 1e6:.2f}"] for e in summary])


def style(i):
    colour, marker, dashes = STYLES[i % len(STYLES)]
    fill = colour if i < len(STYLES) else "white"  # a second round of colours has hollow markers
    return {"color": colour, "marker": marker, "markerfacecolor": fill, "linestyle": dashes, "markersize": 5,
            "linewidth": 1.2}


def save(figure, path):
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def panels(count, width=4.4):
    figure, axes = plt.subplots(1, count, figsize=(width * count + 1.6, 3.6), sharey=True, squeeze=False,
                                layout="constrained")
    axes[0, 0].set_ylabel("answered right, %", fontsize=9)
    for axis in axes[0]:
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.3)
    return figure, axes[0]


def legend(axes):
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    axes[-1].legend(entries.values(), entries.keys(), loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8,
                    frameon=False)


def draw_bytes(sets, path):
    figure, axes = panels(len(sets))
    for (name, summary), axis in zip(sets.items(), axes):
        full = summary[0]
        axis.axhline(100 * full["right"] / full["documents"], color="0.6", linewidth=1, label="full cache")
        for i, preset in enumerate(DRAWN):
            points = sorted((e for e in summary if e["preset"] == preset), key=lambda e: e["bytes"])
            if not points:
                continue
            x = [e["bytes"] / 1e6 * (1 + 0.015 * (i - len(DRAWN) / 2)) for e in points]  # apart, so that bars are seen
            y = [100 * e["right"] / e["documents"] for e in points]
            reach = [[max(0.0, s - 100 * e["low"]) for s, e in zip(y, points)],
                     [max(0.0, 100 * e["high"] - s) for s, e in zip(y, points)]]
            axis.errorbar(x, y, reach, capsize=2, label=preset, **style(i))
        axis.set_xscale("log")
        ticks = sorted({e["compression"] for e in summary if e["preset"] != "full"}, reverse=True)
        places = [min(e["bytes"] for e in summary if e["compression"] == c and e["preset"] != "full") / 1e6 for c in ticks]
        axis.set_xticks(places, [f"{p:.3g}\n{c}x" for p, c in zip(places, ticks)], fontsize=7)
        axis.minorticks_off()
        axis.set_title(f"{name}, {full['documents']} documents", fontsize=9)
        axis.set_xlabel("cache, MB, and how much smaller", fontsize=9)
    legend(axes)
    save(figure, path)


def draw_times(pairs, compression, path):
    figure, axes = panels(len(pairs))
    for (name, answers, times), axis in zip(pairs, axes):
        for i, preset in enumerate(["full"] + DRAWN):
            at = 1 if preset == "full" else compression
            right = next((e for e in answers if (e["preset"], e["compression"]) == (preset, at)), None)
            cost = next((e for e in times if (e["preset"], e["compression"]) == (preset, at)), None)
            if right is None or cost is None:
                continue
            y = 100 * right["right"] / right["documents"]
            look = style(i) | {"linestyle": "none"}
            axis.errorbar([cost["prefill_seconds"] + cost["repetition_seconds"]], [y],
                          [[max(0.0, y - 100 * right["low"])], [max(0.0, 100 * right["high"] - y)]], capsize=2,
                          label=preset, **look)
        axis.set_xlim(left=0)
        axis.set_title(f"{name}, {compression}x smaller", fontsize=9)
        axis.set_xlabel("seconds to the first token", fontsize=9)
    legend(axes)
    save(figure, path)


def draw_sources(summary, path):
    figure, axes = panels(1, 6.5)
    single = {}
    for entry in summary:
        if match := re.fullmatch(r"purekv_after@(\d+)", entry["preset"]):
            single.setdefault(entry["compression"], []).append((int(match[1]), entry))
    for i, (compression, points) in enumerate(sorted(single.items())):
        points.sort(key=lambda point: point[0])
        axes[0].plot([l for l, _ in points], [100 * e["right"] / e["documents"] for _, e in points],
                     label=f"one layer, {compression}x", **style(i))
    bands = [e for e in summary if re.fullmatch(r"purekv_after@\d+-\d+", e["preset"])]
    for i, entry in enumerate(e for e in bands if e["compression"] == max(single)):
        first, last = map(int, entry["preset"].split("@")[1].split("-"))
        y = 100 * entry["right"] / entry["documents"] - 1.2 * i
        axes[0].plot([first, last], [y, y], color="0.35", linewidth=3, alpha=0.6, solid_capstyle="butt",
                     label=f"bands, {entry['compression']}x" if i == 0 else None)
    axes[0].set_xlabel("source layer", fontsize=9)
    axes[0].set_title(f"{summary[0]['documents']} documents that nothing else is reported of", fontsize=9)
    legend(axes)
    save(figure, path)


def draw_agreement(records, path):
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 4.2), sharey=True, layout="constrained")
    titles = {"mass": "attention mass", "weighted": "mass x value norm"}
    for axis, (key, title) in zip(axes, titles.items()):
        matrices = [record["agreement"][key] for record in records]
        layers = len(matrices[0])
        average = [[mean([m[s][l] for m in matrices]) for l in range(layers)] for s in range(layers)]
        image = axis.imshow(average, vmin=0, vmax=1, cmap="cividis", origin="lower")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("layer that is ranked", fontsize=9)
    axes[0].set_ylabel("source layer", fontsize=9)
    figure.colorbar(image, ax=axes, label="Spearman's correlation")
    save(figure, path)


def machine():
    with open("/proc/cpuinfo") as file:
        names = re.findall(r"^model name\s*:\s*(.*)$", file.read(), re.M)
    return f"{os.cpu_count()} x {names[0] if names else 'unknown processor'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--name", default="evaluation")
    parser.add_argument("--model", help="its SHA-256 goes into the tables")
    arguments = parser.parse_args()
    header, sets = read(arguments.results)
    if header is None:
        parser.error(f"{arguments.results} holds no results of scripts/evaluate.sh")
    arguments.directory.mkdir(parents=True, exist_ok=True)
    file = lambda end: arguments.directory / f"{arguments.name}{end}"

    summaries = {name: summarise(records) for name, records in sets.items() if "agreement" not in records[0]}
    seconds = sum(record["seconds"] for records in sets.values() for record in records)
    facts = dict(header, machine=machine(), processor_seconds=round(seconds))
    if arguments.model:
        facts["model_sha256"] = hashlib.sha256(Path(arguments.model).read_bytes()).hexdigest()
    with open(file(".json"), "w") as out:
        json.dump({"of": facts, "sets": summaries}, out, indent=1)
        out.write("\n")

    text = [f"# {arguments.name}: every row\n", "Written by `scripts/evaluation_report.py`.\n",
            table(["of", ""], [[key, str(value)] for key, value in facts.items()])]
    for name, summary in summaries.items():
        if "prefill_seconds" in summary[0]:
            text += [f"## {name}\n", f"Mean of {summary[0]['documents']} documents, all threads.\n", time_table(summary)]
        elif "right" in summary[0]:
            text += [f"## {name}\n", answers_table(summary)]
        else:
            text += [f"## {name}\n", f"{summary[0]['documents']} documents.\n", perplexity_table(summary)]
    with open(file("-tables.md"), "w") as out:
        out.write("\n".join(text))

    answers = {name: s for name, s in summaries.items() if "right" in s[0] and not name.startswith("source")}
    by_bytes = {name: s for name, s in answers.items() if name.startswith(("digits", "agnostic"))}
    if by_bytes:
        draw_bytes(by_bytes, file("-bytes.svg"))
    pairs = [(name, s, summaries[time]) for name, s in answers.items()
             if (time := name.replace("digits", "time")) in summaries and name.startswith("digits")]
    if pairs:
        draw_times(pairs, 10, file("-time.svg"))
    for name, summary in summaries.items():
        if name.startswith("source"):
            draw_sources(summary, file("-source.svg"))
    for records in sets.values():
        if "agreement" in records[0]:
            draw_agreement(records, file("-agreement.svg"))
    print(f"{file('-tables.md')}: {seconds / 60:.0f} processor minutes")


if __name__ == "__main__":
    main()
