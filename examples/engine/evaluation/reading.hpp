// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../error.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace engine {

/// A plan's file as JSON. Throws bad_input for what has no "sets".
inline nlohmann::json read_plan_file(std::filesystem::path const& file) {
  std::ifstream in(file);
  if (!in || std::filesystem::is_directory(file)) throw bad_input(file.string() + ": cannot be read");
  nlohmann::json j = nlohmann::json::parse(in, nullptr, false);
  if (j.is_discarded() || !j.is_object() || !j.contains("sets"))
    throw bad_input(file.string() + ": is not a plan, a JSON object with \"sets\"");
  return j;
}

/// A word of an enumeration: nlohmann takes an unknown one for the first.
template <class E> E word_of(nlohmann::json const& object, char const* key, E otherwise) {
  if (!object.contains(key)) return otherwise;
  E const value = object[key].get<E>();
  if (nlohmann::json(value) != object[key])
    throw bad_input(std::string("unknown \"") + key + "\": " + object[key].dump());
  return value;
}

inline void refuse_unknown(nlohmann::json const& object, std::initializer_list<char const*> known) {
  for (auto const& item : object.items())
    if (std::ranges::none_of(known, [&](char const* k) { return item.key() == k; }))
      throw bad_input("unknown key \"" + item.key() + '"');
}

/// read(set) for each set of a plan; what it throws says which.
template <class Read> auto read_sets(std::filesystem::path const& file, nlohmann::json const& plan, Read const& read) {
  std::vector<decltype(read(plan))> sets;
  std::string where = "the plan";
  try {
    for (nlohmann::json const& set : plan["sets"]) {
      where = "set " + std::to_string(sets.size() + 1);
      sets.push_back(read(set));
      for (std::size_t i = 0; i + 1 < sets.size(); ++i)
        if (sets[i].name == sets.back().name) throw bad_input("two sets have the same name");
    }
  } catch (std::exception const& e) {
    throw bad_input(file.string() + ": " + where + ": " + e.what());
  }
  return sets;
}

}  // namespace engine
