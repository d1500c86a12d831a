// expect: value_weighted: the scores of the estimator can be negative, and a larger value would lower them
// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/key_norm.hpp>
#include <purekv/estimator/value_weighted.hpp>

purekv::value_weighted<purekv::key_norm> wrong;
