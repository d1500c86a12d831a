// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/view.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The first token of a sequence, and one past its last.
PUREKV_HD inline std::int32_t begin_of(batch_view const& batch, std::int32_t sequence) {
  return batch.offset != nullptr ? batch.offset[sequence] : 0;
}
PUREKV_HD inline std::int32_t end_of(batch_view const& batch, std::int32_t sequence, std::int32_t tokens) {
  return batch.offset != nullptr ? batch.offset[sequence + 1] : tokens;
}

/// The sequence that a token belongs to.
PUREKV_HD inline std::int32_t sequence_of(batch_view const& batch, std::int32_t token) {
  std::int32_t low = 0, high = batch.offset != nullptr ? batch.sequences - 1 : 0;
  while (low < high) {
    std::int32_t const middle = low + (high - low) / 2;
    if (batch.offset[middle + 1] <= token)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
