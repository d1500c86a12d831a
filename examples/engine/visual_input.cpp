// SPDX-License-Identifier: Apache-2.0
#include "visual_input.hpp"

#include <algorithm>

namespace engine {

int patches_before(purekv::token_layout const& layout, std::int32_t position) {
  int patches = 0;
  for (purekv::segment const& s : std::span(layout.segments, static_cast<std::size_t>(layout.count)))
    if (s.has_frames()) patches += std::clamp(position - s.begin, 0, s.tokens());
  return patches;
}

std::array<std::int32_t, 3> rotary_coordinates(purekv::token_layout const& layout, std::int32_t position) {
  std::int32_t begin = 0;
  for (purekv::segment const& s : std::span(layout.segments, static_cast<std::size_t>(layout.count))) {
    bool const inside = position < s.end();
    if (!s.has_frames()) {
      if (inside) {
        begin += position - s.begin;
        return {begin, begin, begin};
      }
      begin += s.tokens();
    } else {
      if (inside) {
        purekv::coordinates const at = layout.at(position);
        return {begin + at.t, begin + at.y, begin + at.x};
      }
      begin += std::max({s.frames, s.height, s.width});
    }
  }
  begin += position - layout.tokens();
  return {begin, begin, begin};
}

}  // namespace engine
