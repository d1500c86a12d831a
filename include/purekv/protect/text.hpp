// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/layout.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// pinned = the layout calls the position text. layout must cover every position cached.
struct text {
  token_layout layout;

  PUREKV_HD constexpr bool pinned(std::int32_t position, std::int32_t) const {
    return layout.covers(position) && layout.segments[layout.segment_of(position)].kind == modality::text;
  }

  PUREKV_HD constexpr status check(std::int32_t last) const {
    if (status const s = validate(layout); !s.ok()) return s;
    if (last >= layout.tokens()) return {errc::bad_positions, "text: the layout does not cover every position"};
    return {};
  }
};

static_assert(Protect<text>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
