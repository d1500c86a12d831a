// SPDX-License-Identifier: Apache-2.0
#include "speculation.hpp"

#include <algorithm>
#include <iterator>

namespace engine {

std::span<int const> guess(std::span<int const> text, int most) {
  for (std::ptrdiff_t const width : {3, 2}) {
    if (most <= 0 || std::ssize(text) <= width) continue;
    auto const last = text.end() - width;
    // The place may overlap the end, but it must have something after it.
    auto const found = std::find_end(text.begin(), text.end() - 1, last, text.end());
    if (found == text.end() - 1) continue;
    auto const next = found + width;
    return {next, static_cast<std::size_t>(std::min<std::ptrdiff_t>(most, text.end() - next))};
  }
  return {};
}

}  // namespace engine
