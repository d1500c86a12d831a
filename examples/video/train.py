#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the video-language model on videos that never repeat: tiny ones first, then longer ones.

scripts/train_video.sh installs what this needs and runs it. A run goes on where its last checkpoint is, so the same
command resumes it; the log has one JSON object a line.
"""
import argparse
import json
import os
import time
from dataclasses import asdict

import torch
from torch.nn import functional as F

from model import Shape, VideoModel, visible
from patterns import NAMES, visible_patches
from videos import Videos

TRAINING_SEED, BATCH, QUESTIONS = 1, 32, 10
RATE, FINAL_RATE, WARM_UP = 1.5e-3, 0.02, 200


def parse_size(text):
    frames, height, width = (int(n) for n in text.split("x"))
    return frames, height, width


def parse_phase(text):
    size, steps = text.split(":")
    return parse_size(size), int(steps)


def phase_at(phases, step):
    for size, steps in phases:
        if step < steps:
            return size
        step -= steps
    return None


def learning_rate(step, steps, decay):
    """Constant after a warm-up; over the last `decay` steps it falls in a line."""
    falling = min(1.0, max(FINAL_RATE, (steps - step) / decay))
    return RATE * min(1.0, (step + 1) / WARM_UP) * falling


def attention_bias(size, slot, pattern="dense", evicted=False):
    """evicted: half of the questions find a random half to a tenth of the video only."""
    patches = size[0] * size[1] * size[2]
    kept = None
    if evicted:
        share = torch.where(torch.rand(QUESTIONS) < 0.5, 0.1 + 0.4 * torch.rand(QUESTIONS), 1.0)
        kept = torch.rand(QUESTIONS, patches) < share[:, None]
    return visible(patches + 2, QUESTIONS, slot, visible_patches(pattern, size), kept)


def answers(model, batch, size, bias):
    """The logits that choose the tokens of the answers, and these tokens."""
    wanted = batch.answer[..., 1:]
    logits = model(batch.pixels, batch.text, size, bias.to(batch.pixels.device))
    return logits[:, :, :-1][wanted].float(), batch.text[..., 1:][wanted]


class Tally:
    """Share of questions, by kind, whose answers are right to the last word."""

    def __init__(self, kinds):
        self.kinds, self.right, self.asked = kinds, torch.zeros(len(kinds)), torch.zeros(len(kinds))

    def add(self, batch, logits, truth):
        wrong = torch.zeros(batch.text.shape, dtype=torch.bool, device=truth.device)
        wrong[..., 1:][batch.answer[..., 1:]] = logits.argmax(-1) != truth
        kind, right = batch.kind.flatten().cpu(), (~wrong.any(-1)).flatten().float().cpu()
        self.right.index_add_(0, kind, right)
        self.asked.index_add_(0, kind, torch.ones_like(right))

    def shares(self):
        share = (self.right / self.asked.clamp(min=1)).tolist()
        return {kind: round(s, 4) for kind, s in zip(self.kinds, share)}


@torch.no_grad()
def evaluate(model, videos, size, seed, count, pattern="dense"):
    tally = Tally(videos.kinds)
    device = next(model.parameters()).device
    bias = attention_bias(size, videos.slot, pattern)
    for first in range(0, count, BATCH):
        batch = videos.batch(seed, first, min(BATCH, count - first), size, QUESTIONS).to(device)
        tally.add(batch, *answers(model, batch, size, bias))
    return tally.shares()


def save(path, **what):
    torch.save(what, path + ".new")
    os.replace(path + ".new", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, help="libvideo-training-data.so")
    parser.add_argument("--directory", required=True, help="of the checkpoint and the log")
    parser.add_argument("--phases", nargs="+", type=parse_phase, metavar="TxHxW:STEPS",
                        default=[((4, 3, 3), 1500), ((8, 5, 5), 1100), ((16, 6, 6), 2200)])
    parser.add_argument("--pattern", default="dense", choices=NAMES, help="which patches see which, see patterns.py")
    parser.add_argument("--evict", action="store_true", help="half of the questions find a part of the video only")
    parser.add_argument("--start", metavar="CHECKPOINT", help="fine-tune this one")
    parser.add_argument("--decay", type=int, default=1200, help="steps at the end over which the learning rate falls")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--every", type=int, default=50, help="steps between two lines of the log")
    parser.add_argument("--no-compile", action="store_true", help="half as fast, but needs no C++ compiler")
    arguments = parser.parse_args()

    phases = arguments.phases
    steps = sum(n for _, n in phases)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    videos = Videos(arguments.library)
    model = VideoModel(Shape(len(videos.words))).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    forward = model if arguments.no_compile else torch.compile(model, dynamic=False)

    os.makedirs(arguments.directory, exist_ok=True)
    checkpoint, step, spent = os.path.join(arguments.directory, "checkpoint.pt"), 0, 0.0
    if os.path.exists(checkpoint):
        saved = torch.load(checkpoint, map_location=device)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        step, spent = saved["step"], saved["seconds"]
    elif arguments.start:
        model.load_state_dict(torch.load(arguments.start, map_location=device)["model"])
    log = open(os.path.join(arguments.directory, "log.jsonl"), "a", buffering=1)
    start, tally, losses = time.monotonic() - spent, Tally(videos.kinds), []

    while size := phase_at(phases, step):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, arguments.decay)
        batch = videos.batch(TRAINING_SEED, step * BATCH, BATCH, size, QUESTIONS).to(device)
        with torch.autocast(device, torch.bfloat16):
            bias = attention_bias(size, videos.slot, arguments.pattern, arguments.evict)
            logits, truth = answers(forward, batch, size, bias)
        loss = F.cross_entropy(logits, truth)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        losses.append(loss.detach())
        tally.add(batch, logits, truth)

        if step % arguments.every == 0 or step == steps:
            spent = time.monotonic() - start
            log.write(json.dumps({"step": step, "video": "x".join(map(str, size)), "seconds": round(spent, 1),
                                  "loss": round(torch.stack(losses).mean().item(), 4),
                                  "rate": round(optimiser.param_groups[0]["lr"], 6), "right": tally.shares()}) + "\n")
            save(checkpoint, model=model.state_dict(), optimiser=optimiser.state_dict(), step=step, seconds=spent,
                 shape=asdict(model.shape), words=videos.words, size=size, phases=phases, seed=arguments.seed)
            tally, losses = Tally(videos.kinds), []


if __name__ == "__main__":
    main()
