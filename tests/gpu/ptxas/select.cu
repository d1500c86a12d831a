// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <purekv/budget/ratio.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/select.cuh>

using namespace purekv;
using contiguous = contiguous_cache<bfloat16>;
using tiles = detail::select_tiles;
using rank = detail::rank_rows<ratio, recent, selection_scope::kv_head, contiguous, 1, tiles>;

KERNEL(select_rank, registers(64), stack(0), shared(4), rank)
KERNEL(select_find_cut, registers(64), stack(0), shared(8268), detail::find_cut_digits<tiles>)
KERNEL(select_put_offsets, registers(64), stack(0), shared(4096), detail::put_offsets)
KERNEL(select_put_kept, registers(64), stack(0), shared(64), detail::put_kept<tiles>)
