// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace video {

struct picture {
  int width = 0, height = 0;        // in pixels
  std::vector<std::uint8_t> rgb{};  // [height, width, 3]
};

/// A PNG of any kind in red, green and blue of 8 bits; what is transparent becomes black. Throws engine::bad_input.
picture read_png(std::filesystem::path const& file);

/// Throws engine::bad_input for a file that cannot be written.
void write_png(std::filesystem::path const& file, picture const& p);

}  // namespace video
