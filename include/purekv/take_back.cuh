// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/change_lengths.cuh>
#include <purekv/detail/check.cuh>
#include <purekv/detail/positions.hpp>
#include <purekv/take_back.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

struct shortened_length {
  std::int32_t const* tokens;  // [sequences]

  template <Cache C> PUREKV_DEVICE std::int32_t operator()(C const& cache, std::int32_t s, std::int32_t h) const {
    std::int32_t const length = cache.length(s, h);
    return length - smaller(larger(tokens[s], 0), length);
  }
};

}  // namespace detail

/// As on the CPU. That no head holds fewer tokens is a precondition; one that does is empty afterwards.
template <Cache C> status take_back(gpu const& exec, std::int32_t const* tokens, C const& cache) {
  if (status const s = detail::check_gpu(exec); !s.ok()) return s;
  if (status const s = cache.check_view(); !s.ok()) return s;
  if (tokens == nullptr) return {errc::null_data, "take_back: tokens is null"};
  if (status const s = detail::check_reachable(exec, tokens); !s.ok()) return s;
  if (status const s = detail::check_reachable_cache(exec, cache); !s.ok()) return s;
  return detail::launch_lengths(exec, cache, detail::shortened_length{tokens});
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
