// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// N elements that are moved as one, 16 bytes at most: at a multiple of their size.
template <class T, std::int32_t N> struct alignas(sizeof(T) * N) pack {
  static_assert(sizeof(T) * N <= 16, "pack: a thread moves 16 bytes at once");
  T at[N];
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
