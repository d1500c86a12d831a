// expect: group_mean, group_max: the estimator has no query heads to reduce
// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/group_mean.hpp>
#include <purekv/estimator/recency.hpp>

purekv::group_mean<purekv::recency> wrong;
