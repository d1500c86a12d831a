#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of what scripts/bench_cpu.sh measured: DIRECTORY/NAME-tables.md, NAME.json and NAME-*.svg.

    apt install python3-matplotlib
    scripts/bench_cpu_report.py PART.json... DIRECTORY [--name cpu] [--fact KEY=VALUE]...
    scripts/bench_cpu_report.py --json NAME.json DIRECTORY      again, from what an earlier report wrote
    scripts/bench_cpu_report.py --check                         does it judge a small sample as it should
"""
import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

from evaluation_report import machine, plt, save, style, table

# What Google Benchmark writes of every benchmark besides its name, label and counters.
FIELDS = {"name", "label", "family_index", "per_family_instance_index", "run_name", "run_type", "repetitions",
          "repetition_index", "threads", "iterations", "real_time", "cpu_time", "time_unit", "error_occurred",
          "error_message", "skipped", "skip_message"}
PERCENT = {"share", "best_share", "peer_share", "peer_best_share", "of_product", "of_read", "best_of_read", "of_peak",
           "of_machine", "visible", "executed", "efficiency", "density", "cost", "source", "score", "select", "compact",
           "total"}


def short(name):
    return re.sub(r"/(manual_time|iterations:\d+|min_time:[\d.]+)|purekv::", "", name)


def read(paths):
    """Parts by name, and what their programs say of the peers."""
    parts, peers = {}, {}
    for path in paths:
        part = json.loads(path.read_text())
        peers |= {f"without {peer}": why for peer, why in part["context"].get("missing", {}).items()}
        peers |= {key: part["context"][key] for key in ("torch", "kvpress") if key in part["context"]}
        parts[path.stem.removeprefix("part-")] = [b | {"name": short(b["name"])} for b in part["benchmarks"]]
    return parts, peers


class Rows:
    """Benchmarks that gave figures, looked for by their names."""

    def __init__(self, parts):
        self.all = {b["name"]: b for part in parts.values() for b in part if not b.get("error_occurred")}
        self.failed = {b["name"]: b.get("error_message", "") for part in parts.values() for b in part
                       if b.get("error_occurred")}

    def of(self, pattern):
        return [b for name, b in self.all.items() if re.search(pattern, name)]


def percent(share, decimals=1):
    return f"{100 * share:.{decimals}f} %"


def number(x):
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def times(ratio):
    return f"{number(ratio)}x"


class Goal:
    """A figure of all benchmarks that match: the worst of them counts. limits: {counter: least}, or most where
    at_most. peer: what of the peer stands beside it. why: what is known to stand in the way where it is missed."""

    def __init__(self, figure, pattern, limits, show=times, at_most=False, peer=None, also=None, why=""):
        self.figure, self.pattern, self.limits, self.show, self.at_most = figure, pattern, limits, show, at_most
        self.peer, self.also, self.why = peer, also, why

    def worst(self, rows, counter):
        values = [b[counter] for b in rows if counter in b]
        return (max if self.at_most else min)(values) if values else None

    def judge(self, rows):
        found = rows.of(self.pattern)
        sign = "<=" if self.at_most else ">="
        wanted = ", ".join(f"{label(c)}{sign} {self.show(x)}" for c, x in self.limits.items())
        values = {c: self.worst(found, c) for c in self.limits}
        if not found or None in values.values():
            failed = [why for name, why in rows.failed.items() if re.search(self.pattern, name)]
            return [self.figure, wanted, "-", "-", f"not measured{': ' + failed[0] if failed else ''}"]
        met = all(x <= self.limits[c] if self.at_most else x >= self.limits[c] for c, x in values.items())
        figure = ", ".join(f"{label(c)}{self.show(x)}" for c, x in values.items())
        if self.also:
            figure += f" ({self.also[0]} {self.also[1](self.worst(found, self.also[2]))})"
        peer = self.peer(found) if self.peer else "-"
        return [self.figure, wanted, figure, peer, "yes" if met else "no" + (f": {self.why}" if self.why else "")]


def label(counter):
    return {"best": "best ", "share": "median ", "best_share": "best "}.get(counter, "")


def rate_of_peer(found):
    """Its rate, and its share of the machine's limit."""
    b = found[0]
    unit = "GB/s" if "decode" in b["name"] else "Gflop/s"
    return f"{b['peer_rate']:.3g} {unit}, {percent(b['peer_share'], 0)} of the machine's, ours {percent(b['share'], 0)}"


def time_of_peer(found):
    return f"{number(found[0]['peer_ms'])} ms, ours {number(found[0]['ms'])}"


