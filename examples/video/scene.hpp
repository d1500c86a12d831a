// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "dice.hpp"

#include <cstdint>
#include <vector>

namespace video {

/// Sizes in patches. A patch is a token: 4 x 4 pixels of red, green and blue.
struct video_shape {
  int frames = 16, height = 6, width = 6;

  int tokens() const { return frames * height * width; }
};

constexpr int patch_side = 4, channels = 3, patch_values = patch_side * patch_side * channels;

constexpr int colours = 6, shapes = 4;  // named by words()

struct place {
  int y = 0, x = 0;
  bool operator==(place const&) const = default;
};

struct sprite {
  int colour = 0, shape = 0;
};

/// What happens in a video: one sprite moves at a constant velocity and comes back in on the other side, one stands
/// still, and one is there for a single frame. Their colours differ. The one that moves may hide the one that stands
/// still; the one that flashes hides nothing and is never hidden.
struct scene {
  scene(video_shape const& shape, dice& random);

  place moving_at(int frame) const;

  video_shape shape;
  sprite moving, still, flashing;
  place start, velocity, still_at, flash_at;
  int flash_frame = 0;
};

/// [frames, height, width, patch_side, patch_side, channels]: a fixed background of noise, the sprites, and over it all
/// noise that differs from frame to frame.
std::vector<std::uint8_t> render(scene const& s, dice& random);

/// As the model reads them, 0 to 1.
std::vector<float> to_float(std::vector<std::uint8_t> const& pixels);

}  // namespace video
