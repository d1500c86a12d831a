// examples/video/demo.cpp: a video-language model answers questions about videos from a cache several times smaller.
// SPDX-License-Identifier: Apache-2.0
#include "../engine/error.hpp"
#include "../engine/options.hpp"
#include "../engine/report.hpp"
#include "contact_sheet.hpp"
#include "count_answers.hpp"
#include "patterns.hpp"
#include "question.hpp"
#include "video_file.hpp"
#include "watch.hpp"
#include "words.hpp"

#include "../engine/presets.hpp"

#include <CLI/CLI.hpp>

#include <iostream>
#include <thread>

namespace {

struct options {
  std::filesystem::path model, sparse_model, strip, sheet, json;
  video::video_shape shape;
  std::string preset = "novel", pattern = "dense";
  std::vector<int> compressions{5, 10};
  std::vector<std::string> asked;
  int videos = 500, questions = 10, threads = 0;
  unsigned seed = 2, index = 0;

  /// What is counted: the preset and, beside it, the best that is known.
  std::vector<std::string> presets() const {
    return preset == "probes" ? std::vector<std::string>{preset} : std::vector<std::string>{preset, "probes"};
  }
};

options parse(int argc, char** argv) {
  options o;
  CLI::App app{
      "A small video-language model watches a video of three sprites, compresses its cache, and answers questions; "
      "then "
      "it is asked about many videos."};
  app.add_option("--model", o.model, "GGUF file of scripts/train_video.sh")->required();
  app.add_option("--sparse-model", o.sparse_model, "the same, fine-tuned under pattern st: adds rows to the table");
  app.add_option("--preset", o.preset, "how the cache is compressed")->capture_default_str();
  app.add_option("--compressions", o.compressions, "how many times smaller")->capture_default_str()->delimiter(',');
  app.add_option("--pattern", o.pattern, "attention of the video's pass")->capture_default_str();
  app.add_option("--ask", o.asked, "your own question about the video; may be given several times");
  app.add_option("--frames", o.shape.frames, "of a video")->capture_default_str()->check(CLI::Range(1, 16));
  app.add_option("--height", o.shape.height, "of a frame, in patches")->capture_default_str()->check(CLI::Range(2, 16));
  app.add_option("--width", o.shape.width, "of a frame, in patches")->capture_default_str()->check(CLI::Range(2, 16));
  app.add_option("--seed", o.seed, "of the videos; the model was trained on 1")->capture_default_str();
  app.add_option("--index", o.index, "of the video that is shown")->capture_default_str();
  app.add_option("--video", o.strip, "PNG strip to show instead: frames side by side, squares unless --width is given")
      ->excludes("--frames")
      ->excludes("--height")
      ->excludes("--seed")
      ->excludes("--index");
  app.add_option("--videos", o.videos, "how many are counted; 0: none")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--questions", o.questions, "about each")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--sheet", o.sheet, "PNG file to write: what each layer keeps of the video");
  app.add_option("--threads", o.threads, "0: all of this machine")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--json", o.json, "also write every figure to this file");
  try {
    app.parse(argc, argv);
  } catch (CLI::Success const& e) {
    std::exit(app.exit(e));
  } catch (CLI::ParseError const& e) {
    throw engine::bad_input(e.what());
  }
  if (!o.strip.empty() && app.count("--width") == 0) o.shape.width = 0;
  if (o.threads == 0) o.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  for (int const c : o.compressions)
    if (c < 1) throw engine::bad_input("--compressions must be at least 1");
  engine::read_preset(o.preset);
  for (std::string const& question : o.asked) video::tokens_of(question);
  if (!o.json.empty()) engine::check_writable(o.json);
  return o;
}

/// The questions, one of each kind unless the user asks, with the answers that are known.
std::vector<video::question> questions_about(video::example const& e, options const& o) {
  std::vector<video::question> result;
  if (o.asked.empty() && o.strip.empty()) {
    video::dice random(o.seed, ~std::uint64_t{o.index});
    for (std::size_t kind = 0; kind < video::kind_names.size(); ++kind)
      result.push_back(video::ask(static_cast<video::question_kind>(kind), e.what, random));
  }
  for (std::string const& text : o.asked) result.push_back({{}, text, ""});
  if (result.empty())
    for (char const* const text : {"which one moves ?", "which one flashes ?"}) result.push_back({{}, text, ""});
  return result;
}