def goals():
    dense = "of multiply-add peak"
    both = {"best": .86, "share": .82}
    median = ("median", times, "speedup")
    all_goals = [Goal(f"dense causal, d 128, 4k-16k, {t}, {dense}", rf"^dense<{t}>/dim:128/", both, percent)
                 for t in ("float", "half", "bfloat16")]
    all_goals += [Goal(f"the same, d {d}, worst of three types", rf"^dense<\w+>/dim:{d}/", {"best": least}, percent)
                  for d, least in ((64, .82), (80, .78), (96, .78))]
    all_goals += [Goal(f"against ggml's flash_attn_ext, d {d}, {t} cache", rf"^ggml/prefill/{t}/dim:{d}/", {"best": least},
                       peer=rate_of_peer, also=median)
                  for d, t, least in ((128, "half", 3.3), (64, "half", 4.7), (128, "float", 3.3), (64, "float", 4.7),
                                      (128, "bfloat16", 12))]
    all_goals += [Goal(f"against PyTorch's SDPA, {t}, d {d}", rf"^torch/prefill/{t}/dim:{d}/.*kv_heads:4", {"best": least},
                       peer=rate_of_peer, also=median)
                  for t, least in (("float32", 1.3), ("float16", 1.3), ("bfloat16", 2.2)) for d in (128, 64)]
    all_goals += [
        Goal("two threads over one, prefill", r"^threads/prefill/half/dim:", {"best": 1.9},
             peer=lambda found: f"a multiply-add loop: {times(found[0]['machine'])}",
             also=("of what two cores give", percent, "of_machine"), why="see what the loop gains"),
        Goal("scattered blocks, density 10 %, 16k: share of the ideal time", r"^scattered.*percent:10/tokens:16384",
             {"efficiency": .93}, percent),
        Goal("the same, density 5 %", r"^scattered.*percent:5/tokens:16384", {"efficiency": .90}, percent)]
    all_goals += [Goal(f"ST-SpAttn over own dense, {name}", rf"^spatial_temporal.*/prompt:{i}/planned:1/reading:0",
                       {"best": least}, also=("pairs executed", percent, "executed"))
                  for i, name, least in ((0, "VideoLLaMA2, 16 frames", 2.9), (2, "Qwen2.5-VL, 16 frames", 9),
                                         (3, "Qwen2.5-VL, 32 frames", 19))]
    all_goals += [
        Goal("mass of blocks of 64 keys over dense, 4k", r"^taps.*block", {"cost": .01}, percent, True),
        Goal("mass of the last 32 queries over dense, 4k", r"^taps.*window:32$", {"cost": .012}, percent, True),
        Goal("mass of all queries over dense, 4k", r"^taps.*window:0$", {"cost": .50}, percent, True),
        Goal("decoding, 28 heads, 4 KV heads, 16k, half, of streaming read",
             r"^decode<half>/group:7/dim:128/tokens:16384", {"best_of_read": .80}, percent,
             also=("median", percent, "of_read")),
        Goal("the same against ggml", r"^ggml/decode/half/tokens:16384", {"best": 6.5}, peer=rate_of_peer, also=median),
        Goal("decoding with a ragged cache 5x smaller", r"^ragged_gain/times:5", {"best": 4.9}, also=median),
        Goal("half cache against float, decoding", r"^decode_against_float<half>$", {"best": 1.9}, also=median),
        Goal("bfloat16 cache against float, decoding", r"^decode_against_float<bfloat16>$", {"best": 1.9}, also=median),
        Goal("half cache against float, prefill", r"^prefill_against_float<half>", {"best": .97}, also=median),
        Goal("bfloat16 cache against float, prefill", r"^prefill_against_float<bfloat16>", {"best": .97}, also=median),
        Goal("score, select, compact: SnapKV, 5x, 8k, of dense", r"^share_of_attention<snapkv", {"total": .02}, percent,
             True),
        Goal("the same with CLIE, source included", r"^share_of_attention<purekv_early", {"total": .02}, percent, True),
        Goal("top-k over std::nth_element", r"^top_k", {"best": 3}, also=median)]
    no_peer = "nothing is computed in either; what is timed is the call"
    products = "matrix products, which are MKL's in kvpress"
    reasons = {"critical": products, "future_attention": products, "recency": no_peer, "uniform_random": no_peer}
    all_goals += [Goal(f"against kvpress: {name}", rf"^kvpress/{name}/", {"best": 10}, peer=time_of_peer, also=median,
                       why=reasons.get(name, ""))
                  for name in ("key_norm", "window_attention", "last_attention", "accumulated_attention",
                               "future_attention", "critical", "uniform_random", "recency")]
    all_goals += [
        Goal("512 queries against 4k-64k keys, of multiply-add peak", r"^chunk<half>", {"best": .80}, percent,
             also=("median", percent, "share")),
        Goal("prune-then-attend, a layer at 5x, 8k, over own dense", r"^prune_then_attend", {"best": 4}, also=median)]
    return all_goals


