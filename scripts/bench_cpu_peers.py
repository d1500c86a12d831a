#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's attention on the CPU and kvpress's estimators in turn with ours: one thread, one process, the same
memory, CPU time of the calling thread. Compares results before it times them. Writes what Google Benchmark would.

    scripts/bench_cpu_peers.py LIBRARY OUT.json [--repetitions N]    fewer, not below 3, of what takes long

LIBRARY is what bench/peers/library.cpp becomes. A peer that is not installed is left out, and OUT says so.
"""
import argparse
import ctypes
import importlib.metadata
import json
import os
import statistics
import time
from types import SimpleNamespace

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    torch, why_no_torch = None, str(error)


class Ours:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.bench_multiply_add_rate.restype = ctypes.c_double

    def peak(self):
        return self.library.bench_multiply_add_rate()

    @staticmethod
    def shape(q, k):
        return q.shape[1], k.shape[1], q.shape[3], q.shape[2]

    @staticmethod
    def address(tensor):
        return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())

    def attend(self, q, k, v, out, lse=None):
        kind = str(q.dtype).removeprefix("torch.").encode()
        if self.library.bench_attend(kind, *self.shape(q, k), *map(self.address, (q, k, v, out, lse))) != 0:
            raise RuntimeError("attend refused")

    def score(self, name, q, k, v, lse, projection, scores):
        if self.library.bench_score(name.encode(), *self.shape(q, k),
                                    *map(self.address, (q, k, v, lse, projection, scores))) != 0:
            raise RuntimeError(f"score refused {name}")


def seconds(work):
    start = time.thread_time()
    work()
    return time.thread_time() - start


def error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


class Results:
    def __init__(self, repetitions, peak):
        self.repetitions, self.peak, self.all = repetitions, peak, []

    def add(self, name, compare, ours, peer, operations=None):
        """compare() runs both and gives counters; what is raised is reported in place of a time."""
        try:
            counters = compare()
            own, other, own_share, other_share = [], [], [], []
            before, started = self.peak(), time.thread_time()
            while len(own) < self.repetitions and (len(own) < 3 or time.thread_time() - started < 15):
                own.append(seconds(ours))
                between = self.peak()
                other.append(seconds(peer))
                after = self.peak()
                if operations:
                    own_share.append(2 * operations / own[-1] / (before + between))
                    other_share.append(2 * operations / other[-1] / (between + after))
                before = after
            counters |= {"speedup": statistics.median(b / a for a, b in zip(own, other)),
                         "best": min(other) / min(own), "ms": 1e3 * statistics.median(own),
                         "peer_ms": 1e3 * statistics.median(other)}
            if operations:
                counters |= {"rate": operations / counters["ms"] / 1e6, "peer_rate": operations / counters["peer_ms"] / 1e6,
                             "share": statistics.median(own_share), "peer_share": statistics.median(other_share),
                             "best_share": max(own_share), "peer_best_share": max(other_share)}
            entry = {"name": name, "iterations": len(own), "real_time": counters["ms"], "time_unit": "ms",
                     **counters}
        except Exception as problem:
            entry = {"name": name, "error_occurred": True, "error_message": str(problem).split("\n")[0]}
        print(entry, flush=True)
        self.all.append(entry)


def demand(ok, what):
    if not ok:
        raise RuntimeError(what)


def attention(results, ours):
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
    for dim in (128, 64):
        for dtype in tolerance:
            for kv_heads in (4, 1):  # every head with its own keys, and four that share theirs
                q, k, v = (torch.randn(1, h, 4096, dim).to(dtype) for h in (4, kv_heads, kv_heads))
                out = torch.empty_like(q)

                def peer():
                    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=kv_heads != 4)

                def compare():
                    exact = F.scaled_dot_product_attention(q.double(), *(x.double().expand(-1, 4, -1, -1) for x in (k, v)),
                                                           is_causal=True)
                    ours.attend(q, k, v, out)
                    counters = {"error": error(out, exact), "peer_error": error(peer(), exact)}
                    demand(max(counters.values()) < tolerance[dtype], f"errors {counters}")
                    return counters

                results.add(f"torch/prefill/{str(dtype).removeprefix('torch.')}/dim:{dim}/tokens:4096/heads:4"
                            f"/kv_heads:{kv_heads}", compare, lambda: ours.attend(q, k, v, out), peer,
                            4 * dim * 4 * 4096 * 4097 / 2)


class Layer:
    """What kvpress reads of a model's attention layer. The queries are given to it as to us: no projection is timed."""

    def __init__(self, heads, kv_heads, dim, tokens):
        self.tokens, self.window = tokens, 64
        self.q, self.k, self.v = (torch.randn(1, h, tokens, dim) for h in (heads, kv_heads, kv_heads))
        width = heads * dim
        self.weight = torch.randn(width, width) / width ** 0.5
        self.lse, self.out = torch.empty(heads, tokens), torch.empty_like(self.q)
        self.scores = torch.empty(1, kv_heads, tokens)
        # hidden_states is read for its length alone: the queries of its last rows are what is wanted.
        self.hidden = torch.empty(1, tokens, 1)
        self.still = torch.ones(1, tokens, dim), torch.zeros(1, tokens, dim)
        self.module = SimpleNamespace(
            config=SimpleNamespace(num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=dim,
                                   hidden_size=width, _attn_implementation="sdpa"),
            head_dim=dim, num_key_value_groups=heads // kv_heads, o_proj=SimpleNamespace(weight=self.weight),
            rotary_emb=lambda x, at: (torch.ones(1, at.shape[1], dim), torch.zeros(1, at.shape[1], dim)))

    def queries(self, module, hidden):
        return self.q[:, :, self.tokens - hidden.shape[1]:]

    def probabilities(self):
        """The attention matrix, which kvpress's accumulated attention is summed from."""
        group = self.q.shape[1] // self.k.shape[1]
        logits = self.q @ self.k.repeat_interleave(group, 1).transpose(2, 3) / self.q.shape[3] ** 0.5
        hidden = torch.full((self.tokens, self.tokens), float("-inf")).triu(1)
        return (logits + hidden).softmax(-1)

    def peer(self, press, attentions=None):
        return press.score(self.module, self.hidden, self.k, self.v, attentions,
                           {"position_embeddings": self.still})


