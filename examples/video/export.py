#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a model as a GGUF file in half precision: a checkpoint of train.py, with its accuracy on unseen videos, or a
small one that has learnt nothing, with the logits that tests/video_logits.cpp expects of the engine.

    export.py --library L --checkpoint C --model model.gguf --evaluate 500
    export.py --library L --untrained --model tests/data/model.gguf --golden tests/data/golden.gguf
"""
import argparse
import json
import os

import gguf
import torch

from model import Shape, VideoModel, visible
from patterns import NAMES
from train import QUESTIONS, evaluate, parse_size
from videos import Videos

ARCHITECTURE = "qwen2vl"  # without biases, and with patches beside the words
EVALUATION_SEED, GOLDEN_SEED = 2, 3

NAMES = {"word": "token_embd", "patch": "v.patch_embd", "frame": "v.position_embd.frame",
         "row": "v.position_embd.row", "column": "v.position_embd.column", "blocks": "blk"}


def name_in_file(name):
    first, rest = name.split(".", 1)
    return NAMES.get(first, first) + "." + rest


def round_to_half(model):
    """The matrices, as the file will have them; vectors stay as they are."""
    for weight in model.state_dict().values():
        if weight.dim() == 2:
            weight.copy_(weight.half())


def untrained(words):
    """Small, of sizes that differ, and with attention that looks at some tokens and not at all alike."""
    torch.manual_seed(0)
    model = VideoModel(Shape(words, layers=2, width=32, dim=16, feed_forward=48, sections=(3, 3, 2)))
    for name, weight in model.state_dict().items():
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            weight.mul_(3)
        elif name.endswith("norm.weight"):
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_model(model, words, path):
    s = model.shape
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_name("PureKV's tiny video-language model")
    writer.add_license("Apache-2.0")
    writer.add_block_count(s.layers)
    writer.add_context_length(s.frames * s.rows * s.columns + 1024)
    writer.add_embedding_length(s.width)
    writer.add_feed_forward_length(s.feed_forward)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_key_length(s.dim)
    writer.add_value_length(s.dim)
    writer.add_rope_dimension_count(s.dim)
    writer.add_rope_dimension_sections([*s.sections, 0])
    writer.add_rope_freq_base(s.rope_base)
    writer.add_layer_norm_rms_eps(s.norm_epsilon)
    writer.add_tokenizer_model("none")
    writer.add_token_list(words)
    for name, weight in model.state_dict().items():
        writer.add_tensor(name_in_file(name), (weight.half() if weight.dim() == 2 else weight).cpu().numpy())
    close(writer)


@torch.no_grad()
def write_golden(model, videos, size, path):
    """The first question about a video, with its answer, and the logits after each of its tokens."""
    batch = videos.batch(GOLDEN_SEED, 0, 1, size, 1)
    bias = visible(batch.pixels.shape[1] + 2, 1, videos.slot)
    logits = model(batch.pixels, batch.text, size, bias)[0, 0]
    writer = gguf.GGUFWriter(path, "golden")
    writer.add_uint32("golden.seed", GOLDEN_SEED)
    writer.add_array("golden.size", list(size))
    writer.add_tensor("tokens", batch.text[0, 0].int().numpy())
    writer.add_tensor("logits", logits.numpy())
    close(writer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint")
    source.add_argument("--untrained", action="store_true")
    parser.add_argument("--library", required=True, help="libvideo-training-data.so")
    parser.add_argument("--model", required=True, help="the GGUF file to write")
    parser.add_argument("--golden", help="the GGUF file of golden logits to write")
    parser.add_argument("--golden-size", type=parse_size, default=(5, 3, 4), metavar="TxHxW")
    parser.add_argument("--pattern", default="dense", choices=NAMES, help="of the evaluation, see patterns.py")
    parser.add_argument("--evaluate", type=int, default=0, metavar="VIDEOS", help="of the size trained on last")
    arguments = parser.parse_args()

    videos = Videos(arguments.library)
    if arguments.untrained:
        model = untrained(len(videos.words))
    else:
        saved = torch.load(arguments.checkpoint, map_location="cpu")
        if saved["words"] != videos.words:
            parser.error("the checkpoint was trained with another list of words")
        model = VideoModel(Shape(**saved["shape"]))
        model.load_state_dict(saved["model"])
    round_to_half(model)

    write_model(model, videos.words, arguments.model)
    if arguments.golden:
        write_golden(model, videos, arguments.golden_size, arguments.golden)
    if arguments.evaluate and not arguments.untrained:
        size = tuple(saved["size"])
        print(json.dumps({"step": saved["step"], "video": "x".join(map(str, size)), "videos": arguments.evaluate,
                          "questions": arguments.evaluate * QUESTIONS, "bytes": os.path.getsize(arguments.model),
                          "pattern": arguments.pattern,
                          "right": evaluate(model, videos, size, EVALUATION_SEED, arguments.evaluate,
                                            arguments.pattern)}))


if __name__ == "__main__":
    main()
