// evaluate: answers from compressed caches over many documents, written as lines of JSON; goes on where it stopped.
// SPDX-License-Identifier: Apache-2.0
#include "../error.hpp"
#include "../report.hpp"
#include "../text_file.hpp"
#include "evaluation.hpp"
#include "results_file.hpp"
#include "share_out.hpp"

#include <CLI/CLI.hpp>

#include <iostream>

namespace engine {

namespace {

using nlohmann::json;

struct arguments {
  std::filesystem::path model, document, plan, results;
  std::vector<std::string> sets;
  int threads = 0;
  bool packed_weights = false;
};

arguments parse(int argc, char** argv) {
  arguments a;
  CLI::App app{
      "Asks a language model for facts hidden in many documents, under the presets and compressions of a plan. "
      "Writes one line of JSON per document; started again, it goes on where it stopped."};
  app.add_option("--model", a.model, "GGUF file")->required();
  app.add_option("--document", a.document, "text file that the documents are cut from")->required();
  app.add_option("--plan", a.plan, "JSON file: what to measure; see evaluation/plan.hpp")->required();
  app.add_option("--results", a.results, "file of JSON lines to write, or to go on with")->required();
  app.add_option("--sets", a.sets, "only these sets of the plan")->delimiter(',');
  app.add_option("--threads", a.threads, "0: all of this machine; one document each")->capture_default_str();
  app.add_flag("--packed-weights", a.packed_weights, "leave quantised weights as they are, as the demo does");
  try {
    app.parse(argc, argv);
  } catch (CLI::Success const& e) {
    std::exit(app.exit(e));
  } catch (CLI::ParseError const& e) {
    throw bad_input(e.what());
  }
  if (a.threads < 0) throw bad_input("--threads cannot be negative");
  if (a.threads == 0) a.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return a;
}

struct job {
  evaluation_set const* set;
  int document;
};

int run(int argc, char** argv) {
  arguments const a = parse(argc, argv);
  evaluation_plan const plan = read_plan(a.plan);
  for (std::string const& name : a.sets)
    if (std::ranges::none_of(plan.sets, [&](evaluation_set const& s) { return s.name == name; }))
      throw bad_input(a.plan.string() + ": has no set '" + name + "'");
  std::string const text = read_text(a.document);
  gguf_model const weights(a.model, !a.packed_weights);
  tokenizer const words(a.model);
  std::vector<int> const tokens = words.tokens(text);
  std::vector<planned_set> described;
  for (evaluation_set const& set : plan.sets) described.push_back({set.name, set.text});
  results_file results(a.results,
                       {{"model", a.model.filename().string()},
                        {"model_bytes", std::filesystem::file_size(a.model)},
                        {"float_weights", !a.packed_weights},
                        {"document", a.document.filename().string()},
                        {"document_tokens", tokens.size()},
                        {"seed", plan.seed}},
                       described, "document");

  // Times first, each with all threads; then the others, one thread for each document.
  std::vector<job> timed, answered;
  for (evaluation_set const& set : plan.sets)
    if (a.sets.empty() || std::ranges::count(a.sets, set.name) > 0)
      for (int i = 0; i < set.documents; ++i)
        if (!results.has(set.name, i)) (set.what == measure::time ? timed : answered).push_back({&set, i});
  std::cout << results.count() << " documents done before, " << timed.size() + answered.size() << " to go\n"
            << std::flush;

  std::mutex one_at_a_time;
  progress_bar bar(static_cast<int>(timed.size() + answered.size()));
  auto const finish = [&](json const& record) {
    std::lock_guard const lock(one_at_a_time);
    results.write(record);
    bar.step(record["set"].get<std::string>() + " " + std::to_string(record["document"].get<int>()));
  };
  auto const measure_one = [&](engine& model, job const& j) {
    finish(measure_document(model, words, *j.set, j.document, plan.seed, tokens, cache_element::float16));
  };
  bar.step("");
  if (!timed.empty()) {
    engine model(weights, a.threads);
    for (job const& j : timed) measure_one(model, j);
  }
  share_out(a.threads, answered.size(), [&] {
    return [&, model = std::make_unique<engine>(weights, 1)](std::size_t n) { measure_one(*model, answered[n]); };
  });
  return 0;
}

}  // namespace

}  // namespace engine

int main(int argc, char** argv) { return engine::report_errors("evaluate", engine::run, argc, argv); }
