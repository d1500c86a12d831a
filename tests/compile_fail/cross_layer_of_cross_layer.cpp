// expect: cross_layer: a source cannot have a source itself
// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/cross_layer.hpp>
#include <purekv/estimator/recency.hpp>

purekv::cross_layer<purekv::cross_layer<purekv::recency>> wrong;