def cell(b, key):
    x = b[key]
    if key in PERCENT or (key == "best" and "speedup" not in b):  # of the machine's limit
        return percent(x)
    return number(x)


def details(benchmarks):
    counters = []
    for b in benchmarks:
        counters += [key for key in b if key not in FIELDS and key not in counters]
    rows = []
    for b in benchmarks:
        name = f"`{b['name']}`" + (f" {b['label']}" if b.get("label") else "")
        figures = [cell(b, c) if c in b else "" for c in counters]
        rows.append([name, *([b.get("error_message", "failed")] + [""] * (len(counters) - 1) if b.get("error_occurred")
                             else figures)])
    return table(["benchmark", *counters], rows)


def argument(b, name):
    return int(re.search(rf"/{name}:(\d+)", b["name"])[1])


def finish(axis, title, x, y):
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.grid(alpha=0.3)


def beside(axis):
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)


def draw_roofline(rows, path):
    dense, decoding = rows.of(r"^dense<half>"), rows.of(r"^decode<half>")
    if not dense or not decoding:
        return
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    peak = max(b["machine_Gflop/s"] for b in dense + decoding)
    reading = max(b["machine_GB/s"] for b in decoding)
    x = [0.25, peak / reading, 20000]
    axis.plot(x, [min(peak, reading * i) for i in x], color="0.4", label="this core: memory, multiply-adds")
    points = [("decoding, half, groups and dims", [(b["Gflop/s"] / b["GB/s"], b["Gflop/s"]) for b in decoding])]
    for t, size in (("float", 4), ("half", 2)):
        found = []
        for b in rows.of(rf"^dense<{t}>"):
            dim, tokens, heads, kv_heads = (argument(b, a) for a in ("dim", "tokens", "heads", "kv_heads"))
            moved = 2 * tokens * dim * (heads * 4 + kv_heads * size)
            found.append((2 * dim * heads * tokens * (tokens + 1) / moved, b["Gflop/s"]))
        points.append((f"prefill, {t} cache", found))
    points.append(("prefill, half cache, ggml",
                   [(argument(b, "tokens") / (4 + 2 / 4), b["peer_rate"]) for b in rows.of(r"^ggml/prefill/half")]))
    points.append(("decoding, half, ggml",
                   [(7, 7 * b["peer_rate"]) for b in rows.of(r"^ggml/decode/half/tokens:16384")]))
    for i, (name, found) in enumerate(points):
        if found:
            axis.plot(*zip(*found), label=name, **(style(i) | {"linestyle": "none"}))
    axis.set_xscale("log")
    axis.set_yscale("log")
    finish(axis, "one thread", "operations per byte that must come from memory", "Gflop/s")
    beside(axis)
    save(figure, path)


def draw_lengths(rows, path):
    lengths, dims = rows.of(r"^lengths/"), rows.of(r"^dims/")
    if not lengths:
        return
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6), sharey=True, layout="constrained")
    lengths.sort(key=lambda b: argument(b, "tokens"))
    axes[0].plot([argument(b, "tokens") for b in lengths], [100 * b["best"] for b in lengths], **style(1))
    axes[0].set_xscale("log", base=2)
    finish(axes[0], "half cache, d 128, 4 heads", "tokens of the prompt", "of multiply-add peak, %")
    for i, t in enumerate(("float", "half")):
        found = [b for b in dims if b["name"].startswith(f"dims/{t}/")]
        if found:
            axes[1].plot([argument(b, "dim") for b in found], [100 * b["best"] for b in found], label=f"{t} cache",
                         **style(i))
    finish(axes[1], "2,048 tokens, 4 heads", "dim", "")
    axes[1].legend(fontsize=8, frameon=False)
    axes[0].set_ylim(0, 100)
    save(figure, path)


def draw_density(rows, path):
    series = {f"scattered blocks, {n} tokens": [(b["density"], b["best"]) for b in rows.of(rf"^scattered.*tokens:{n}$")]
              for n in (16384, 4096)}
    series["ST-SpAttn, pairs visible"] = [(b["visible"], b["best"]) for b in rows.of(r"^spatial_temporal")]
    series["ST-SpAttn, pairs executed"] = [(b["executed"], b["best"]) for b in rows.of(r"^spatial_temporal")]
    series = {name: sorted(points) for name, points in series.items() if points}
    if not series:
        return
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    least = min(points[0][0] for points in series.values())
    axis.plot([least, 1], [1 / least, 1], color="0.6", label="ideal: 1 / density")
    for i, (name, points) in enumerate(series.items()):
        axis.plot(*zip(*points), label=name, **(style(i) | ({"linestyle": "none"} if "ST" in name else {})))
    axis.set_xscale("log")
    axis.set_yscale("log")
    finish(axis, "half cache, d 128, one thread", "pairs seen, of those that causality allows",
           "times faster than own dense attention")
    beside(axis)
    save(figure, path)


