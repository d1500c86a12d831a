// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/reduce_heads.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(kv_head, t) = mean of E(r, t) over all rows r of the layer, the same for every KV head, whatever rows E has.
/// All KV heads must hold the same tokens; `score` refuses a cache that was cut head by head.
template <class E> using head_mean = detail::over_heads<E, detail::take_mean>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
