// expect: compressor: the first policy is not a purekv::Estimator
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/ratio.hpp>
#include <purekv/compressor.hpp>
#include <purekv/protect/none.hpp>

struct no_score {
  static constexpr purekv::score_rows rows = purekv::score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static constexpr std::int64_t scratch(purekv::layer_shape) { return 0; }
};

purekv::compressor<no_score, purekv::ratio, purekv::none> wrong;
