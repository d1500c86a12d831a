// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../scene.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace video {

/// answers: questions answered; layers: how well one layer ranks the tokens for another; time: seconds of the prompt.
enum class measure { answers, layers, time };

struct evaluation_row {
  std::string pattern, preset;  // of patterns.hpp and engine/presets.hpp
  int compression = 1;
};

/// Videos of one shape, and the patterns, presets and compressions under which they are watched.
struct evaluation_set {
  std::string name;
  measure what = measure::answers;
  std::string model = "video";  // MODEL.gguf
  video_shape shape{};
  int videos = 0, questions = 10;  // of each video
  bool agnostic = true;      // compressed before the questions are known; each finds the cache as the video left it
  bool calibration = false;  // videos that policies may be chosen by, and nothing is reported of
  std::vector<evaluation_row> rows{};
  std::string text{};  // what the plan says of it
};

/// A plan is a JSON file:
///   {"seed": 2, "sets": [{"name": "...", "measure": "answers" | "layers" | "time", "model": "video", "videos": 500,
///     "frames": 16, "height": 6, "width": 6, "questions": 10, "agnostic": true, "calibration": false,
///     "rows": [{"patterns": ["dense"], "presets": ["snapkv", ...], "compressions": [5, 10]}, ...]}, ...]}
/// name and videos are needed. "full" under "dense" is measured in every set.
struct evaluation_plan {
  unsigned seed = 2;
  std::vector<evaluation_set> sets;
};

/// Throws bad_input for what is no plan, and says where.
evaluation_plan read_plan(std::filesystem::path const& file);

}  // namespace video
