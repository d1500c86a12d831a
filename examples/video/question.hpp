// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scene.hpp"

#include <array>
#include <string>
#include <string_view>

namespace video {

enum class question_kind { at_the_end, in_a_frame, which_shape, who_moves, who_flashes, flash_when, flash_where };

/// Short names for tables, in the order of the kinds.
constexpr std::array<std::string_view, 7> kind_names{"end", "frame", "shape", "moves", "flashes", "when", "where"};

/// In words(); both end with a mark.
struct question {
  question_kind kind;
  std::string text, answer;
};

/// A question of that kind about that video; chance decides about which sprite or frame.
question ask(question_kind kind, scene const& s, dice& random);
question ask_anything(scene const& s, dice& random);

constexpr int longest_question = 12;  // tokens, with its answer

/// The video of a number. What it shows and what is asked depend on seed, index and shape only, on every machine.
struct example {
  scene what;
  std::vector<std::uint8_t> pixels;
  std::vector<question> questions;
};
example make_example(std::uint64_t seed, std::uint64_t index, video_shape const& shape, int questions);

}  // namespace video
