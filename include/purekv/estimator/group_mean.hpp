// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/reduce_heads.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(kv_head, t) = mean of E(head, t) over the query heads that share the KV head. E must score query heads.
template <class E> using group_mean = detail::over_group<E, detail::take_mean>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
