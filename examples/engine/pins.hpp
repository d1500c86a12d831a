// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/compressor.hpp>
#include <purekv/layout.hpp>
#include <purekv/protect/any_of.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/protect/sinks.hpp>

namespace engine {

using sinks_and_recent = purekv::any_of<purekv::sinks, purekv::recent>;

/// What presets pin that pin sinks and recent tokens: these, or where a prompt shows something, its text instead. The
/// layout's segments are the caller's; positions beyond them are text.
struct pins {
  purekv::token_layout layout{};
  sinks_and_recent otherwise{};

  PUREKV_INLINE constexpr bool pinned(std::int32_t position, std::int32_t last) const {
    if (layout.count == 0) return otherwise.pinned(position, last);
    return !layout.covers(position) || !layout.segments[layout.segment_of(position)].has_frames();
  }
  PUREKV_INLINE constexpr purekv::status check(std::int32_t last) const {
    return layout.count == 0 ? otherwise.check(last) : validate(layout);
  }
};

static_assert(purekv::Protect<pins>);

/// A compressor that pins sinks and recent tokens, with the pins of this engine; any other as it is.
template <class Compressor> Compressor with_pins(Compressor const& c, purekv::token_layout const&) { return c; }
template <class E, class B>
purekv::compressor<E, B, pins> with_pins(purekv::compressor<E, B, sinks_and_recent> const& c,
                                         purekv::token_layout const& layout) {
  return {c.estimator, c.budget, {layout, c.protect}};
}

}  // namespace engine
