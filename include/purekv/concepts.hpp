// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/cpu.hpp>
#include <purekv/layout.hpp>
#include <purekv/selection.hpp>

#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace purekv::inline v0_1 {

/// Every policy is a value that can be copied to a device: it owns no memory.
template <class P>
concept Policy = std::is_trivially_copyable_v<P> && std::copy_constructible<P>;

/// Which (query, key) pairs are computed: visible(head, q, k) for a query head and two positions. The library adds
/// causality (k <= q) unless the pattern names another bound; apart from that a pattern only ever hides more. Optional
/// members, found by `requires`:
///   last_visible(q)              the last position that a query at q may see, in place of q: not before q, and not
///                                descending from query to query
///   runs(q_first, q_last, emit)  calls emit(k_first, k_last, full) for ascending, disjoint ranges of key positions
///   that
///                                hold every key some query in [q_first, q_last] sees; full: all of them see all of it
///   runs(h_first, h_last, q_first, q_last, emit)  the same for these query heads alone, where heads differ
///   tile_end(q)                  the first position after q that had better not share a query tile with q
///   tile_rows                    static: how many rows (query x head of the group) a query tile has, which ends at
///                                tile_end then. 0, or no such member: the planner does what is least work
///   per_head                     static: visible() depends on its head
///   check(last)                  status: whether the pattern is defined for positions 0 .. last
///   check_heads(heads)           status: whether it is defined for so many query heads
template <class P>
concept Pattern = Policy<P> && requires(P const& p, std::int32_t head, std::int32_t q, std::int32_t k) {
  { p.visible(head, q, k) } -> std::same_as<bool>;
};

/// What an estimator sees of one sequence of one layer. Tokens are ordinals in the cache.
template <Cache C> struct layer_input {
  using element = typename C::element;
  C cache;
  std::int32_t sequence = 0;
  std::int32_t heads = 0;

  float const* mass = nullptr;  // [heads, tokens] attention mass of the last `mass_queries` queries, if asked for,
                                // reduced as the estimator's mass_by says
  std::ptrdiff_t mass_stride = 0;

  float const* source = nullptr;  // [kv_heads, source_tokens] what a source layer or band said (cross_layer)
  std::ptrdiff_t source_stride = 0;
  std::int32_t const* source_positions = nullptr;  // [source_tokens], ascending
  std::int32_t source_tokens = 0;

  PUREKV_INLINE std::int32_t kv_heads() const { return cache.kv_heads; }
  PUREKV_INLINE std::int32_t group() const { return heads / cache.kv_heads; }
  PUREKV_INLINE std::int32_t dim() const { return cache.dim; }
  PUREKV_INLINE std::int32_t value_dim() const { return value_dim_of(cache); }
  PUREKV_INLINE std::int32_t tokens(std::int32_t kv_head) const { return cache.length(sequence, kv_head); }
  PUREKV_INLINE element const* key(std::int32_t kv_head, std::int32_t token) const {
    return cache.run(sequence, kv_head, token).keys;
  }
  PUREKV_INLINE element const* value(std::int32_t kv_head, std::int32_t token) const {
    return cache.run(sequence, kv_head, token).values;
  }
  PUREKV_INLINE std::int32_t position(std::int32_t kv_head, std::int32_t token) const {
    return *cache.run(sequence, kv_head, token).positions;
  }
};

struct layer_shape {
  std::int32_t heads, kv_heads, tokens, dim, value_dim;  // tokens: of the longest head
};

/// Rows an estimator writes: one per query head (reduce them before selecting) or one per KV head.
enum class score_rows { heads, kv_heads };

/// How the attention probabilities that a token gets from several queries, and from several heads where rows are
/// kv_heads, become one number.
enum class mass_reduction : std::int32_t { sum, maximum };

/// The scores of one sequence: row r at data + r * stride, one float per token; null where no head has a token.
struct score_out {
  float* data;
  std::ptrdiff_t stride;
  PUREKV_INLINE float* row(std::int32_t r) const { return data == nullptr ? nullptr : data + r * stride; }
};

inline constexpr std::int32_t all_queries = std::numeric_limits<std::int32_t>::max();

/// How much each token matters; larger = keep. One body for every executor: all ranks of `team` call score together and
/// split the tokens, ending with team.sync(). Members:
///   rows            static score_rows
///   mass_queries    static: how many of the last queries' attention mass it reads (0: none, all_queries: all)
///   scratch(shape)  static: floats of scratch shared by the team
///   score(team, input, out, scratch)
/// and optionally
///   signed_scores            static: true if its scores can be negative
///   mass_by                  static mass_reduction: how the mass it reads is reduced over queries; sum if not there
///   check(shape, sequences)  status: whether the views of the caller's memory that it carries fit the layer
///   check_view(shape, sequences)  the same without reading that memory, where check reads it: for scores on a GPU, of
///                            whose memory the host sees nothing
template <class E>
concept Estimator = Policy<E> && requires(E const& e, cpu const& team, layer_input<contiguous_cache<float>> const& in,
                                          score_out out, float* scratch, layer_shape shape) {
  { E::rows } -> std::convertible_to<score_rows>;
  { E::mass_queries } -> std::convertible_to<std::int32_t>;
  { E::scratch(shape) } -> std::convertible_to<std::int64_t>;
  { e.score(team, in, out, scratch) } -> std::same_as<void>;
};

/// An estimator that is evaluated at a source layer (or band of layers) and reused in others; see cross_layer.
template <class E>
concept CrossLayerEstimator = Estimator<E> && Estimator<typename E::source_estimator>;

template <class E> PUREKV_HD constexpr bool has_signed_scores() {
  if constexpr (requires { E::signed_scores; })
    return E::signed_scores;
  else
    return false;
}

struct budget_input {
  std::int32_t tokens;  // cached by this head
  std::int32_t layer = 0, layers = 1;
};

/// How many tokens a head keeps: keep(input) in [1, tokens] for tokens >= 1. check() says whether the policy itself
/// makes sense. A budget with `static constexpr bool heads_share = true` lets the heads of a layer share the sum of
/// their keeps, each keeping at least its floor(keep) best; with `layers_share = true` too, those of the whole model.
/// One whose keep reads the layer says `static constexpr bool varies_by_layer = true`.
template <class B>
concept Budget = Policy<B> && requires(B const& b, budget_input in) {
  { b.keep(in) } -> std::same_as<std::int32_t>;
  { b.check() } -> std::same_as<status>;
};

/// Which tokens are pinned: kept whatever their score. They take the budget first and may exceed it.
/// last: the newest position cached. check(last) as for patterns. Optional:
///   evicted(position, last)  bool: the token goes whatever its score and whoever pins it, because nobody will see it
template <class P>
concept Protect = Policy<P> && requires(P const& p, std::int32_t position, std::int32_t last) {
  { p.pinned(position, last) } -> std::same_as<bool>;
  { p.check(last) } -> std::same_as<status>;
};

template <class P>
concept EvictingProtect = Protect<P> && requires(P const& p, std::int32_t position, std::int32_t last) {
  { p.evicted(position, last) } -> std::same_as<bool>;
};

}  // namespace purekv::inline v0_1
