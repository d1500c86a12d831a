// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/received_mass.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(head, t) = sum of A(i, t) over the last `window` queries i: the vote of the observation window, per query
/// head. A sequence with fewer queries votes with those it has. SnapKV, arXiv 2404.14469; its authors pin the window
/// itself and leave its columns out of the pooling, here `recent` pins it.
template <std::int32_t Window> struct window_attention : detail::received_mass<Window> {
  static_assert(Window > 0, "window_attention: the window must be at least 1");
};

static_assert(Estimator<window_attention<16>>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
