// expect: compressor: the third policy is not a purekv::Protect
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/ratio.hpp>
#include <purekv/compressor.hpp>
#include <purekv/estimator/recency.hpp>

purekv::compressor<purekv::recency, purekv::ratio, purekv::ratio> wrong;
