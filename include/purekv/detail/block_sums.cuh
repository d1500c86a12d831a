// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/block_scan.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Sums of whole numbers over the threads of a block of Warps warps, which all call them together.
template <std::int32_t Warps> struct block_sums {
  static constexpr std::int32_t bytes = Warps * 4;
  static constexpr std::int32_t most = 1 << 30;

  simt::shared<std::int32_t> of_warp;  // [Warps]

  /// min(sum, most) of numbers in [0, most].
  PUREKV_DEVICE std::int32_t capped(std::int32_t value) const {
    for (std::int32_t bits = 16; bits > 0; bits /= 2) value = cap(value + simt::shuffle_xor(value, bits));
    return over_warps(value, [](std::int32_t a, std::int32_t b) { return cap(a + b); });
  }

  PUREKV_DEVICE std::int32_t largest(std::int32_t value) const {
    return over_warps(simt::warp_max(value), [](std::int32_t a, std::int32_t b) { return a < b ? b : a; });
  }

  struct prefix {
    std::int32_t before, all;
  };

  /// The sum over the threads before this one, and over all.
  PUREKV_DEVICE prefix scan(std::int32_t value) const {
    simt::sync();  // others may still read what came before
    scanned const sum =
        block_scan<Warps * simt::warp_threads>(static_cast<std::uint32_t>(value), of_warp.template as<std::uint32_t>());
    return {static_cast<std::int32_t>(sum.before), static_cast<std::int32_t>(sum.all)};
  }

 private:
  PUREKV_DEVICE static std::int32_t cap(std::int32_t sum) { return sum < most ? sum : most; }

  /// value: the same in all lanes of a warp.
  template <class F> PUREKV_DEVICE std::int32_t over_warps(std::int32_t value, F const& f) const {
    simt::sync();
    if (simt::lane_index() == 0) of_warp.store(simt::warp_index(), value);
    simt::sync();
    std::int32_t all = of_warp.load(0);
    for (std::int32_t w = 1; w < Warps; ++w) all = f(all, of_warp.load(w));
    return all;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
