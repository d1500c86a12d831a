// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include "../error.hpp"

#include <algorithm>
#include <fstream>

namespace engine {

NLOHMANN_JSON_SERIALIZE_ENUM(measure, {{measure::answers, "answers"},
                                       {measure::perplexity, "perplexity"},
                                       {measure::time, "time"},
                                       {measure::layers, "layers"}})
NLOHMANN_JSON_SERIALIZE_ENUM(fact_kind,
                             {{fact_kind::digits, "digits"}, {fact_kind::words, "words"}, {fact_kind::two, "two"}})

namespace {

using nlohmann::json;

/// nlohmann takes an unknown word for the first one.
template <class E> E one_of(json const& set, char const* key, E otherwise) {
  if (!set.contains(key)) return otherwise;
  E const value = set[key].get<E>();
  if (json(value) != set[key]) throw bad_input(std::string("unknown \"") + key + "\": " + set[key].dump());
  return value;
}

void refuse_unknown(json const& object, std::initializer_list<char const*> known) {
  for (auto const& item : object.items())
    if (std::ranges::none_of(known, [&](char const* k) { return item.key() == k; }))
      throw bad_input("unknown key \"" + item.key() + '"');
}

evaluation_set read_set(json const& j) {
  refuse_unknown(j, {"name", "measure", "tokens", "documents", "fact", "wording", "paraphrased", "agnostic",
                     "calibration", "rows"});
  evaluation_set set;
  set.text = j.dump();
  set.name = j.at("name").get<std::string>();
  set.what = one_of(j, "measure", set.what);
  set.tokens = j.at("tokens").get<int>();
  set.documents = j.at("documents").get<int>();
  set.kind = one_of(j, "fact", set.kind);
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
  std::ifstream in(file);
  if (!in || std::filesystem::is_directory(file)) throw bad_input(file.string() + ": cannot be read");
  json const j = json::parse(in, nullptr, false);
  if (j.is_discarded() || !j.is_object() || !j.contains("sets"))
    throw bad_input(file.string() + ": is not a plan, a JSON object with \"sets\"");
  evaluation_plan plan;
  std::string where = "the plan";
  try {
    refuse_unknown(j, {"seed", "sets"});
    plan.seed = j.value("seed", 1u);
    for (json const& set : j["sets"]) {
      where = "set " + std::to_string(plan.sets.size() + 1);
      plan.sets.push_back(read_set(set));
      for (std::size_t i = 0; i + 1 < plan.sets.size(); ++i)
        if (plan.sets[i].name == plan.sets.back().name) throw bad_input("two sets have the same name");
    }
  } catch (std::exception const& e) {
    throw bad_input(file.string() + ": " + where + ": " + e.what());
  }
  return plan;
}

}  // namespace engine
