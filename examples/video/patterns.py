# SPDX-License-Identifier: Apache-2.0
"""Patterns of sparse attention between patches, for fine-tuning; patterns.cpp has the same for the engine."""
import torch

NAMES = ["dense", "st", "st_previous", "st_around3", "st_first", "st_near", "spatial", "temporal"]
SINKS = 4  # positions that everything sees: <video> and three patches


def visible_patches(name, size):
    """[patches, patches] bool, causality left out: rows are queries. size: (frames, height, width)."""
    t, y, x = torch.cartesian_prod(*(torch.arange(n) for n in size)).T
    back, row, column = (a[:, None] - a for a in (t, y, x))
    same_place = (row == 0) & (column == 0)
    seen = {
        "dense": torch.ones_like(same_place),
        "st": (back == 0) | same_place,
        "st_previous": (back <= 1) | same_place,
        "st_around3": ((back <= 3) & (row.abs() <= 3) & (column.abs() <= 3)) | same_place,
        "st_first": (back == 0) | same_place | (t == 0),
        "st_near": (back == 0) | ((row.abs() <= 1) & (column.abs() <= 1)),
        "spatial": back == 0,
        "temporal": same_place,
    }[name]
    return seen | (torch.arange(len(t)) < SINKS - 1)
