// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/reduce_heads.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(kv_head, t) = largest E(r, t) of all rows r of the layer, the same for every KV head, whatever rows E has; a
/// NaN loses against every number. What one head looks up is not lost among those that do not.
/// All KV heads must hold the same tokens; `score` refuses a cache that was cut head by head.
template <class E> using head_max = detail::over_heads<E, detail::take_max>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
