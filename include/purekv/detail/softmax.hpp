// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/gemm.hpp>
#include <purekv/detail/logits.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The soft cap of logits: s becomes cap * tanh(s / cap), in the domain of exp2 with cap times log2(e).
class soft_cap {
 public:
  template <class TQ>
  explicit soft_cap(query_view<TQ> const& q) : cap_(q.soft_cap * log2_e), inverse_(q.soft_cap != 0 ? 1 / cap_ : 0) {}
  explicit operator bool() const { return cap_ != 0; }

  /// Relative error 3e-7; inf becomes the cap, NaN stays.
  vec operator()(vec s) const {
    vec const x = s * splat(inverse_), square = x * x;
    // Near 0, tanh(x) = x + x^3 * p(x^2) (Cephes, tanhf); beyond, 1 - 2 / (exp(2 |x|) + 1), which is 1 from 9.02 on.
    vec p = splat(-5.70498872745e-3f);
    p = fma(p, square, splat(2.06390887954e-2f));
    p = fma(p, square, splat(-5.37397155531e-2f));
    p = fma(p, square, splat(1.33314422036e-1f));
    p = fma(p, square, splat(-3.33332819422e-1f));
    vec const near = fma(s * square, p, s);
    vec const size = x < vec{} ? -x : x, bounded = size > splat(10.0f) ? splat(10.0f) : size;
    vec const far = splat(cap_) - splat(2 * cap_) / (exp2(bounded * splat(2 * log2_e)) + splat(1.0f));
    return size < splat(0.625f) ? near : x < vec{} ? -far : far;
  }
  float operator()(float s) const { return (*this)(splat(s))[0]; }

  /// The first `count` logits rounded up to whole registers.
  void apply(float* logits, std::int32_t count) const {
    for (std::int32_t i = 0; i < count; i += lanes) store(logits + i, (*this)(load(logits + i)));
  }

 private:
  float cap_, inverse_;
};

/// Whether no logit, nor any sum on the way to it, can be infinite or NaN.
inline bool finite_logits(float largest_query, float largest_key, std::int32_t dim) {
  return largest_query * largest_key * static_cast<float>(dim) < largest_logit;
}

/// Logits that are NaN become hidden, those that are infinite the largest float of their sign. The first `count`
/// rounded up to whole registers.
inline void clamp_scores(float* scores, std::int32_t count) {
  for (std::int32_t i = 0; i < count; i += lanes) {
    vec const s = load(scores + i);
    vec const below = s > splat(largest_logit) ? splat(largest_logit) : s;
    vec const inside = below < splat(-largest_logit) ? splat(-largest_logit) : below;
    store(scores + i, s == s ? inside : splat(hidden_logit));
  }
}

/// Which keys of a tile each query lane sees: those with ordinal < bound[lane], and where `low` is not null, bit k of
/// {high, low}[lane] set. bound, low, high : [block_lanes].
struct lane_mask {
  std::int32_t const* bound;
  std::int32_t const* low;
  std::int32_t const* high;
};

/// Hides the logits that a lane must not see. scores : [keys, width], keys <= 64. A width below a register: it holds
/// several keys, whose ordinals follow each other, and the mask is that of each of its lanes.
PUREKV_HOST_INLINE void hide_scores(float* scores, std::int32_t keys, std::int32_t const* ordinals,
                                    lane_mask const& mask, std::int32_t width = block_lanes) {
  std::int32_t const together = width < lanes ? lanes / width : 1;
  ivec key{};
  for (std::int32_t lane = width; lane < lanes; ++lane) key[lane] = lane / width;
  for (std::int32_t k = 0; k < keys; k += together) {
    ivec const ordinal = splat(ordinals[k]) + key;
    ivec const bit = splat(static_cast<std::int32_t>(1u << (k % 32))) << key;
    std::int32_t const* const bits = k < 32 ? mask.low : mask.high;
    for (std::int32_t lane = 0; lane < width; lane += lanes) {
      float* const s = scores + k * width + lane;
      ivec seen = load(mask.bound + lane) > ordinal;
      if (bits != nullptr) seen &= (load(bits + lane) & bit) != 0;
      store(s, seen ? load(s) : splat(hidden_logit));
    }
  }
}

/// One step of the online softmax, each lane on its own: top' = max(top, scores), rescale = exp2(top - top'),
/// scores = exp2(scores - top'), sum = rescale * sum + their sum. `top` starts at -largest_logit, so that what is
/// hidden weighs 0 however little a lane has seen. scores : [keys, block_lanes], the others : [block_lanes], of which
/// the first Vectors registers count. added_sum: where not null, the sum of these weights alone.
template <int Vectors = attend_block::vectors>
void softmax_step(float* scores, std::int32_t keys, float* top, float* sum, float* rescale,
                  float* added_sum = nullptr) {
  constexpr std::int32_t vectors = Vectors;
  vec most[vectors], added[vectors] = {};
  PUREKV_UNROLL(8)
  for (std::int32_t v = 0; v < vectors; ++v) most[v] = load(top + v * lanes);
  for (std::int32_t k = 0; k < keys; ++k) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v) most[v] = max(load(scores + k * block_lanes + v * lanes), most[v]);
  }
  for (std::int32_t k = 0; k < keys; ++k) {
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < vectors; ++v) {
      float* const s = scores + k * block_lanes + v * lanes;
      vec const p = exp2(load(s) - most[v]);
      store(s, p);
      added[v] += p;
    }
  }
  PUREKV_UNROLL(8)
  for (std::int32_t v = 0; v < vectors; ++v) {
    vec const factor = exp2(load(top + v * lanes) - most[v]);
    store(rescale + v * lanes, factor);
    store(sum + v * lanes, fma(load(sum + v * lanes), factor, added[v]));
    store(top + v * lanes, most[v]);
    if (added_sum != nullptr) store(added_sum + v * lanes, added[v]);
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
