#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's attention on the shapes of bench/gpu: scaled_dot_product_attention by its flash and cuDNN back ends,
and FlexAttention with the block mask of spatial_temporal. Writes what Google Benchmark would; nothing without PyTorch.

    scripts/bench_torch.py OUT.json [--filter REGEX]
"""
import argparse
import json
import re
import statistics

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

# As in bench/gpu/attend.cu: text, frames, height, width, text, heads, KV heads, sequences.
PROMPTS = [("VideoLLaMA2, 16 frames", 35, 9, 13, 13, 40, 32, 8, 1),
           ("VideoLLaMA2, 16 frames, batch of 8", 35, 9, 13, 13, 40, 32, 8, 8),
           ("VideoLLaMA2.1, 16 frames", 35, 8, 13, 13, 40, 28, 4, 1),
           ("Qwen2.5-VL, 8 x 12 x 22", 20, 8, 12, 22, 40, 28, 4, 1),
           ("Qwen2.5-VL, 16 x 16 x 24", 20, 16, 16, 24, 40, 28, 4, 1),
           ("Qwen2.5-VL, 64 x 12 x 16", 20, 64, 12, 16, 40, 28, 4, 1),
           ("Qwen2.5-VL, 32 x 24 x 32", 20, 32, 24, 32, 40, 28, 4, 1),
           ("Qwen2.5-VL, 384 x 8 x 16", 20, 384, 8, 16, 40, 28, 4, 1)]
SINKS = 4


def operands(sequences, heads, kv_heads, queries, tokens, dim):
    def normal(h, n):
        return torch.randn(sequences, h, n, dim, device="cuda", dtype=torch.bfloat16)
    return normal(heads, queries), normal(kv_heads, tokens), normal(kv_heads, tokens)


def seconds(work, repeats=21):
    """Median time on the device, after a read of more memory than the L2 holds."""
    l2 = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
    other = torch.ones(2 * l2 // 4, device="cuda")
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        other.sum()
        before.record()
        work()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) * 1e-3)
    return statistics.median(times)


def close(a, b):
    error = (a.float() - b.float()).norm() / b.float().norm()
    if not error < 0.01:
        raise RuntimeError(f"differs from attention in double precision by {error:.3g}")


def reference(q, k, v, visible):
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    logits = q.double() @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return logits.masked_fill(~visible, float("-inf")).softmax(-1) @ v


class Results:
    def __init__(self, pattern):
        self.pattern, self.all = re.compile(pattern), []

    def add(self, name, work, **counters):
        """work() gives the operation to time; what it raises is reported in place of a time."""
        if not self.pattern.search(name):
            return
        try:
            operation = work()
            time = seconds(operation)
            counters = {key: f(time) if callable(f) else f for key, f in counters.items()}
            entry = {"name": name, "real_time": time * 1e6, "time_unit": "us", "us": time * 1e6, **counters}
        except Exception as error:  # a back end that this GPU or this PyTorch does not have
            entry = {"name": name, "error_occurred": True, "error_message": str(error).split("\n")[0]}
        print(entry, flush=True)
        self.all.append(entry)
        torch.cuda.empty_cache()


def sdpa(backend, sequences, heads, kv_heads, queries, tokens, dim, causal):
    from torch.nn.attention import sdpa_kernel

    def work(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=heads != kv_heads)

    small = operands(2, heads, kv_heads, 96 if causal else 1, 96, dim)
    visible = torch.ones(small[0].shape[2], 96, dtype=torch.bool, device="cuda")
    close(work(*small), reference(*small, visible.tril() if causal else visible))
    q, k, v = operands(sequences, heads, kv_heads, queries, tokens, dim)
    return lambda: work(q, k, v)


def visible_by(prompt):
    """mask_mod of spatial_temporal as it stands: text, the first tokens, the own frame, the same place before."""
    _, head, frames, height, width, *_ = prompt
    frame, end = height * width, head + frames * height * width

    def mask(batch, h, q, k):
        text = (q < head) | (q >= end) | (k < head) | (k >= end) | (k < SINKS)
        of_q, of_k = q - head, k - head
        return (k <= q) & (text | (of_q // frame == of_k // frame) | (of_q % frame == of_k % frame))
    return mask


def flex(prompt):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def prepare(p):
        _, head, frames, height, width, tail, heads, kv_heads, sequences = p
        tokens = head + frames * height * width + tail
        q, k, v = operands(sequences, heads, kv_heads, tokens, tokens, 128)
        blocks = create_block_mask(visible_by(p), None, None, tokens, tokens, device="cuda")
        return q, k, v, lambda: compiled(q, k, v, block_mask=blocks, enable_gqa=True)

    small = ("small", 7, 5, 4, 5, 30, *prompt[6:8], 2)
    q, k, v, work = prepare(small)
    index = torch.arange(q.shape[2], device="cuda")
    close(work(), reference(q, k, v, visible_by(small)(0, 0, index[:, None], index[None, :])))
    return prepare(prompt)[3]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out")
    arguments.add_argument("--filter", default=".")
    options = arguments.parse_args()
    if torch is None or not torch.cuda.is_available():
        print("skipped: there is no PyTorch for this GPU")
        return
    from torch.nn.attention import SDPBackend
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}

    results = Results(options.filter)
    for heads, kv_heads in ((28, 4), (32, 8)):
        for dim in (64, 128):
            for tokens in (4096, 8192, 16384, 32768):
                operations = 4 * dim * heads * tokens * (tokens + 1) / 2
                for name, backend in backends.items():
                    results.add(f"torch_{name}/dense/dim:{dim}/tokens:{tokens}/heads:{heads}/kv_heads:{kv_heads}",
                                lambda: sdpa(backend, 1, heads, kv_heads, tokens, tokens, dim, True),
                                **{"Tflop/s": lambda time: operations / time / 1e12})
    for number, prompt in enumerate(PROMPTS):
        results.add(f"torch_flex/spatial_temporal/prompt:{number}", lambda: flex(prompt), label=prompt[0])
    for sequences in (1, 8, 64):
        for tokens in (16384, 65536, 131072):
            moved = sequences * 4 * tokens * 128 * 2 * 2
            for name, backend in backends.items():
                results.add(f"torch_{name}/decode/sequences:{sequences}/tokens:{tokens}/heads:28/kv_heads:4",
                            lambda: sdpa(backend, sequences, 28, 4, 1, tokens, 128, False),
                            **{"GB/s": lambda time: moved / time / 1e9})
    with open(options.out, "w") as file:
        json.dump({"context": {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(0)},
                   "benchmarks": results.all}, file, indent=1)


if __name__ == "__main__":
    main()
