// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(head, t) = sum of A(i, t) over the last `window` queries i: the vote of the observation window, per query
/// head. A sequence with fewer queries votes with those it has. SnapKV, arXiv 2404.14469; its authors pin the window
/// itself and leave its columns out of the pooling, here `recent` pins it.
template <std::int32_t Window> struct window_attention {
  static_assert(Window > 0, "window_attention: the window must be at least 1");
  static constexpr score_rows rows = score_rows::heads;
  static constexpr std::int32_t mass_queries = Window;

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape) { return 0; }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float*) const {
    detail::for_each_score<rows>(team, in, [&](std::int32_t row, std::int32_t, std::int32_t t) {
      out.row(row)[t] = in.mass[row * in.mass_stride + t];
    });
    team.sync();
  }
};

static_assert(Estimator<window_attention<16>>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
