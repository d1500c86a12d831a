// SPDX-License-Identifier: Apache-2.0
#include "prompt.hpp"

#include "words.hpp"

namespace video {

video_layout::video_layout(video_shape const& shape)
    : segments_{purekv::segment::text(0, 1), purekv::segment::video(1, shape.frames, shape.height, shape.width),
                purekv::segment::text(1 + shape.tokens(), 1 + longest_question)} {}

prompt::prompt(video_shape const& shape, std::vector<std::uint8_t> const& pixels)
    : layout_(shape), tokens_(static_cast<std::size_t>(shape.tokens()) + 2, patch_token), patches_(to_float(pixels)) {
  tokens_.front() = begin_video;
  tokens_.back() = end_video;
}

}  // namespace video
