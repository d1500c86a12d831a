// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/copy.hpp>

#include <type_traits>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// to[i] = from[i], rounded to the type of `to`, by the lanes of a warp: in packs of 16 bytes where both rows allow it.
/// from, to : [n], not overlapping.
template <class From, class To> PUREKV_DEVICE void copy_row(From const* from, To* to, std::int32_t n) {
  std::int32_t done = 0;
  if constexpr (std::is_same_v<From, To>) {
    constexpr std::int32_t width = 16 / static_cast<std::int32_t>(sizeof(To));
    using pack = simt::pack<To, width>;
    if ((reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to)) % 16 == 0) {
      done = n / width * width;
      for (std::int32_t i = simt::lane_index() * width; i < done; i += simt::warp_threads * width)
        simt::store_global(reinterpret_cast<pack*>(to + i), simt::load_global(reinterpret_cast<pack const*>(from + i)));
    }
  }
  for (std::int32_t i = done + simt::lane_index(); i < n; i += simt::warp_threads) {
    if constexpr (std::is_same_v<From, To>)
      to[i] = from[i];
    else
      to[i] = static_cast<To>(static_cast<float>(from[i]));
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
