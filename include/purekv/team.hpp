// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <concepts>
#include <cstdint>

namespace purekv::inline v0_1 {

/// The threads that work together on one thing: ranks 0 .. size() - 1. Every rank makes the same calls in the same
/// order; what a rank wrote before `sync` every rank may read after it. The `cpu` executor is a Team.
template <class G>
concept Team = requires(G const& team) {
  { team.rank() } -> std::same_as<std::int32_t>;
  { team.size() } -> std::same_as<std::int32_t>;
  { team.sync() } -> std::same_as<void>;
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// Whether neighbouring ranks of a team had better take neighbouring items: the threads of a GPU, which read memory
/// together. A team says so by `static constexpr bool interleaved = true`.
template <Team G> PUREKV_HD constexpr bool is_interleaved() {
  if constexpr (requires { G::interleaved; })
    return G::interleaved;
  else
    return false;
}

/// Calls f(i) for this rank's share of [0, n), in ascending order. Shares are the same in every call with the same n;
/// they are contiguous unless the team is interleaved.
PUREKV_CALLS template <Team G, class F> PUREKV_HD void for_share(G const& team, std::int32_t n, F const& f) {
  if constexpr (is_interleaved<G>()) {
    for (std::int32_t i = team.rank(); i < n; i += team.size()) f(i);
    return;
  }
  std::int32_t const begin = static_cast<std::int32_t>(std::int64_t{n} * team.rank() / team.size());
  std::int32_t const end = static_cast<std::int32_t>(std::int64_t{n} * (team.rank() + 1) / team.size());
  for (std::int32_t i = begin; i < end; ++i) f(i);
}

/// sum of f(i) for i in [0, n), the same bits for any team size: partial sums over fixed chunks, added in order.
/// All ranks call it and all get the result. scratch : [sum_scratch(n)] floats shared by the team.
inline constexpr std::int32_t sum_chunk = 1024;

PUREKV_HD inline std::int32_t sum_scratch(std::int32_t n) { return (n + sum_chunk - 1) / sum_chunk; }

PUREKV_CALLS template <Team G, class F> PUREKV_HD float sum(G const& team, std::int32_t n, F const& f, float* scratch) {
  std::int32_t const chunks = sum_scratch(n);
  for (std::int32_t c = team.rank(); c < chunks; c += team.size()) {
    std::int32_t const end = (c + 1) * sum_chunk < n ? (c + 1) * sum_chunk : n;
    float part = 0;
    for (std::int32_t i = c * sum_chunk; i < end; ++i) part += f(i);
    scratch[c] = part;
  }
  team.sync();
  float total = 0;
  for (std::int32_t c = 0; c < chunks; ++c) total += scratch[c];
  team.sync();  // nobody reuses scratch before everybody has read it
  return total;
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
