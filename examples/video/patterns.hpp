// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../engine/pattern.hpp"

#include <string>
#include <vector>

namespace video {

/// What a video's tokens see of the video; text sees everything and everything sees text. All but dense have
/// spatial_temporal's sinks, or none:
///   dense             everything before
///   st                their own frame, and the same place in earlier frames: spatial_temporal as it stands
///   st_previous       st, and the previous frame whole
///   st_previous2      st, and the previous two frames whole
///   st_previous3      st, and the previous three
///   st_around3        of their own frame and the previous three what lies at most three places beside theirs, and the
///                     same place in earlier frames
///   st_first          st, and the first frame whole
///   st_near           st, and what lies beside that place in earlier frames
///   st_near4          of these, only the previous four frames
///   st_near_previous  st_near, and the previous frame whole
///   st_stride2        their own frame, and the same place in every second frame before
///   spatial           their own frame
///   temporal          the same place in earlier frames
///   frames4           their own frame and the previous three
///   window:N          the last N tokens, their own among them
///   random:P          themselves, and P percent of the tokens before: the same ones each time
std::vector<std::string> const& pattern_names();

/// Throws engine::bad_input, naming the known patterns, if it is none of them. The layout's segments are the caller's.
engine::pattern make_pattern(std::string const& name, purekv::token_layout const& layout);

/// Of the (query, key) pairs of `tokens` tokens that causality allows, how many the pattern shows, and how many
/// attention computes for them on the CPU with all heads of a group together.
struct density {
  double visible = 1, executed = 1;
};
density density_of(engine::pattern const& pattern, int tokens, int group);

}  // namespace video
