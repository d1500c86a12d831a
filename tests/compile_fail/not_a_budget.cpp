// expect: compressor: the second policy is not a purekv::Budget
// SPDX-License-Identifier: Apache-2.0
#include <purekv/compressor.hpp>
#include <purekv/estimator/recency.hpp>
#include <purekv/protect/none.hpp>

struct half_of_them {
  int keep(int tokens) const { return tokens / 2; }
};

purekv::compressor<purekv::recency, half_of_them, purekv::none> wrong;
