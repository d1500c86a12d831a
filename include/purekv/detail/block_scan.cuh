// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/shared.hpp>
#include <purekv/simt/warp.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The sums of a value over the lower threads of the block, and over all of them, modulo 2^32.
struct scanned {
  std::uint32_t before, all;
};

/// All threads of the block come. totals : [Threads / 32]; free again on return.
template <std::int32_t Threads>
PUREKV_DEVICE scanned block_scan(std::uint32_t value, simt::shared<std::uint32_t> totals) {
  std::uint32_t const until = simt::warp_scan(value);
  if (simt::lane_index() == simt::warp_threads - 1) totals.store(simt::warp_index(), until);
  simt::sync();
  scanned sum{until - value, 0};
  PUREKV_DEVICE_UNROLL
  for (std::int32_t w = 0; w < Threads / simt::warp_threads; ++w) {
    std::uint32_t const total = totals.load(w);
    sum.before += w < simt::warp_index() ? total : 0;
    sum.all += total;
  }
  simt::sync();
  return sum;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
