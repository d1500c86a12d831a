// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scene.hpp"

#include <filesystem>

namespace video {

struct clip {
  video_shape shape;
  std::vector<std::uint8_t> pixels;  // [frames, height, width, patch_side, patch_side, channels]

  /// Where the three channels of a pixel of a frame begin; y and x count pixels.
  std::size_t offset(int frame, int y, int x) const;

  /// Throws engine::bad_input if there are not as many pixels as the shape says.
  void check() const;
};

/// A video is a PNG strip: its frames side by side from left to right, as any image editor can make them. The picture's
/// height is a frame's; frames are squares unless a width, in patches, is given. Throws engine::bad_input.
clip read_video(std::filesystem::path const& file, int width = 0);
void write_video(std::filesystem::path const& file, clip const& c);

}  // namespace video
