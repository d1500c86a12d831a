// expect: value_weighted: the scores of the estimator can be negative, and a larger value would lower them
// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/value_weighted.hpp>

struct key_similarity {
  static constexpr purekv::score_rows rows = purekv::score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static constexpr bool signed_scores = true;
  static constexpr std::int64_t scratch(purekv::layer_shape) { return 0; }
  void score(purekv::Team auto const&, auto const&, purekv::score_out, float*) const {}
};

purekv::value_weighted<key_similarity> wrong;
