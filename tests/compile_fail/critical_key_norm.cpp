// expect: critical: the scores of the estimator can be negative, and a larger value would lower them
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/ratio.hpp>
#include <purekv/estimator/critical.hpp>
#include <purekv/estimator/key_norm.hpp>

purekv::critical<purekv::key_norm, purekv::ratio> wrong;
