// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <purekv/append.cuh>

using namespace purekv;
using contiguous = contiguous_cache<bfloat16>;
using ragged = ragged_cache<bfloat16>;

KERNEL(append_rows_contiguous, registers(80), stack(0), shared(0), detail::append_rows<bfloat16, contiguous>)
KERNEL(append_rows_ragged, registers(80), stack(0), shared(0), detail::append_rows<bfloat16, ragged>)
using append_lengths = detail::change_lengths<ragged, detail::grown_length>;
KERNEL(append_lengths_ragged, registers(32), stack(0), shared(0), append_lengths)
