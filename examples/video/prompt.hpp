// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../engine/visual_input.hpp"
#include "question.hpp"
#include "scene.hpp"

#include <array>
#include <vector>

namespace video {

/// Where things lie in a sequence: <video> patch ... patch </video> question answer.
class video_layout {
 public:
  explicit video_layout(video_shape const& shape);
  purekv::token_layout view() const { return {segments_.data(), static_cast<std::int32_t>(segments_.size())}; }

 private:
  std::array<purekv::segment, 3> segments_;
};

/// A video as the model reads it.
class prompt {
 public:
  prompt(video_shape const& shape, std::vector<std::uint8_t> const& pixels);

  static constexpr int first_patch = 1;  // its position

  std::vector<int> const& tokens() const { return tokens_; }  // <video> patch ... patch </video>
  engine::visual_input shown() const { return {layout_.view(), patches_}; }

 private:
  video_layout layout_;
  std::vector<int> tokens_;
  std::vector<float> patches_;
};

}  // namespace video
