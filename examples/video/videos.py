# SPDX-License-Identifier: Apache-2.0
"""The videos and questions that the demo shows, made by the same C++ (training_data.cpp)."""
import ctypes
from dataclasses import dataclass

import numpy as np
import torch

PATCH_VALUES = 48
BEGIN, END = 1, 2  # the tokens <video> and </video>


@dataclass
class Batch:
    pixels: torch.Tensor  # [videos, frames * height * width, 48], 0 to 1
    text: torch.Tensor  # [videos, questions, slot] tokens: question and answer
    answer: torch.Tensor  # [videos, questions, slot] bool: belongs to the answer
    kind: torch.Tensor  # [videos, questions]

    def to(self, device):
        return Batch(*(x.to(device) for x in (self.pixels, self.text, self.answer, self.kind)))


class Videos:
    def __init__(self, library):
        self.library = ctypes.CDLL(library)
        self.slot = self.library.purekv_slot()
        self.words = self._names(self.library.purekv_word)
        self.kinds = self._names(self.library.purekv_kind)

    @staticmethod
    def _names(function):
        name, names = ctypes.c_char_p(), []
        while length := function(len(names), ctypes.byref(name)):
            names.append(ctypes.string_at(name, length).decode())
        return names

    def batch(self, seed, first, count, size, questions):
        """Videos first .. first + count - 1 of the seed; size: (frames, height, width)."""
        tokens = size[0] * size[1] * size[2]
        pixels = np.empty((count, tokens, PATCH_VALUES), np.uint8)
        text = np.empty((count, questions, self.slot), np.int32)
        answer = np.empty((count, questions, self.slot), np.uint8)
        kind = np.empty((count, questions), np.int32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (pixels, text, answer, kind)]
        self.library.purekv_make_videos(ctypes.c_uint64(seed), ctypes.c_int64(first), count, *size, questions, *pointers)
        return Batch(torch.from_numpy(pixels).float() / 255, torch.from_numpy(text).long(),
                     torch.from_numpy(answer).bool(), torch.from_numpy(kind).long())
