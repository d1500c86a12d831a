// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1 {

/// What a cache keeps: the pinned tokens, then the best by score, as many as the budget says.
/// With scope `layer` all KV heads keep the same tokens, ranked by the mean of their scores.
template <class E, class B, class P, selection_scope Scope = selection_scope::kv_head> struct compressor {
  static_assert(Policy<E> && Policy<B> && Policy<P>,
                "compressor: a policy is not trivially copyable; policies own no memory (docs/concepts.md)");
  static_assert(Estimator<E>, "compressor: the first policy is not a purekv::Estimator (docs/concepts.md)");
  static_assert(Budget<B>, "compressor: the second policy is not a purekv::Budget (docs/concepts.md)");
  static_assert(Protect<P>, "compressor: the third policy is not a purekv::Protect (docs/concepts.md)");
  static_assert(
      !Estimator<E> || requires { requires E::rows == score_rows::kv_heads; },
      "compressor: the estimator scores query heads; wrap it in group_mean, group_max, head_mean or head_max");
  using estimator_type = E;
  static constexpr selection_scope scope = Scope;

  [[no_unique_address]] E estimator{};
  [[no_unique_address]] B budget{};
  [[no_unique_address]] P protect{};
};

}  // namespace purekv::inline v0_1
