// expect: critical: the estimator scores query heads, but values belong to KV heads
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/ratio.hpp>
#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/critical.hpp>

purekv::critical<purekv::accumulated_attention, purekv::ratio> wrong;
