// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace test {

/// An estimator for compressors whose scores a test makes itself.
struct unscored {
  static constexpr purekv::score_rows rows = purekv::score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static std::int64_t scratch(purekv::layer_shape) { return 0; }
  template <class G, class Input> void score(G const&, Input const&, purekv::score_out, float*) const {}
};

}  // namespace test
