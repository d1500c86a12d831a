// SPDX-License-Identifier: Apache-2.0
#include "contact_sheet.hpp"

#include "../engine/error.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace video {

namespace {

constexpr int sheet_width = 1600, largest_zoom = 8, gap = 3, gap_of_rows = 8;
constexpr std::uint8_t paper = 255;

/// Rows of frames, each pixel of the video a square of zoom x zoom.
class sheet {
 public:
  sheet(clip const& c, int rows)
      : clip_(c), frame_height_(c.shape.height * patch_side), frame_width_(c.shape.width * patch_side) {
    zoom_ = std::clamp(((sheet_width - gap) / c.shape.frames - gap) / frame_width_, 1, largest_zoom);
    result_.width = gap + c.shape.frames * (frame_width_ * zoom_ + gap);
    result_.height = gap_of_rows + rows * (frame_height_ * zoom_ + gap_of_rows);
    result_.rgb.assign(static_cast<std::size_t>(result_.width) * static_cast<std::size_t>(result_.height) * channels,
                       paper);
  }

  /// light(token, value) is what the token's pixels show instead of their values.
  template <class Light> void draw(int row, Light light) {
    int const top = gap_of_rows + row * (frame_height_ * zoom_ + gap_of_rows);
    for (int frame = 0; frame < clip_.shape.frames; ++frame) {
      int const left = gap + frame * (frame_width_ * zoom_ + gap);
      for (int y = 0; y < frame_height_ * zoom_; ++y)
        for (int x = 0; x < frame_width_ * zoom_; ++x) {
          std::size_t const from = clip_.offset(frame, y / zoom_, x / zoom_), token = from / patch_values;
          std::size_t const to = (static_cast<std::size_t>(top + y) * static_cast<std::size_t>(result_.width) +
                                  static_cast<std::size_t>(left + x)) *
                                 channels;
          for (std::size_t i = 0; i < channels; ++i) result_.rgb[to + i] = light(token, clip_.pixels[from + i]);
        }
    }
  }

  picture const& result() const { return result_; }

 private:
  clip const& clip_;
  int frame_height_, frame_width_, zoom_;
  picture result_;
};

}  // namespace

std::vector<double> kept_shares(kept_positions const& kept, layer_group const& group, video_shape const& shape) {
  std::vector<double> shares(static_cast<std::size_t>(shape.tokens()));
  int pairs = 0;
  for (int const layer : group.layers) {
    if (layer < 0 || static_cast<std::size_t>(layer) >= kept.size())
      throw engine::bad_input("group '" + group.name + "': there is no layer " + std::to_string(layer) + " among " +
                              std::to_string(kept.size()));
    for (std::vector<std::int32_t> const& positions : kept[static_cast<std::size_t>(layer)]) {
      ++pairs;
      for (std::int32_t const position : positions)
        if (position >= 1 && position <= shape.tokens()) shares[static_cast<std::size_t>(position - 1)] += 1;
    }
  }
  if (pairs == 0) throw engine::bad_input("group '" + group.name + "': there are no KV heads in it");
  for (double& share : shares) share /= pairs;
  return shares;
}

picture contact_sheet(clip const& c, kept_positions const& kept, std::span<layer_group const> groups) {
  c.check();
  sheet result(c, 1 + static_cast<int>(groups.size()));
  result.draw(0, [](std::size_t, std::uint8_t value) { return value; });
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::vector<double> const shares = kept_shares(kept, groups[g], c.shape);
    result.draw(1 + static_cast<int>(g), [&](std::size_t token, std::uint8_t value) {
      return static_cast<std::uint8_t>(
          std::lround((lift + (255 - lift) * value / 255) * (evicted_light + (1 - evicted_light) * shares[token])));
    });
  }
  return result.result();
}

std::string caption(clip const& c, kept_positions const& kept, std::span<layer_group const> groups) {
  std::string text = "Rows from the top, bright: kept by every KV head, dark: evicted by all\n  the video\n";
  for (layer_group const& group : groups) {
    std::vector<double> const shares = kept_shares(kept, group, c.shape);
    double const mean = std::accumulate(shares.begin(), shares.end(), 0.0) / static_cast<double>(shares.size());
    text.append("  ")
        .append(group.name)
        .append(": ")
        .append(std::to_string(std::lround(100 * mean)))
        .append(" % of the video kept\n");
  }
  return text;
}

}  // namespace video
