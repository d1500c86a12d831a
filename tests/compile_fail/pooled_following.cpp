// expect: pooled: no more tokens can follow a peak than the width holds
// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/pooled.hpp>
#include <purekv/estimator/recency.hpp>

purekv::pooled<purekv::recency, 7, purekv::pooling::maximum, 7> wrong;
