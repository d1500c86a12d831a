// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Whether the values of a head are part of its key rows and so move with them.
template <Cache C> PUREKV_HD bool values_in_keys(C const& cache, std::int32_t sequence, std::int32_t head) {
  auto const run = cache.run(sequence, head, 0);
  auto const key = reinterpret_cast<std::uintptr_t>(run.keys), value = reinterpret_cast<std::uintptr_t>(run.values);
  auto const bytes = [](std::int32_t dim) { return static_cast<std::uintptr_t>(dim) * sizeof(typename C::element); };
  return run.stride == run.value_stride && value >= key && value + bytes(value_dim_of(cache)) <= key + bytes(cache.dim);
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