def draw_stages(rows, path):
    stages = ["source", "score", "select", "compact"]
    found = rows.of(r"^share_of_attention")
    if not found:
        return
    figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for i, stage in enumerate(stages):
        look = style(i)
        axis.bar([n + 0.2 * (i - 1.5) for n in range(len(found))], [100 * b[stage] for b in found], 0.18, label=stage,
                 color=look["color"])
    axis.set_yscale("log")
    axis.set_xticks(range(len(found)), [re.search(r"<(\w+)", b["name"])[1] for b in found])
    finish(axis, "8,192 tokens, 32 heads, 8 KV heads, half, 5x", "", "of the layer's dense attention, %")
    beside(axis)
    save(figure, path)


def report(facts, parts, directory, name):
    directory.mkdir(parents=True, exist_ok=True)
    file = lambda end: directory / f"{name}{end}"
    rows = Rows(parts)
    judged = table(["figure", "goal", "here", "peer", "met"], [goal.judge(rows) for goal in goals()])
    text = ["# cpu: every figure\n", "Written by `scripts/bench_cpu_report.py` of what `scripts/bench_cpu.sh` measured.\n",
            table(["of", ""], [[key, str(value)] for key, value in facts.items()]), "## Goals\n",
            "Of several sizes or types in a row the worst. Ratios are of the shortest times, medians in brackets.\n", judged]
    for part, benchmarks in parts.items():
        text += [f"## {part}\n", details(benchmarks)]
    file("-tables.md").write_text("\n".join(text))
    file(".json").write_text(json.dumps({"of": facts, "parts": parts}, indent=1) + "\n")
    draw_roofline(rows, file("-roofline.svg"))
    draw_lengths(rows, file("-lengths.svg"))
    draw_density(rows, file("-density.svg"))
    draw_stages(rows, file("-stages.svg"))
    return judged


def check():
    """A figure that meets its goal, one that misses it, the worst of several, one that failed, one that is not there."""
    def row(name, **counters):
        return {"name": short(name), **counters}
    parts = {"sample": [
        row("dense<purekv::half>/dim:128/tokens:4096/heads:8/kv_heads:2/iterations:9/manual_time", best=.9, share=.83),
        row("dense<purekv::half>/dim:128/tokens:8192/heads:4/kv_heads:1/iterations:9/manual_time", best=.87, share=.85),
        row("dense<float>/dim:128/tokens:4096/heads:8/kv_heads:2", best=.9, share=.81),
        row("taps<half>/tokens:4096/window:32", cost=.011), row("taps<half>/tokens:4096/window:0", cost=.51),
        row("ggml/prefill/half/dim:128/tokens:4096", best=9.0, error_occurred=True, error_message="differs")]}
    rows = Rows(parts)
    judged = {line[0]: line for line in (goal.judge(rows) for goal in goals())}
    of = lambda start: next(line for figure, line in judged.items() if figure.startswith(start))
    half, single = (of(f"dense causal, d 128, 4k-16k, {t}") for t in ("half", "float"))
    assert half[4] == "yes" and half[2] == "best 87.0 %, median 83.0 %", half
    assert single[4] == "no", single
    assert of("mass of the last 32")[4] == "yes" and of("mass of all queries")[4] == "no"
    assert of("against ggml's flash_attn_ext, d 128, half")[4] == "not measured: differs"
    assert of("prune-then-attend")[4] == "not measured"
    with tempfile.TemporaryDirectory() as directory:
        report({"machine": "none"}, parts, Path(directory), "sample")
        assert "| dense causal, d 128" in (Path(directory) / "sample-tables.md").read_text()
        again = json.loads((Path(directory) / "sample.json").read_text())
        assert again["parts"] == parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", type=Path)
    parser.add_argument("--name", default="cpu")
    parser.add_argument("--fact", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        check()
        return
    if not arguments.parts:
        parser.error("a directory for the tables is needed")
    *paths, directory = arguments.parts
    if arguments.json:
        known = json.loads(arguments.json.read_text())
        facts, parts = known["of"], known["parts"]
    else:
        parts, peers = read(paths)
        facts = {"machine": machine(), "date": time.strftime("%-d %B %Y"), **dict(f.split("=", 1) for f in arguments.fact)}
        facts |= peers
    print(report(facts, parts, directory, arguments.name))
    print(f"{directory / arguments.name}-tables.md: every figure")


if __name__ == "__main__":
    main()
