#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One JSON file and one table per program of what scripts/bench_gpu.sh measured.

    scripts/bench_gpu_report.py PART.json... --out DIRECTORY
"""
import argparse
import json
import re
from pathlib import Path

# What Google Benchmark writes of every benchmark besides its name, label and counters.
FIELDS = {"name", "label", "family_index", "per_family_instance_index", "run_name", "run_type", "repetitions",
          "repetition_index", "threads", "iterations", "real_time", "cpu_time", "time_unit", "error_occurred",
          "error_message"}


def number(x):
    return f"{x:.3g}" if isinstance(x, float) and abs(x) < 1000 else f"{x:.0f}" if isinstance(x, float) else str(x)


def short(name):
    return re.sub(r"/(manual_time|iterations:\d+)", "", name)


def table(benchmarks):
    counters = []
    for b in benchmarks:
        counters += [key for key in b if key not in FIELDS and key not in counters]
    lines = ["| " + " | ".join(["benchmark", *counters]) + " |", "| --- " * (len(counters) + 1) + "|"]
    for b in benchmarks:
        name = short(b["name"]) + (f" ({b['label']})" if b.get("label") else "")
        if b.get("error_occurred"):
            cells = [b["error_message"]] + [""] * (len(counters) - 1) if counters else []
        else:
            cells = [number(b[c]) if c in b else "" for c in counters]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("parts", nargs="+", type=Path)
    arguments.add_argument("--out", required=True, type=Path)
    options = arguments.parse_args()
    parts = {}
    for path in options.parts:
        if path.exists() and path.stat().st_size > 0:
            parts[path.stem.removeprefix("part-")] = json.loads(path.read_text())
    text = []
    for name, part in parts.items():
        gpu = part["context"].get("gpu", "")
        text.append(f"## {name}\n\n{gpu}\n\n{table(part['benchmarks'])}\n")
    (options.out / "bench.json").write_text(json.dumps(parts, indent=1) + "\n")
    (options.out / "bench.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
