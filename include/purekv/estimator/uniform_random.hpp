// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(h, t) = hash(seed, h, position of t) / 2^24, in [0, 1): what any estimator must beat. A counter, not a
/// generator: the same on every executor, for any team, in any batch and after an eviction. Layers with the same seed
/// keep the same positions.
struct uniform_random {
  static constexpr score_rows rows = score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;

  std::uint64_t seed = 0;

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape) { return 0; }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float*) const {
    detail::for_each_score<rows>(team, in, [&](std::int32_t row, std::int32_t h, std::int32_t t) {
      std::uint64_t const counter =
          std::uint64_t{static_cast<std::uint32_t>(h)} << 32 | static_cast<std::uint32_t>(in.position(h, t));
      out.row(row)[t] = static_cast<float>(mix(mix(seed) + counter) >> 40) * 0x1p-24f;
    });
    team.sync();
  }

 private:
  /// SplitMix64: one step of its counter and its finaliser.
  PUREKV_HD static constexpr std::uint64_t mix(std::uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
};

static_assert(Estimator<uniform_random>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
