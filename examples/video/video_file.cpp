// SPDX-License-Identifier: Apache-2.0
#include "video_file.hpp"

#include "../engine/error.hpp"
#include "picture.hpp"

#include <algorithm>
#include <string>

namespace video {

namespace {

/// Calls f(offset in the strip, offset in the clip) for each pixel.
template <class F> void for_each_pixel(clip const& c, F f) {
  std::size_t in_strip = 0;
  for (int y = 0; y < c.shape.height * patch_side; ++y)
    for (int frame = 0; frame < c.shape.frames; ++frame)
      for (int x = 0; x < c.shape.width * patch_side; ++x, in_strip += channels) f(in_strip, c.offset(frame, y, x));
}

video_shape shape_of(std::filesystem::path const& file, picture const& p, int width) {
  std::string const size =
      file.string() + ": " + std::to_string(p.width) + " x " + std::to_string(p.height) + " pixels";
  if (p.height % patch_side != 0 || p.width % patch_side != 0)
    throw engine::bad_input(size + ": width and height must be multiples of " + std::to_string(patch_side));
  int const frame_width = width == 0 ? p.height : width * patch_side;
  if (p.width % frame_width != 0)
    throw engine::bad_input(size + " are not whole frames of " + std::to_string(frame_width) + " x " +
                            std::to_string(p.height) +
                            (width == 0 ? "; frames are squares unless told otherwise" : ""));
  return {p.width / frame_width, p.height / patch_side, frame_width / patch_side};
}

}  // namespace

std::size_t clip::offset(int frame, int y, int x) const {
  int const token = (frame * shape.height + y / patch_side) * shape.width + x / patch_side;
  int const dot = y % patch_side * patch_side + x % patch_side;
  return static_cast<std::size_t>(token) * patch_values + static_cast<std::size_t>(dot) * channels;
}

void clip::check() const {
  if (shape.frames < 1 || shape.height < 1 || shape.width < 1)
    throw engine::bad_input("the video has no frames, height or width");
  if (pixels.size() != static_cast<std::size_t>(shape.tokens()) * patch_values)
    throw engine::bad_input("the video has " + std::to_string(pixels.size()) + " values, not " +
                            std::to_string(patch_values) + " for each of " + std::to_string(shape.tokens()) +
                            " patches");
}

clip read_video(std::filesystem::path const& file, int width) {
  picture const p = read_png(file);
  clip c{shape_of(file, p, width), std::vector<std::uint8_t>(p.rgb.size())};
  for_each_pixel(
      c, [&](std::size_t from, std::size_t to) { std::copy_n(p.rgb.data() + from, channels, c.pixels.data() + to); });
  return c;
}

void write_video(std::filesystem::path const& file, clip const& c) {
  c.check();
  picture p{c.shape.frames * c.shape.width * patch_side, c.shape.height * patch_side,
            std::vector<std::uint8_t>(c.pixels.size())};
  for_each_pixel(
      c, [&](std::size_t to, std::size_t from) { std::copy_n(c.pixels.data() + from, channels, p.rgb.data() + to); });
  write_png(file, p);
}

}  // namespace video
