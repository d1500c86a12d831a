// SPDX-License-Identifier: Apache-2.0
#include "scene.hpp"

#include <algorithm>
#include <array>
#include <string_view>

namespace video {

namespace {

constexpr std::array<std::array<int, channels>, colours> paint{
    {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 1, 0}, {1, 0, 1}, {0, 1, 1}}};

constexpr std::array<std::string_view, shapes> drawing{
    "####"
    "#  #"
    "#  #"
    "####",
    "#  #"
    " ## "
    " ## "
    "#  #",
    " ## "
    "####"
    "####"
    " ## ",
    "##  "
    "##  "
    "  ##"
    "  ##"};

constexpr int background = 77, pixel_noise = 11;  // 0.3 and, as a deviation, 0.05 of full light

std::uint8_t* patch(std::vector<std::uint8_t>& pixels, video_shape const& shape, int frame, place at) {
  return pixels.data() + std::ptrdiff_t{(frame * shape.height + at.y) * shape.width + at.x} * patch_values;
}

void draw(sprite const& s, std::uint8_t* to) {
  for (char const dot : drawing[static_cast<std::size_t>(s.shape)])
    for (int const light : paint[static_cast<std::size_t>(s.colour)])
      *to++ = static_cast<std::uint8_t>(dot == '#' ? 255 * light : 0);
}

int wrapped(int position, int size) { return (position % size + size) % size; }

}  // namespace

scene::scene(video_shape const& size, dice& random) : shape(size) {
  auto const anywhere = [&] {
    int const y = random.below(size.height);
    return place{y, random.below(size.width)};
  };
  moving.colour = random.below(colours);
  do still.colour = random.below(colours);
  while (still.colour == moving.colour);
  do flashing.colour = random.below(colours);
  while (flashing.colour == moving.colour || flashing.colour == still.colour);
  for (sprite* const s : {&moving, &still, &flashing}) s->shape = random.below(shapes);

  start = anywhere();
  do {
    velocity.y = random.below(3) - 1;
    velocity.x = random.below(3) - 1;
  } while (velocity == place{});
  still_at = anywhere();
  flash_frame = random.below(size.frames);
  do flash_at = anywhere();
  while (flash_at == still_at || flash_at == moving_at(flash_frame));
}

place scene::moving_at(int frame) const {
  return {wrapped(start.y + frame * velocity.y, shape.height), wrapped(start.x + frame * velocity.x, shape.width)};
}

std::vector<std::uint8_t> render(scene const& s, dice& random) {
  std::size_t const frame_values = static_cast<std::size_t>(s.shape.height * s.shape.width * patch_values);
  std::vector<std::uint8_t> pixels(frame_values * static_cast<std::size_t>(s.shape.frames));
  for (std::size_t i = 0; i < frame_values; ++i) pixels[i] = static_cast<std::uint8_t>(random.below(background));
  for (std::size_t i = frame_values; i < pixels.size(); ++i) pixels[i] = pixels[i - frame_values];

  for (int t = 0; t < s.shape.frames; ++t) {
    draw(s.still, patch(pixels, s.shape, t, s.still_at));
    if (t == s.flash_frame) draw(s.flashing, patch(pixels, s.shape, t, s.flash_at));
    draw(s.moving, patch(pixels, s.shape, t, s.moving_at(t)));
  }
  for (std::uint8_t& p : pixels) p = static_cast<std::uint8_t>(std::clamp(p + random.noise(pixel_noise), 0, 255));
  return pixels;
}

std::vector<float> to_float(std::vector<std::uint8_t> const& pixels) {
  std::vector<float> result(pixels.size());
  std::ranges::transform(pixels, result.begin(), [](std::uint8_t p) { return static_cast<float>(p) / 255; });
  return result;
}

}  // namespace video
