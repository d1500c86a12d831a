#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Share of hidden facts answered against compression, from the JSON of `scripts/demo.sh --needle N --json FILE`.

    apt install python3-matplotlib
    scripts/plot_needle.py FILE picture.svg
"""
import argparse
import json

import matplotlib

matplotlib.use("agg")
matplotlib.rcParams["svg.hashsalt"] = "purekv"  # the same picture for the same data
import matplotlib.pyplot as plt

# Okabe and Ito's colours, told apart by the colour-blind; markers and dashes repeat what they say.
STYLES = [("#0072b2", "o", "-"), ("#d55e00", "s", "--"), ("#009e73", "^", "-."), ("#cc79a7", "D", ":"),
          ("#e69f00", "v", "-"), ("#56b4e9", "P", "--"), ("#000000", "X", "-.")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("picture")
    arguments = parser.parse_args()
    with open(arguments.data) as file:
        runs = json.load(file).get("needles")
    if not runs:
        parser.error(f"{arguments.data} has no needles: run the demo with --needle and --json")

    figure, axes = plt.subplots(1, len(runs), figsize=(4.6 * len(runs) + 1.4, 3.6), sharey=True, squeeze=False,
                                layout="constrained")
    for run, axis in zip(runs, axes[0]):
        full = run["full"]
        axis.axhline(100 * full["right"] / full["of"], color="0.6", linewidth=1, label="full cache")
        presets = list(dict.fromkeys(row["preset"] for row in run["presets"]))
        ratios = sorted({row["compression"] for row in run["presets"]})
        for i, preset in enumerate(presets):
            colour, marker, dashes = STYLES[i % len(STYLES)]
            rows = sorted((r for r in run["presets"] if r["preset"] == preset), key=lambda r: r["compression"])
            x = [r["compression"] * (1 + 0.02 * (i - len(presets) / 2)) for r in rows]  # apart, so that bars are seen
            y = [100 * r["right"]["right"] / r["right"]["of"] for r in rows]
            reach = [[max(0.0, s - 100 * r["right"]["low"]) for s, r in zip(y, rows)],
                     [max(0.0, 100 * r["right"]["high"] - s) for s, r in zip(y, rows)]]
            axis.errorbar(x, y, reach, color=colour, marker=marker, linestyle=dashes, markersize=5, linewidth=1.2,
                          capsize=2, label=preset)
        axis.set_xscale("log")
        axis.set_xticks(ratios, [f"{r}x" for r in ratios])
        axis.minorticks_off()
        axis.set_ylim(-3, 103)
        axis.set_title(f"{full['of']} documents of {run['tokens']} tokens", fontsize=9)
        axis.set_xlabel("cache smaller by", fontsize=9)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("answered right, %", fontsize=9)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
    figure.savefig(arguments.picture, metadata={"Date": None} if arguments.picture.endswith(".svg") else None)


if __name__ == "__main__":
    main()
