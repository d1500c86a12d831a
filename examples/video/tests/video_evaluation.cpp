// SPDX-License-Identifier: Apache-2.0
// Counting answers, on a model that has learnt nothing.
#include "../evaluation/evaluation.hpp"

#include "../../engine/error.hpp"
#include "../../engine/presets.hpp"
#include "../../engine/tests/support.hpp"
#include "../patterns.hpp"
#include "../watch.hpp"
#include "../words.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <numeric>

namespace video {

namespace {

std::filesystem::path const data = VIDEO_TEST_DATA;

evaluation_plan plan_of(std::string const& text) {
  std::filesystem::path const file = std::filesystem::temp_directory_path() / "purekv-video-plan.json";
  std::ofstream(file) << text;
  return read_plan(file);
}

evaluation_set small_set(std::string const& rows, std::string const& more = "") {
  return plan_of(R"({"sets": [{"name": "a", "videos": 3, "frames": 4, "height": 3, "width": 3, "questions": 14)" +
                 more + R"(, "rows": [)" + rows + "]}]}")
      .sets.at(0);
}

constexpr char const* two_patterns = R"({"patterns": ["dense", "st"], "presets": ["full"]},
  {"patterns": ["st", "dense"], "presets": ["streaming", "snapkv"], "compressions": [1, 2]})";

}  // namespace

TEST_CASE("a plan") {
  evaluation_set const set = small_set(two_patterns);
  CHECK(set.shape.tokens() == 36);
  REQUIRE(set.rows.size() == 10);
  CHECK(set.rows[0].preset == "full");
  for (std::size_t i = 0; i < set.rows.size(); ++i) CHECK(set.rows[i].pattern == (i < 5 ? "dense" : "st"));
  CHECK(set.agnostic);

  auto const refused = [&](std::string const& text, char const* why) {
    CHECK_THROWS_WITH_AS(plan_of(text), doctest::Contains(why), engine::bad_input);
  };
  refused("{", "is not a plan");
  refused(R"({"sets": [{"videos": 1}]})", "name");
  refused(R"({"sets": [{"name": "a", "videos": 0}]})", "must be positive");
  refused(R"({"sets": [{"name": "a", "videos": 1, "frames": 0}]})", "at least 1 frame");
  refused(R"({"sets": [{"name": "a", "videos": 1, "vidoes": 1}]})", "unknown key \"vidoes\"");
  refused(R"({"sets": [{"name": "a", "videos": 1, "measure": "speed"}]})", "unknown \"measure\"");
  refused(R"({"sets": [{"name": "a", "videos": 1, "rows": [{"presets": ["snapvk"]}]}]})", "unknown preset 'snapvk'");
  refused(R"({"sets": [{"name": "a", "videos": 1, "rows": [{"patterns": ["sd"], "presets": ["full"]}]}]})", "'sd'");
  refused(R"({"sets": [{"name": "a", "videos": 1}, {"name": "a", "videos": 1}]})", "same name");
}

TEST_CASE("answers are those of greedy decoding from the same cache") {
  engine::gguf_model const weights = load_model(data / "model.gguf");
  engine::engine model(weights, 1);
  evaluation_set set = small_set(two_patterns);
  for (int index = 0; index < 3; ++index) {
    nlohmann::json const record = measure_video(model, set, index, 11);
    example const e = make_example(11, static_cast<unsigned>(index), set.shape, set.questions);
    auto const asked = record["asked"].get<std::vector<int>>();
    CHECK(std::accumulate(asked.begin(), asked.end(), 0) == set.questions);
    REQUIRE(record["rows"].size() == set.rows.size());
    video_layout const layout(set.shape);
    for (std::size_t i = 0; i < set.rows.size(); ++i) {
      evaluation_row const& row = set.rows[i];
      CAPTURE(row.pattern);
      CAPTURE(row.preset);
      auto const attention =
          engine::make_attention(row.preset, row.compression, model,
                                 {.pattern = make_pattern(row.pattern, layout.view()), .layout = layout.view()});
      prompt const p(set.shape, e.pixels);
      watched about(model, *attention, p);
      // The model's own answers take the place of the truth, so that there is something to be right about.
      for (question const& q : e.questions) {
        std::string const said = about.answer(q.text);
        CHECK(about.answers(q.text, said));
        CHECK(about.answers(q.text, q.answer) == (said == q.answer));
        std::vector<int> other = tokens_of(said);
        other[0] = (other[0] + 1) % static_cast<int>(words().size());
        CHECK(!about.answers(q.text, text_of(other)));
      }
      CHECK(record["rows"][i]["bytes"] == attention->cache_bytes());
      auto const& kept = record["rows"][i]["kept"];
      double const all = kept["others"];
      if (row.compression == 1) CHECK(all == 1);
      if (row.compression == 2) CHECK(all < 1);
    }
  }
}

TEST_CASE("a question that is part of the prompt") {
  engine::gguf_model const weights = load_model(data / "model.gguf");
  engine::engine model(weights, 1);
  evaluation_set const set = small_set(two_patterns, R"(, "agnostic": false)");
  nlohmann::json const record = measure_video(model, set, 1, 11);
  // Nothing is evicted at 1x: the same right answers as with the full cache of the same pattern.
  for (std::size_t const first : {0u, 5u})
    for (std::size_t i = first; i < first + 5; ++i)
      if (set.rows[i].compression == 1) CHECK(record["rows"][i]["right"] == record["rows"][first]["right"]);
  evaluation_set const probing = small_set(R"({"presets": ["probes"], "compressions": [2]})", R"(, "agnostic": false)");
  CHECK_THROWS_WITH_AS(measure_video(model, probing, 0, 1), doctest::Contains("before the question is known"),
                       engine::bad_input);
}

TEST_CASE("a preset that reads one position a token") {
  engine::gguf_model const weights = load_model(data / "model.gguf");
  engine::engine model(weights, 1);
  CHECK_THROWS_WITH_AS(engine::make_attention("expected_attention", 2, model),
                       doctest::Contains("rotary embedding in sections"), engine::bad_input);
}

TEST_CASE("probes are questions that the model understands") {
  CHECK(probes().size() > 50);
  for (std::string const& probe : probes()) CHECK(tokens_of(probe).size() <= longest_question);
}

}  // namespace video
