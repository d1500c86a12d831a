#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Which tokens each layer keeps over the document, from the JSON of `scripts/demo.sh --json FILE --kept`.

    apt install python3-matplotlib
    scripts/plot_kept.py FILE picture.svg --rows snapkv:10 purekv:10 purekv_deep:10
"""
import argparse
import json

import matplotlib

matplotlib.use("agg")
matplotlib.rcParams["svg.hashsalt"] = "purekv"  # the same picture for the same data
import matplotlib.pyplot as plt
import numpy as np

COLUMNS = 400  # cells across; each is the share of its tokens that the heads of a layer keep


def share_kept(layers, tokens):
    """[layers, COLUMNS]"""
    image = np.zeros((len(layers), COLUMNS))
    width = np.bincount(np.arange(tokens) * COLUMNS // tokens, minlength=COLUMNS)
    for row, heads in zip(image, layers):
        for positions in heads:
            inside = np.array([p for p in positions if p < tokens], dtype=int)  # not the answer
            row += np.bincount(inside * COLUMNS // tokens, minlength=COLUMNS)
        row /= width * len(heads)
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("picture")
    parser.add_argument("--rows", nargs="+", metavar="PRESET:COMPRESSION", help="default: every row that evicts")
    arguments = parser.parse_args()

    with open(arguments.data) as file:
        table = json.load(file)["table"]
    rows = [row for row in table["rows"] if row["compression"] > 1]
    if arguments.rows:
        wanted = [tuple(name.rsplit(":", 1)) for name in arguments.rows]
        rows = [row for w in wanted for row in rows if (row["preset"], str(row["compression"])) == w]
    if not rows or "kept" not in rows[0]:
        parser.error(f"{arguments.data} has no such row with kept tokens: run the demo with --json and --kept")

    figure, axes = plt.subplots(len(rows), 1, figsize=(10, 1.5 * len(rows) + 0.6), sharex=True, squeeze=False,
                                layout="constrained")
    for row, axis in zip(rows, axes[:, 0]):
        tokens, layers = row["prompt_tokens"], row["kept"]
        image = axis.imshow(share_kept(layers, tokens), cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower",
                            interpolation="nearest", extent=(0, tokens, -0.5, len(layers) - 0.5))
        verdict = "" if "right" not in row else ", right" if row["right"] else ", wrong"
        answer = row["answer"].strip().partition("\n")[0]
        axis.set_title(f"{row['preset']}, {row['compression']}x smaller: \u201c{answer}\u201d{verdict}",
                       loc="left", fontsize=9)
        axis.set_ylabel("layer", fontsize=8)
        axis.tick_params(labelsize=8)
        if "fact" in table:
            begin, end = table["fact"]
            axis.annotate("", xy=((begin + end) / 2, -0.5), xytext=(0, -9), textcoords="offset points",
                          annotation_clip=False, arrowprops={"arrowstyle": "-|>", "color": "#d55e00"})
    axes[-1, 0].set_xlabel("position in the prompt; the arrow points at the hidden fact", fontsize=8)
    bar = figure.colorbar(image, ax=axes[:, 0].tolist(), fraction=0.02, pad=0.01)
    bar.set_label("share kept by the layer's heads", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.savefig(arguments.picture, metadata={"Date": None} if arguments.picture.endswith(".svg") else None)


if __name__ == "__main__":
    main()
