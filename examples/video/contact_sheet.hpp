// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "picture.hpp"
#include "video_file.hpp"

#include <span>
#include <string>

namespace video {

/// The positions in the cache that a compression kept: [layers][kv_heads][kept], each once.
using kept_positions = std::vector<std::vector<std::vector<std::int32_t>>>;

struct layer_group {
  std::string name;
  std::vector<int> layers;
};

/// For each token of a video that begins at position 1 the share of the group's (layer, KV head) pairs that keep it, 0
/// to 1. Other positions are ignored. Throws engine::bad_input for a group without KV heads or a layer that is not
/// there.
std::vector<double> kept_shares(kept_positions const& kept, layer_group const& group, video_shape const& shape);

constexpr double lift = 100, evicted_light = 0.15;

/// One row of frames for the video as it is, and below one for each group, where the share of a token says how bright
/// it is:
///   light = (lift + (255 - lift) pixel / 255) (evicted_light + (1 - evicted_light) share)
/// The lift is there because these videos are dark: kept and evicted background could not be told apart otherwise.
/// About 1600 pixels wide for 16 frames of 24 pixels. Throws engine::bad_input as clip::check and kept_shares do.
picture contact_sheet(clip const& c, kept_positions const& kept, std::span<layer_group const> groups);

/// What the rows are, a line for each, with the share of the video that each group keeps.
std::string caption(clip const& c, kept_positions const& kept, std::span<layer_group const> groups);

}  // namespace video
