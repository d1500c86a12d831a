// expect: compressor: a policy is not trivially copyable; policies own no memory
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/ratio.hpp>
#include <purekv/compressor.hpp>
#include <purekv/protect/none.hpp>

#include <vector>

struct table_of_scores {
  std::vector<float> scores;
  static constexpr purekv::score_rows rows = purekv::score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static constexpr std::int64_t scratch(purekv::layer_shape) { return 0; }
  void score(purekv::Team auto const&, auto const&, purekv::score_out, float*) const {}
};

purekv::compressor<table_of_scores, purekv::ratio, purekv::none> wrong;
