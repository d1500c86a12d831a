// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <purekv/pattern/spatial_temporal.hpp>
#include <purekv/plan.cuh>
#include <purekv/two_passes.cuh>

using namespace purekv;
using contiguous = contiguous_cache<bfloat16>;
using walk_runs = detail::walk_runs<spatial_temporal, contiguous>;
using fill_masks = detail::fill_masks<spatial_temporal, contiguous>;
using cut_chunks = detail::cut_chunks<detail::query_cut<spatial_temporal>>;
using cut_columns = detail::cut_chunks<detail::column_cut>;
using list_keys = detail::list_keys<contiguous>;

KERNEL(plan_cut_chunks, registers(104), stack(0), shared(4096), cut_chunks)
KERNEL(plan_walk_runs, registers(128), stack(0), shared(0), walk_runs)
KERNEL(plan_fill_masks, registers(128), stack(0), shared(0), fill_masks)
KERNEL(plan_order_queries, registers(104), stack(0), shared(0), detail::order_queries)
KERNEL(plan_cut_columns, registers(104), stack(0), shared(4096), cut_columns)
KERNEL(plan_sort_tiles, registers(128), stack(0), shared(0), detail::sort_tiles)
KERNEL(plan_list_keys, registers(128), stack(0), shared(0), list_keys)
