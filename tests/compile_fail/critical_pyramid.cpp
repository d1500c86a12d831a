// expect: critical: the first stage needs the budget of one head, the same in every layer
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/pyramid.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/estimator/critical.hpp>
#include <purekv/estimator/recency.hpp>

purekv::critical<purekv::recency, purekv::pyramid<purekv::ratio>> wrong;
