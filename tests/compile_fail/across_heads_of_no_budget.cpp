// expect: across_heads: it wraps something that is not a purekv::Budget
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/across_heads.hpp>
#include <purekv/protect/sinks.hpp>

purekv::across_heads<purekv::sinks> wrong;
