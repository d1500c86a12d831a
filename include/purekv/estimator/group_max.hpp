// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/reduce_heads.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(kv_head, t) = largest E(head, t) of the query heads that share the KV head; a NaN loses against every number.
/// E must score query heads.
template <class E> using group_max = detail::over_group<E, detail::take_max>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
