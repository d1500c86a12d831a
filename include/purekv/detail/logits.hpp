// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/view.hpp>

#include <limits>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

inline constexpr float largest_logit = std::numeric_limits<float>::max();
inline constexpr float hidden_logit = -std::numeric_limits<float>::infinity();

inline constexpr float log2_e = 1.44269504088896340736f;

/// What queries are multiplied with: logits live in the domain of exp2.
template <class TQ> float logit_scale(query_view<TQ> const& q) {
  return (q.scale != 0 ? q.scale : 1 / __builtin_sqrtf(static_cast<float>(q.rows.dim))) * log2_e;
}

/// The logit of a head's sink in the domain of exp2; hidden if there is none.
template <class TQ> PUREKV_HD float sink_logit(query_view<TQ> const& q, std::int32_t head) {
  if (q.sink_logits == nullptr) return hidden_logit;
  if (q.sink_logits[head] == hidden_logit) return hidden_logit;
  float const sink = q.sink_logits[head] * log2_e;
  return sink > largest_logit ? largest_logit : sink < -largest_logit ? -largest_logit : sink;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
