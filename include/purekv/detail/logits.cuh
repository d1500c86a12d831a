// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/logits.hpp>
#include <purekv/simt/math.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What a layer makes of q . k, in the domain of exp2; the same as the CPU's softmax.hpp.
struct logit_rule {
  float scale, cap, inverse_cap;  // cap 0: none

  template <class TQ> static logit_rule of(query_view<TQ> const& q) {
    float const cap = q.soft_cap * log2_e;
    return {logit_scale(q), cap, cap != 0 ? 1 / cap : 0};
  }

  /// NaN is hidden, infinite ones become the largest float of their sign.
  PUREKV_DEVICE float operator()(float product) const {
    float s = product * scale;
    if (cap != 0) s = capped(s);
    s = s > largest_logit ? largest_logit : s;
    s = s < -largest_logit ? -largest_logit : s;
    return s == s ? s : hidden_logit;
  }

 private:
  PUREKV_DEVICE float capped(float s) const {
    float const x = s * inverse_cap, square = x * x, size = x < 0 ? -x : x;
    if (size < 0.625f) {  // tanh(x) = x + x^3 p(x^2) (Cephes, tanhf)
      float p = -5.70498872745e-3f;
      p = p * square + 2.06390887954e-2f;
      p = p * square - 5.37397155531e-2f;
      p = p * square + 1.33314422036e-1f;
      p = p * square - 3.33332819422e-1f;
      return s * square * p + s;
    }
    float const bounded = size > 10.0f ? 10.0f : size;
    float const far = cap - 2 * cap / (simt::exp2(bounded * (2 * log2_e)) + 1.0f);
    return x != x ? x : x < 0 ? -far : far;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
