// expect: cross_layer: the source scores query heads, but values belong to KV heads
// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/cross_layer.hpp>

purekv::cross_layer<purekv::accumulated_attention> wrong;
