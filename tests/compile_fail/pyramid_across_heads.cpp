// expect: pyramid: the heads share what the layer gets
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/across_heads.hpp>
#include <purekv/budget/pyramid.hpp>
#include <purekv/budget/ratio.hpp>

purekv::pyramid<purekv::across_heads<purekv::ratio>> wrong;
