// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <purekv/presets.hpp>
#include <purekv/score.cuh>

using namespace purekv;
using contiguous = contiguous_cache<bfloat16>;
using snapkv_score = detail::score_layer<snapkv<ratio>::estimator_type, contiguous>;
using clie_score = detail::score_layer<purekv_early<ratio>::estimator_type, contiguous>;

KERNEL(score_snapkv, registers(128), stack(0), shared(0), snapkv_score)
KERNEL(score_clie, registers(128), stack(0), shared(0), clie_score)
