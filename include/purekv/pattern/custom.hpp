// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/merged_runs.hpp>
#include <purekv/detail/pattern.hpp>

namespace purekv::inline v0_1 {

/// What a block of (query, key) pairs looks like: no pair is visible, some may be, all are.
enum class coverage : std::int32_t { empty, partial, full };

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

struct no_classifier {};

/// visible(head, q, k) = predicate(head, q, k): any function of a query head and two positions.
/// The planner finds empty tiles by asking for every pair. A classifier spares it that: classifier(q_first, q_last,
/// k_first, k_last) says for a block of positions, and for all heads at once, what its coverage is; partial is always
/// right. PerHead: whether the predicate looks at its head; heads that agree share one plan.
/// A predicate with a member last_visible(q) looks ahead, see Pattern; others are causal.
template <class Predicate, class Classifier = no_classifier, bool PerHead = true> struct custom {
  static_assert(
      std::is_trivially_copyable_v<Predicate> && std::is_trivially_copyable_v<Classifier>,
      "custom: predicate and classifier must be trivially copyable; policies own no memory (docs/concepts.md)");
  static_assert(std::is_invocable_r_v<bool, Predicate const&, std::int32_t, std::int32_t, std::int32_t>,
                "custom: the predicate must be callable as bool(head, query position, key position)");

  [[no_unique_address]] Predicate predicate;
  [[no_unique_address]] Classifier classifier{};

  static constexpr bool per_head = PerHead;
  static constexpr std::int32_t block = 64;  // positions classified at once

  PUREKV_HD bool visible(std::int32_t head, std::int32_t q, std::int32_t k) const { return predicate(head, q, k); }

  PUREKV_HD std::int32_t last_visible(std::int32_t q) const
      requires(requires(Predicate const& p) { p.last_visible(std::int32_t{}); }) {
    return predicate.last_visible(q);
  }

  PUREKV_CALLS template <class F>
  PUREKV_HD void runs(std::int32_t q_first, std::int32_t q_last, F const& emit) const
      requires(!std::is_same_v<Classifier, no_classifier>) {
    detail::merged_runs<F> out(emit);
    std::int32_t const end = detail::last_visible(*this, q_last);
    for (std::int32_t k = 0;; k += block) {
      std::int32_t const last = end - k < block ? end : k + block - 1;
      coverage const seen = classifier(q_first, q_last, k, last);
      if (seen != coverage::empty) out.add(k, last, seen == coverage::full);
      if (last == end) break;
    }
    out.flush();
  }
};

template <class Predicate> custom(Predicate) -> custom<Predicate>;
template <class Predicate, class Classifier> custom(Predicate, Classifier) -> custom<Predicate, Classifier>;

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
