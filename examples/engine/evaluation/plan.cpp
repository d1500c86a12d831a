// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include "reading.hpp"

namespace engine {

NLOHMANN_JSON_SERIALIZE_ENUM(measure, {{measure::answers, "answers"},
                                       {measure::perplexity, "perplexity"},
                                       {measure::time, "time"},
                                       {measure::layers, "layers"}})
NLOHMANN_JSON_SERIALIZE_ENUM(fact_kind,
                             {{fact_kind::digits, "digits"}, {fact_kind::words, "words"}, {fact_kind::two, "two"}})

namespace {

using nlohmann::json;

evaluation_set read_set(json const& j) {
  refuse_unknown(j, {"name", "measure", "tokens", "documents", "fact", "wording", "paraphrased", "agnostic",
                     "calibration", "rows"});
  evaluation_set set;
  set.text = j.dump();
  set.name = j.at("name").get<std::string>();
  set.what = word_of(j, "measure", set.what);
  set.tokens = j.at("tokens").get<int>();
  set.documents = j.at("documents").get<int>();
  set.kind = word_of(j, "fact", set.kind);
  if (j.contains("wording")) set.wording = j["wording"].get<int>();
  set.paraphrased = j.value("paraphrased", false);
  set.agnostic = j.value("agnostic", false) || set.what == measure::perplexity;
  set.calibration = j.value("calibration", false);
  if (set.tokens < 1 || set.documents < 1) throw bad_input("tokens and documents must be positive");
  if (set.wording && (*set.wording < 0 || *set.wording > 2)) throw bad_input("wording is 0, 1 or 2");
  if (set.paraphrased && (set.kind != fact_kind::digits || set.wording))
    throw bad_input("paraphrased questions ask for digits, told in words of their own");
  for (json const& rows : j.value("rows", json::array())) {
    refuse_unknown(rows, {"presets", "compressions"});
    for (std::string const& preset : rows.at("presets").get<std::vector<std::string>>()) {
      read_preset(preset);
      for (int const c : rows.at("compressions").get<std::vector<int>>()) {
        if (c < 1) throw bad_input("compressions must be at least 1");
        set.rows.push_back({preset, c});
      }
    }
  }
  return set;
}

}  // namespace

evaluation_plan read_plan(std::filesystem::path const& file) {
  json const j = read_plan_file(file);
  evaluation_plan plan;
  try {
    refuse_unknown(j, {"seed", "sets"});
    plan.seed = j.value("seed", 1u);
  } catch (std::exception const& e) {
    throw bad_input(file.string() + ": the plan: " + e.what());
  }
  plan.sets = read_sets(file, j, read_set);
  return plan;
}

}  // namespace engine
