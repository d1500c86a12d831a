// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <purekv/compact.cuh>
#include <purekv/take_back.cuh>

using namespace purekv;
using contiguous = contiguous_cache<bfloat16>;
using ragged = ragged_cache<bfloat16>;

KERNEL(compact_rows_contiguous, registers(128), stack(0), shared(0), detail::compact_rows<contiguous>)
KERNEL(compact_rows_ragged, registers(128), stack(0), shared(0), detail::compact_rows<ragged>)
KERNEL(compact_copy_ragged, registers(128), stack(0), shared(0), detail::compact_copy<contiguous, ragged>)
using compact_lengths = detail::change_lengths<ragged, detail::kept_length>;
KERNEL(compact_lengths_ragged, registers(32), stack(0), shared(0), compact_lengths)
KERNEL(lay_out_extents, registers(64), stack(0), shared(4), detail::lay_out_extents)
using take_back_lengths = detail::change_lengths<contiguous, detail::shortened_length>;
KERNEL(take_back_contiguous, registers(32), stack(0), shared(0), take_back_lengths)
