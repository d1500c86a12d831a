// expect: this estimator wraps something that is not a purekv::Estimator
// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/pooled.hpp>

struct no_score {
  static constexpr purekv::score_rows rows = purekv::score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static constexpr std::int64_t scratch(purekv::layer_shape) { return 0; }
};

purekv::pooled<no_score, 7> wrong;