def estimators(results, ours):
    import kvpress
    import kvpress.presses.expected_attention_press as expected_press
    import kvpress.presses.snapkv_press as snapkv_press

    def add(name, press, layer, agree, attention_matrix=False):
        snapkv_press.get_prerope_query_states = expected_press.get_prerope_query_states = layer.queries
        ours.attend(layer.q, layer.k, layer.v, layer.out, layer.lse)

        def own():
            ours.score(name, layer.q, layer.k, layer.v, layer.lse, layer.weight, layer.scores)

        def peer():
            return layer.peer(press, layer.probabilities() if attention_matrix else None)

        def compare():
            own()
            return {"error": agree(layer.scores, peer(), layer.tokens)}

        results.add(f"kvpress/{name}/tokens:{layer.tokens}", compare, own, peer)

    def equal(factor=lambda t, n: 1.0, first=0, last=0):
        """Ours times factor(token) against theirs, without the tokens that they pin by a score of their own."""
        def agree(a, b, n):
            scaled = a * factor(torch.arange(n, dtype=torch.float64), n)
            wrong = error(scaled[..., first:n - last], b[..., first:n - last])
            demand(wrong < 1e-4, f"scores differ by {wrong:.3g}")
            return wrong
        return agree

    def critical_agrees(a, b, n):
        largest = torch.finfo(torch.float32).max
        both = (a < largest) & (b < largest)
        both[..., n - 66:] = False  # which they pin
        wrong = error(a[both] / 64, b[both])
        demand(wrong < 1e-4, f"scores differ by {wrong:.3g}")
        return wrong

    def unlike(a, b, n):  # a random number, or a rule that is not a score in kvpress
        demand(bool((a >= 0).all()), "scores are negative")
        return 0.0

    long, short, shortest = (Layer(32, 8, 128, tokens) for tokens in (8192, 2048, 512))
    add("key_norm", kvpress.KnormPress(0.8), long, equal())
    add("window_attention", kvpress.SnapKVPress(0.8, 64, 5), long, equal(lambda t, n: 1 / 64, 0, 66))
    add("last_attention", kvpress.TOVAPress(0.8), long, equal(last=1))
    add("future_attention", kvpress.ExpectedAttentionPress(0.8), long, equal(first=4))
    add("accumulated_attention", kvpress.ObservedAttentionPress(0.8), short, equal(lambda t, n: 1 / (n - t)),
        attention_matrix=True)
    add("critical", kvpress.CriticalKVPress(kvpress.SnapKVPress(0.8, 64, 5)), shortest, critical_agrees)
    add("uniform_random", kvpress.RandomPress(0.8), long, unlike)
    add("recency", kvpress.StreamingLLMPress(0.8), long, unlike)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("library")
    arguments.add_argument("out")
    arguments.add_argument("--repetitions", type=int, default=9)
    options = arguments.parse_args()
    context, missing, benchmarks = {}, {}, []
    if torch is None:
        missing["torch"] = missing["kvpress"] = why_no_torch
    else:
        torch.set_num_threads(1)
        torch.manual_seed(1)
        context["torch"] = torch.__version__
        ours = Ours(options.library)
        results = Results(options.repetitions, ours.peak)
        with torch.no_grad():
            attention(results, ours)
            try:
                estimators(results, ours)
                context["kvpress"] = importlib.metadata.version("kvpress")
            except ImportError as error:
                missing["kvpress"] = str(error)
        benchmarks = results.all
    for peer, why in missing.items():
        print(f"left out: {peer} ({why})")
    with open(options.out, "w") as file:
        json.dump({"context": context | {"missing": missing}, "benchmarks": benchmarks}, file, indent=1)


if __name__ == "__main__":
    main()
