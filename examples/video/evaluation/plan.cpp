// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include "../../engine/evaluation/reading.hpp"
#include "../../engine/presets.hpp"
#include "../patterns.hpp"
#include "../prompt.hpp"

namespace video {

NLOHMANN_JSON_SERIALIZE_ENUM(measure,
                             {{measure::answers, "answers"}, {measure::layers, "layers"}, {measure::time, "time"}})

namespace {

using engine::bad_input;
using nlohmann::json;

evaluation_set read_set(json const& j) {
  engine::refuse_unknown(j, {"name", "measure", "model", "videos", "frames", "height", "width", "questions", "agnostic",
                             "calibration", "rows"});
  evaluation_set set;
  set.text = j.dump();
  set.name = j.at("name").get<std::string>();
  set.what = engine::word_of(j, "measure", set.what);
  set.model = j.value("model", set.model);
  set.shape = {j.value("frames", set.shape.frames), j.value("height", set.shape.height),
               j.value("width", set.shape.width)};
  set.videos = j.at("videos").get<int>();
  set.questions = j.value("questions", set.questions);
  set.agnostic = j.value("agnostic", set.agnostic);
  set.calibration = j.value("calibration", false);
  if (set.videos < 1 || set.questions < 1) throw bad_input("videos and questions must be positive");
  if (set.shape.frames < 1 || set.shape.height < 2 || set.shape.width < 2)
    throw bad_input("a video has at least 1 frame of 2 x 2 patches");
  video_layout const layout(set.shape);
  set.rows.push_back({"dense", "full", 1});
  for (json const& rows : j.value("rows", json::array())) {
    engine::refuse_unknown(rows, {"patterns", "presets", "compressions"});
    for (std::string const& pattern : rows.value("patterns", std::vector<std::string>{"dense"})) {
      make_pattern(pattern, layout.view());
      for (std::string const& preset : rows.at("presets").get<std::vector<std::string>>()) {
        engine::read_preset(preset);
        for (int const c : rows.value("compressions", std::vector<int>{1})) {
          if (c < 1) throw bad_input("compressions must be at least 1");
          if (pattern != "dense" || preset != "full") set.rows.push_back({pattern, preset, c});
        }
      }
    }
  }
  // Rows of one pattern side by side, for they share the video's pass; in the order in which the plan names patterns.
  std::vector<std::string> patterns;
  for (evaluation_row const& row : set.rows)
    if (std::ranges::count(patterns, row.pattern) == 0) patterns.push_back(row.pattern);
  std::ranges::stable_sort(set.rows, {}, [&](evaluation_row const& row) {
    return std::ranges::find(patterns, row.pattern) - patterns.begin();
  });
  return set;
}

}  // namespace

evaluation_plan read_plan(std::filesystem::path const& file) {
  json const j = engine::read_plan_file(file);
  evaluation_plan plan;
  try {
    engine::refuse_unknown(j, {"seed", "sets"});
    plan.seed = j.value("seed", plan.seed);
  } catch (std::exception const& e) {
    throw bad_input(file.string() + ": the plan: " + e.what());
  }
  plan.sets = engine::read_sets(file, j, read_set);
  return plan;
}

}  // namespace video
