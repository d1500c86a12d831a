// expect: pooled: the width must be odd
// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/pooled.hpp>
#include <purekv/estimator/recency.hpp>

purekv::pooled<purekv::recency, 8> wrong;
