#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of what scripts/evaluate_video.sh measured: DIRECTORY/NAME-tables.md, NAME.json and NAME-*.svg.

    apt install python3-matplotlib
    scripts/video_report.py RESULTS.jsonl DIRECTORY --name video
    scripts/video_report.py RESULTS.jsonl --compare docs/results/video.json   instead: fails where answers were lost
"""
import argparse
import json
import sys
from pathlib import Path

from evaluation_report import draw_agreement, legend, machine, mean, panels, plt, save, style, table, wilson

KINDS = ["end", "frame", "shape", "moves", "flashes", "when", "where"]
SPRITES = ["moving", "still", "flashing", "others"]
DRAWN = ["purekv_video", "purekv_video_no_norm", "novel", "novel_place", "probes", "probes_model", "snapkv", "criticalkv",
         "h2o", "streaming", "random", "tova", "purekv_paper"]
TOLERATED = 0.03  # of the questions at 5x, against the recorded share


def read(path):
    header, sets = None, {}
    with open(path) as file:
        for line in file:
            record = json.loads(line)
            if "of" in record:
                header = record["of"]
            elif "of_set" in record:
                sets.setdefault(record["of_set"], {"plan": json.loads(record["plan"]), "videos": []})
            elif "set" in record:
                sets[record["set"]]["videos"].append(record)
    return header, {name: s for name, s in sets.items() if s["videos"]}


def summarise_answers(videos):
    asked = [sum(video["asked"][k] for video in videos) for k in range(len(KINDS))]
    rows = []
    for i, row in enumerate(videos[0]["rows"]):
        each = [video["rows"][i] for video in videos]
        right = [sum(r["right"][k] for r in each) for k in range(len(KINDS))]
        low, high = wilson(sum(right), sum(asked))
        rows.append({"pattern": row["pattern"], "preset": row["preset"], "compression": row["compression"],
                     "right": sum(right), "asked": sum(asked), "low": low, "high": high,
                     "kinds": {kind: [r, a] for kind, r, a in zip(KINDS, right, asked)},
                     "bytes": mean([r["bytes"] for r in each]),
                     "kept": {sprite: mean([r["kept"][sprite] for r in each]) for sprite in SPRITES}})
    return rows


def summarise_times(videos):
    rows = []
    for i, row in enumerate(videos[0]["rows"]):
        each = [video["rows"][i] for video in videos]
        entry = {key: row[key] for key in ("pattern", "preset", "compression", "visible", "executed")}
        for key in ("seconds", "attention_seconds", "compression_seconds", "bytes"):
            entry[key] = sorted(r[key] for r in each)[len(each) // 2]
        rows.append(entry)
    return rows


def percent(share, decimals=1):
    return f"{100 * share:.{decimals}f}"


def smaller(row):
    return "-" if row["preset"] == "full" else f"{row['compression']}x"


def answers_table(rows):
    return table(["pattern", "preset", "smaller", "right, %", "95 %", *KINDS, "cache kB", "kept: moving", "still", "flashing",
                  "others"],
                 [[r["pattern"], r["preset"], smaller(r), percent(r["right"] / r["asked"]),
                   f"{percent(r['low'])}-{percent(r['high'])}",
                   *(percent(r["kinds"][k][0] / max(r["kinds"][k][1], 1), 0) for k in KINDS), f"{r['bytes'] / 1e3:.0f}",
                   *(f"{r['kept'][s]:.2f}" for s in SPRITES)] for r in rows])


def times_table(rows):
    dense = rows[0]
    return table(["pattern", "preset", "smaller", "visible", "executed", "video's pass, ms", "attention ms",
                  "dense attention / this", "compression ms", "cache kB"],
                 [[r["pattern"], r["preset"], smaller(r), f"{r['visible']:.3f}", f"{r['executed']:.3f}",
                   f"{1e3 * r['seconds']:.1f}", f"{1e3 * r['attention_seconds']:.2f}",
                   f"{dense['attention_seconds'] / r['attention_seconds']:.2f}", f"{1e3 * r['compression_seconds']:.2f}",
                   f"{r['bytes'] / 1e3:.0f}"] for r in rows])


def reach_of(row):
    """What an error bar reaches below and above, in percent."""
    share = row["right"] / row["asked"]
    return max(0.0, 100 * (share - row["low"])), max(0.0, 100 * (row["high"] - share))


def draw_compressions(sets, path):
    figure, axes = panels(len(sets))
    for (name, rows), axis in zip(sets.items(), axes):
        full = rows[0]
        axis.axhline(100 * full["right"] / full["asked"], color="0.6", linewidth=1, label="full cache")
        for i, preset in enumerate(DRAWN):
            points = sorted((r for r in rows if (r["pattern"], r["preset"]) == ("dense", preset)),
                            key=lambda r: r["compression"])
            if len(points) < 2:
                continue
            y = [100 * r["right"] / r["asked"] for r in points]
            reach = [*zip(*(reach_of(r) for r in points))]
            axis.errorbar([r["compression"] * (1 + 0.01 * (i - len(DRAWN) / 2)) for r in points], y, reach, capsize=2,
                          label=preset, **style(i))
        axis.set_xscale("log")
        ticks = sorted({r["compression"] for r in rows if r["preset"] != "full"})
        axis.set_xticks(ticks, [f"{t}x" for t in ticks])
        axis.minorticks_off()
        axis.set_title(f"{name}, {full['asked']} questions", fontsize=9)
        axis.set_xlabel("how much smaller", fontsize=9)
    legend(axes)
    save(figure, path)


def draw_patterns(answers, times, path):
    """Training-free and fine-tuned accuracy over the share of pairs that is seen."""
    figure, axes = panels(1, 6.5)
    visible = {r["pattern"]: r["visible"] for r in times if r["preset"] == "full"}
    colours = {pattern: style(i) for i, pattern in enumerate(visible)}
    for name, rows in answers.items():
        tuned = "tuned" in name
        for r in rows:
            if r["preset"] != "full" or r["pattern"] not in visible:
                continue
            look = colours[r["pattern"]] | {"linestyle": "none", "markerfacecolor": "white"}
            if tuned:
                look["markerfacecolor"] = look["color"]
            y = 100 * r["right"] / r["asked"]
            axes[0].errorbar([visible[r["pattern"]]], [y], [[side] for side in reach_of(r)], capsize=2,
                             label=r["pattern"] + (", fine-tuned" if tuned else ""), **look)
    axes[0].set_xlabel("pairs seen, of those that causality allows", fontsize=9)
    legend(axes)
    save(figure, path)


def compare(summaries, recorded):
    """Rows at 5x that the record has too: what was lost of the share of questions answered right."""
    lost = 0
    for name, rows in summaries.items():
        known = {(r["pattern"], r["preset"], r["compression"]): r for r in recorded["sets"].get(name, [])}
        for r in rows:
            before = known.get((r["pattern"], r["preset"], r["compression"]))
            if before is None or "right" not in r or r["compression"] not in (1, 5):
                continue
            here, there = r["right"] / r["asked"], before["right"] / before["asked"]
            bad = here < there - TOLERATED
            lost += bad
            print(f"{name}: {r['pattern']} {r['preset']} {smaller(r)}: {percent(here)} %, recorded {percent(there)} %"
                  + (": LOST" if bad else ""))
    return lost


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--name", default="video")
    parser.add_argument("--compare", type=Path, metavar="JSON")
    arguments = parser.parse_args()
    header, sets = read(arguments.results)
    if header is None:
        parser.error(f"{arguments.results} holds no results of scripts/evaluate_video.sh")
    kind = {name: s["plan"].get("measure", "answers") for name, s in sets.items()}
    answers = {name: summarise_answers(s["videos"]) for name, s in sets.items() if kind[name] == "answers"}
    times = {name: summarise_times(s["videos"]) for name, s in sets.items() if kind[name] == "time"}
    if arguments.compare:
        sys.exit(compare(answers, json.loads(arguments.compare.read_text())) > 0)
    if arguments.directory is None:
        parser.error("a directory for the tables is needed")

    arguments.directory.mkdir(parents=True, exist_ok=True)
    file = lambda end: arguments.directory / f"{arguments.name}{end}"
    seconds = sum(video["seconds"] for s in sets.values() for video in s["videos"])
    facts = dict(header, machine=machine(), processor_seconds=round(seconds))
    with open(file(".json"), "w") as out:
        json.dump({"of": facts, "sets": answers | times}, out, indent=1)
        out.write("\n")
    text = [f"# {arguments.name}: every row\n", "Written by `scripts/video_report.py`.\n",
            table(["of", ""], [[key, str(value)] for key, value in facts.items()])]
    for name, s in sets.items():
        if kind[name] == "layers":
            continue
        plan = s["plan"]
        about = [f"{len(s['videos'])} videos", f"model `{plan.get('model', 'video')}`"]
        if kind[name] == "answers":
            about.append("compressed before the questions are known" if plan.get("agnostic", True)
                         else "the question is part of the prompt")
        else:
            about.append("one thread, medians")
        text += [f"## {name}\n", ", ".join(about) + ".\n",
                 answers_table(answers[name]) if kind[name] == "answers" else times_table(times[name])]
    with open(file("-tables.md"), "w") as out:
        out.write("\n".join(text))

    drawn = {name: rows for name, rows in answers.items() if any(r["compression"] > 5 for r in rows)
             and not name.startswith(("source", "purified"))}
    if drawn:
        draw_compressions(drawn, file("-compression.svg"))
    patterns = {name: rows for name, rows in answers.items() if name.startswith("patterns")}
    if patterns and times:
        draw_patterns(patterns, next(iter(times.values())), file("-patterns.svg"))
    for name, s in sets.items():
        if kind[name] == "layers":
            draw_agreement(s["videos"], file("-agreement.svg"))
    print(f"{file('-tables.md')}: {seconds / 60:.0f} processor minutes")


if __name__ == "__main__":
    main()
