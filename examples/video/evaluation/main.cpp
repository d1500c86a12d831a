// video_evaluate: answers about videos from compressed caches under many patterns, written as lines of JSON; goes on
// where it stopped.
// SPDX-License-Identifier: Apache-2.0
#include "../../engine/error.hpp"
#include "../../engine/evaluation/results_file.hpp"
#include "../../engine/evaluation/share_out.hpp"
#include "../../engine/options.hpp"
#include "../../engine/report.hpp"
#include "../watch.hpp"
#include "evaluation.hpp"

#include <CLI/CLI.hpp>

#include <iostream>
#include <map>

namespace video {

namespace {

using nlohmann::json;

struct arguments {
  std::filesystem::path models, plan, results;
  std::vector<std::string> sets;
  int threads = 0;
};

arguments parse(int argc, char** argv) {
  arguments a;
  CLI::App app{
      "Asks a video-language model about many videos, under the patterns, presets and compressions of a plan. Writes "
      "one line of JSON per video; started again, it goes on where it stopped."};
  app.add_option("--models", a.models, "directory of the GGUF files that the plan names")->required();
  app.add_option("--plan", a.plan, "JSON file: what to measure; see video/evaluation/plan.hpp")->required();
  app.add_option("--results", a.results, "file of JSON lines to write, or to go on with")->required();
  app.add_option("--sets", a.sets, "only these sets of the plan")->delimiter(',');
  app.add_option("--threads", a.threads, "0: all of this machine; one video each")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (CLI::Success const& e) {
    std::exit(app.exit(e));
  } catch (CLI::ParseError const& e) {
    throw engine::bad_input(e.what());
  }
  if (a.threads < 0) throw engine::bad_input("--threads cannot be negative");
  if (a.threads == 0) a.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return a;
}

struct job {
  evaluation_set const* set;
  int video;
};

int run(int argc, char** argv) {
  arguments const a = parse(argc, argv);
  evaluation_plan const plan = read_plan(a.plan);
  for (std::string const& name : a.sets)
    if (std::ranges::none_of(plan.sets, [&](evaluation_set const& s) { return s.name == name; }))
      throw engine::bad_input(a.plan.string() + ": has no set '" + name + "'");
  auto const wanted = [&](evaluation_set const& set) {
    return a.sets.empty() || std::ranges::count(a.sets, set.name) > 0;
  };
  std::map<std::string, engine::gguf_model> models;
  json of{{"seed", plan.seed}};
  std::vector<engine::planned_set> described;
  for (evaluation_set const& set : plan.sets) {
    described.push_back({set.name, set.text});
    if (!wanted(set) || models.contains(set.model)) continue;
    std::filesystem::path const file = a.models / (set.model + ".gguf");
    models.emplace(set.model, load_model(file));
    of["models"][set.model] = std::filesystem::file_size(file);
  }
  engine::results_file results(a.results, of, described, "video");

  // Times first, each by itself; then the others side by side.
  std::vector<job> timed, answered;
  for (evaluation_set const& set : plan.sets)
    if (wanted(set))
      for (int i = 0; i < set.videos; ++i)
        if (!results.has(set.name, i)) (set.what == measure::time ? timed : answered).push_back({&set, i});
  std::cout << results.count() << " videos done before, " << timed.size() + answered.size() << " to go\n" << std::flush;

  std::mutex one_at_a_time;
  engine::progress_bar bar(static_cast<int>(timed.size() + answered.size()));
  bar.step("");
  auto const worker = [&](std::vector<job> const& jobs) {
    return [&, engines = std::map<std::string, std::unique_ptr<engine::engine>>()](std::size_t n) mutable {
      job const& j = jobs[n];
      auto& model = engines[j.set->model];
      if (!model) model = std::make_unique<engine::engine>(models.at(j.set->model), 1);
      json const record = measure_video(*model, *j.set, j.video, plan.seed);
      std::lock_guard const lock(one_at_a_time);
      results.write(record);
      bar.step(j.set->name + " " + std::to_string(j.video));
    };
  };
  engine::share_out(1, timed.size(), [&] { return worker(timed); });
  engine::share_out(a.threads, answered.size(), [&] { return worker(answered); });
  return 0;
}

}  // namespace

}  // namespace video

int main(int argc, char** argv) { return engine::report_errors("video_evaluate", video::run, argc, argv); }
