// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

template <class E> PUREKV_HD constexpr bool needs_equal_heads() {
  if constexpr (requires { E::needs_equal_heads; })
    return E::needs_equal_heads;
  else
    return false;
}

template <class E> PUREKV_HD constexpr bool needs_source() {
  if constexpr (requires { E::needs_source; })
    return E::needs_source;
  else
    return false;
}

template <class E> PUREKV_HD constexpr mass_reduction mass_by() {
  if constexpr (requires { E::mass_by; })
    return E::mass_by;
  else
    return mass_reduction::sum;
}

/// The estimator that reads a layer's attention: the one inside a cross_layer, or E itself.
template <class E> struct source_or_self { using type = E; };
template <CrossLayerEstimator E> struct source_or_self<E> { using type = typename E::source_estimator; };

PUREKV_HD constexpr std::int64_t score_count(score_rows rows, layer_shape shape) {
  return std::int64_t{rows == score_rows::heads ? shape.heads : shape.kv_heads} * shape.tokens;
}

template <Cache C> PUREKV_HD std::int32_t longest_head(layer_input<C> const& in) {
  std::int32_t longest = 0;
  for (std::int32_t h = 0; h < in.kv_heads(); ++h) longest = in.tokens(h) > longest ? in.tokens(h) : longest;
  return longest;
}

/// Calls f(row, kv_head, token) for this rank's share of the tokens of every row. An interleaved team, which can have
/// more ranks than a row has tokens, takes the rows as one.
PUREKV_CALLS template <score_rows Rows, Team G, Cache C, class F>
PUREKV_HD void for_each_score(G const& team, layer_input<C> const& in, F const& f) {
  std::int32_t const rows = Rows == score_rows::heads ? in.group() : 1;
  if constexpr (is_interleaved<G>()) {
    std::int32_t const longest = longest_head(in), end = rows * in.kv_heads();
    std::int64_t t = team.rank();
    for (std::int32_t row = 0;; t += team.size()) {
      for (; row < end && t >= longest; ++row) t -= longest;
      if (row == end) break;
      if (t < in.tokens(row / rows)) f(row, row / rows, static_cast<std::int32_t>(t));
    }
  } else {
    for (std::int32_t h = 0; h < in.kv_heads(); ++h)
      for (std::int32_t r = h * rows; r < (h + 1) * rows; ++r)
        for_share(team, in.tokens(h), [&](std::int32_t t) { f(r, h, t); });
  }
}

inline constexpr float largest_score = std::numeric_limits<float>::max();

/// The larger; a NaN loses against every number.
PUREKV_HD inline float larger_score(float a, float b) { return a > b || b != b ? a : b; }

/// Whether the caller's data that an estimator reads fits the layer, and that of what it wraps as `estimator`.
template <class E> status check_estimator(E const& e, layer_shape const& shape, std::int32_t sequences) {
  if constexpr (requires { e.check(shape, sequences); })
    if (status const s = e.check(shape, sequences); !s.ok()) return s;
  if constexpr (requires { e.estimator; }) return check_estimator(e.estimator, shape, sequences);
  return {};
}

/// The same where the host cannot read that data.
template <class E> status check_estimator_view(E const& e, layer_shape const& shape, std::int32_t sequences) {
  status s;
  if constexpr (requires { e.check_view(shape, sequences); })
    s = e.check_view(shape, sequences);
  else if constexpr (requires { e.check(shape, sequences); })
    s = e.check(shape, sequences);
  if constexpr (requires { e.estimator; })
    if (s.ok()) return check_estimator_view(e.estimator, shape, sequences);
  return s;
}

/// What an estimator that wraps another takes over from it; the other one is its member `estimator`.
template <class E> struct wrapper {
  static_assert(Estimator<E>,
                "this estimator wraps something that is not a purekv::Estimator (docs/concepts/estimator.md)");
  static constexpr score_rows rows = E::rows;
  static constexpr std::int32_t mass_queries = E::mass_queries;
  static constexpr purekv::mass_reduction mass_by = detail::mass_by<E>();
  static constexpr bool signed_scores = has_signed_scores<E>();
  static constexpr bool needs_equal_heads = detail::needs_equal_heads<E>();
  static constexpr bool needs_source = detail::needs_source<E>();
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
