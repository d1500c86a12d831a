// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/barrier.hpp>
#include <purekv/simt/shared.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The sum of `value` over the threads before this one; `total`, over all of them, in every thread. scratch : [threads]
/// of shared memory, free before and after.
PUREKV_DEVICE std::int64_t sum_before(std::int64_t value, simt::shared<std::int64_t> scratch, std::int64_t& total) {
  std::int32_t const t = simt::thread_index(), threads = simt::block_threads();
  scratch.store(t, value);
  simt::sync();
  std::int64_t sum = value;
  for (std::int32_t distance = 1; distance < threads; distance *= 2) {
    std::int64_t const below = t >= distance ? scratch.load(t - distance) : 0;
    simt::sync();
    sum += below;
    scratch.store(t, sum);
    simt::sync();
  }
  total = scratch.load(threads - 1);
  simt::sync();
  return sum - value;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
