// SPDX-License-Identifier: Apache-2.0
// The demo and the evaluation as users start them, on a model that has learnt nothing.
#include "../../engine/tests/program.hpp"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <vector>

namespace video {

namespace {

using engine::outcome;
using engine::run_program;

std::filesystem::path const model = std::filesystem::path(VIDEO_TEST_DATA) / "model.gguf";
std::filesystem::path const strip = std::filesystem::path(EXAMPLE_VIDEOS) / "0.png";

bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

outcome demo(std::string const& arguments) {
  return run_program(std::string(VIDEO_DEMO) + " --model " + model.string() + ' ' + arguments);
}

std::filesystem::path scratch() {
  auto const directory = std::filesystem::temp_directory_path() / "purekv-video-programs";
  std::filesystem::create_directories(directory);
  return directory;
}

std::vector<nlohmann::json> lines_of(std::filesystem::path const& file) {
  std::ifstream in(file);
  std::vector<nlohmann::json> result;
  for (std::string line; std::getline(in, line);) result.push_back(nlohmann::json::parse(line));
  return result;
}

}  // namespace

TEST_CASE("the demo shows one video and counts over others") {
  auto const sheet = scratch() / "sheet.png", json = scratch() / "demo.json";
  std::filesystem::remove(sheet);
  outcome const shown =
      demo("--frames 4 --height 3 --width 3 --videos 3 --questions 5 --compressions 2 --threads 2 --sheet " +
           sheet.string() + " --json " + json.string() + " --sparse-model " + model.string());
  CAPTURE(shown.text);
  REQUIRE(shown.code == 0);
  CHECK(contains(shown.text, "which one moves ?"));
  CHECK(contains(shown.text, "2x smaller"));
  CHECK(std::filesystem::file_size(sheet) > 100);
  std::ifstream in(json);
  nlohmann::json const data = nlohmann::json::parse(in);
  REQUIRE(data["rows"].size() == 7);  // full, novel, probes, two baselines; full and novel under st
  for (auto const& row : data["rows"]) {
    int asked = 0;
    for (int const n : row["asked"]) asked += n;
    CHECK(asked == 15);
    CHECK(row["cache_bytes"] > 0);
    CHECK(row["attention_seconds"] > 0);
  }
  CHECK(data["rows"][0]["cache_bytes"] > data["rows"][1]["cache_bytes"]);
}

TEST_CASE("the user's own video and question") {
  outcome const answered = demo("--video " + strip.string() + " --compressions 5 --ask \"which one moves ?\"");
  CAPTURE(answered.text);
  CHECK(answered.code == 0);
  CHECK(contains(answered.text, "which one moves ?"));
  CHECK(!contains(answered.text, "other videos"));
}

TEST_CASE("what the demo refuses") {
  auto const refused = [](std::string const& arguments, std::string const& why) {
    CAPTURE(arguments);
    outcome const result = demo(arguments);
    CAPTURE(result.text);
    CHECK(result.code == 2);
    CHECK(contains(result.text, why));
  };
  refused("--preset snapvk", "unknown preset 'snapvk'");
  refused("--pattern dnse --videos 0", "unknown pattern 'dnse'");
  refused("--ask \"where is purple ?\"", "does not know the word 'purple'");
  refused("--compressions 0", "at least 1");
  refused("--video nothing.png --ask \"which one moves ?\"", "nothing.png");
  refused("--video " + strip.string() + " --frames 3", "--frames");
  refused("--frames 17", "17");
  refused("--preset kvzip --videos 0", "cannot repeat what it saw");
  outcome const damaged = run_program(std::string(VIDEO_DEMO) + " --model " + strip.string());
  CHECK(damaged.code == 2);
  CHECK(contains(damaged.text, "0.png"));
}

TEST_CASE("an evaluation that was interrupted goes on") {
  auto const results = scratch() / "results.jsonl", plan = scratch() / "plan.json";
  std::filesystem::remove(results);
  std::filesystem::copy_file(model, scratch() / "video.gguf", std::filesystem::copy_options::overwrite_existing);
  std::ofstream(plan) << R"({"seed": 3, "sets": [
    {"name": "a", "videos": 4, "frames": 3, "height": 3, "width": 3, "questions": 3,
     "rows": [{"patterns": ["st"], "presets": ["full", "novel"], "compressions": [2]}]},
    {"name": "b", "videos": 1, "frames": 3, "height": 3, "width": 3, "measure": "layers"},
    {"name": "c", "videos": 2, "frames": 3, "height": 3, "width": 3, "measure": "time"}]})";
  std::string const command = std::string(VIDEO_EVALUATE) + " --models " + scratch().string() + " --plan " +
                              plan.string() + " --results " + results.string();
  outcome const first = run_program(command);
  CAPTURE(first.text);
  REQUIRE(first.code == 0);
  auto const all = lines_of(results);
  REQUIRE(all.size() == 4 + 7);
  std::filesystem::resize_file(results, std::filesystem::file_size(results) - 5);
  outcome const again = run_program(command);
  CHECK(again.code == 0);
  CHECK(contains(again.text, "6 videos done before, 1 to go"));
  auto const repaired = lines_of(results);
  REQUIRE(repaired.size() == all.size());
  CHECK(repaired.back()["set"] == all.back()["set"]);
  CHECK(repaired.back()["video"] == all.back()["video"]);
  if (all.back().contains("asked")) CHECK(repaired.back()["rows"] == all.back()["rows"]);

  outcome const missing = run_program(command + " --sets d");
  CHECK(missing.code == 2);
  CHECK(contains(missing.text, "has no set 'd'"));
  std::filesystem::remove(scratch() / "video.gguf");
  outcome const gone = run_program(command);
  CHECK(gone.code == 2);
  CHECK(contains(gone.text, "video.gguf"));
}

}  // namespace video