/// Shows one video: what is kept of it, and what is said about it from full and from compressed caches.
void show(engine::engine& model, options const& o) {
  video::example const e = video::make_example(o.seed, o.index, o.shape.width > 0 ? o.shape : video::video_shape{}, 0);
  video::clip const clip =
      o.strip.empty() ? video::clip{e.what.shape, e.pixels} : video::read_video(o.strip, o.shape.width);
  video::video_layout const layout(clip.shape);
  video::prompt const prompt(clip.shape, clip.pixels);
  auto const questions = questions_about(e, o);

  std::vector<std::vector<std::string>> cells{{"question", "full cache"}};
  for (video::question const& q : questions) cells.push_back({q.text});
  video::kept_positions kept;
  std::vector<int> compressions{1};
  compressions.insert(compressions.end(), o.compressions.begin(), o.compressions.end());
  for (std::size_t i = 0; i < compressions.size(); ++i) {
    auto const attention =
        engine::make_attention(i == 0 ? "full" : o.preset, compressions[i], model,
                               {.pattern = video::make_pattern(o.pattern, layout.view()), .layout = layout.view()});
    video::watched about(model, *attention, prompt);
    if (i > 0) cells[0].push_back(std::to_string(compressions[i]) + "x smaller");
    for (std::size_t q = 0; q < questions.size(); ++q) {
      std::string const said = about.answer(questions[q].text);
      bool const known = !questions[q].answer.empty();
      cells[q + 1].push_back(said + (known && said != questions[q].answer ? " (wrong)" : ""));
    }
    if (i == 1)
      for (int l = 0; l < model.shape().layers; ++l) kept.push_back(attention->kept(l));
  }
  std::cout << engine::markdown(cells);
  if (o.sheet.empty() || kept.empty()) return;
  std::vector<video::layer_group> groups;
  int const layers = model.shape().layers, size = (layers + 2) / 3;
  for (int first = 0; first < layers; first += size) {
    int const last = std::min(first + size, layers) - 1;
    video::layer_group group{"layers " + std::to_string(first) + " to " + std::to_string(last), {}};
    for (int l = first; l <= last; ++l) group.layers.push_back(l);
    groups.push_back(std::move(group));
  }
  video::write_png(o.sheet, video::contact_sheet(clip, kept, groups));
  std::cout << '\n'
            << o.sheet.string() << " shows what " << o.preset << " keeps at " << compressions[1] << "x:\n"
            << video::caption(clip, kept, groups);
}

video::evaluation_set rows_of(options const& o, std::string const& name, std::vector<video::evaluation_row> rows) {
  video::evaluation_set set{.name = name, .shape = o.shape, .videos = o.videos, .questions = o.questions};
  set.rows = std::move(rows);
  return set;
}

/// The preset and what it is measured against.
std::vector<video::row_total> count(engine::gguf_model const& dense, options const& o) {
  std::vector<video::evaluation_row> rows{{"dense", "full", 1}};
  for (std::string const& preset : o.presets())
    for (int const c : o.compressions) rows.push_back({"dense", preset, c});
  if (!o.compressions.empty())
    for (char const* const baseline : {"snapkv", "streaming"}) rows.push_back({"dense", baseline, o.compressions[0]});
  auto result = count_answers(dense, rows_of(o, "dense", rows), o.seed, o.threads);
  if (o.sparse_model.empty()) return result;

  engine::gguf_model const tuned = video::load_model(o.sparse_model);
  rows = {{"st", "full", 1}};
  for (int const c : o.compressions) rows.push_back({"st", o.preset, c});
  auto const more = count_answers(tuned, rows_of(o, "st", rows), o.seed, o.threads);
  result.insert(result.end(), more.begin(), more.end());
  return result;
}

int run(int argc, char** argv) {
  options const o = parse(argc, argv);
  engine::gguf_model const weights = video::load_model(o.model);
  engine::engine model(weights, 1);
  show(model, o);
  if (o.videos == 0 || !o.strip.empty() || !o.asked.empty()) return 0;
  auto const rows = count(weights, o);
  std::cout << '\n'
            << o.videos << " other videos of " << o.shape.frames << " frames of " << o.shape.height << " x "
            << o.shape.width << " patches, " << o.questions
            << " questions each, asked after the cache has been compressed\n\n"
            << video::table(rows);
  if (!o.json.empty()) engine::write_json(o.json, {{"videos", o.videos}, {"rows", video::to_json(rows)}});
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return engine::report_errors("video_demo", run, argc, argv); }
