// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/attend.hpp>
#include <purekv/detail/check.cuh>
#include <purekv/detail/mma_tile.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What the host can see of a call that attends.
template <Pattern P, class T, Cache C, class TO>
status check_attention(gpu const& exec, P const& pattern, query_view<T> const& q, C const& cache,
                       rows_view<TO> const& out, attend_taps const& taps) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_attend_view(pattern, q, cache, out, taps); !s.ok()) return s;
  if (status const s = check_operands(q, cache, largest_width); !s.ok()) return s;
  if (status const s = check_reachable_cache(exec, cache); !s.ok()) return s;
  return check_reachable(exec, q.rows.data, q.batch.offset, q.batch.positions, q.sink_logits, out.data, taps.lse,
                         taps.mass.data, taps.block_mass.data);
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
