// examples/engine/demo_random.cpp: the demo's table without a real model: memory and speed only.
// SPDX-License-Identifier: Apache-2.0
#include "experiment.hpp"
#include "random_model.hpp"
#include "report.hpp"

#include <algorithm>
#include <iostream>
#include <random>

namespace {

int run(int argc, char** argv) {
  engine::options const o = engine::parse_options(argc, argv, false);
  engine::random_model model(o.threads);
  std::mt19937 generator(o.seed);
  auto const random_tokens = [&](int count) {
    std::vector<int> tokens(static_cast<std::size_t>(std::max(count, 1)));
    for (int& token : tokens) token = std::uniform_int_distribution(0, model.shape().vocabulary - 1)(generator);
    return tokens;
  };
  constexpr int question = 24, request = 8;
  engine::prompt const prompt{random_tokens(o.tokens - question), random_tokens(question), random_tokens(request),
                              random_tokens(request)};
  engine::answer_reader const reader{[](int) { return std::string{}; }, [](int) { return false; },
                                     [](std::string const&) { return std::nullopt; }};

  check_context(model, o, prompt);
  for (engine::options::row const& row : o.rows()) check_budget(model, o, row, prompt);
  std::cout << "Random weights: memory and speed only, the answers mean nothing. " << prompt.tokens() << " tokens, "
            << o.threads << " threads.\n\n"
            << std::flush;
  std::vector<engine::measurement> const rows = measure_rows(model, o, prompt, reader);
  std::cout << table(rows);
  nlohmann::json data{{"model", to_json(model.shape())}, {"threads", o.threads}, {"prompt_tokens", prompt.tokens()}};
  for (engine::measurement const& row : rows) data["rows"].push_back(to_json(row));
  if (!o.json.empty()) engine::write_json(o.json, data);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return engine::report_errors("demo_random", run, argc, argv); }
