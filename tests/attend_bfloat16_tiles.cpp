// SPDX-License-Identifier: Apache-2.0
#define PUREKV_BFLOAT16_TILES
#include "attend_bfloat16_dot.cpp"
