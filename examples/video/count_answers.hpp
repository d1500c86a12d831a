// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "evaluation/plan.hpp"
#include "question.hpp"

#include "../engine/gguf_model.hpp"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace video {

/// A row of a set over all its videos.
struct row_total {
  evaluation_row row;
  std::array<int, kind_names.size()> right{}, asked{};
  std::int64_t bytes = 0;
  // Of a video's pass, by one thread, medians over a few videos: all of it, attention, compression.
  double seconds = 0, attention_seconds = 0, compression_seconds = 0;
  double executed = 1;  // what the pattern computes of dense attention
};

/// Watches the videos of a set, one on each thread, after it has timed a few of them alone.
std::vector<row_total> count_answers(engine::gguf_model const& weights, evaluation_set const& set, unsigned seed,
                                     int threads);

/// In Markdown. The first row is what attention is compared with.
std::string table(std::vector<row_total> const& rows);
nlohmann::json to_json(std::vector<row_total> const& rows);

}  // namespace video
