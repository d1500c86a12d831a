// SPDX-License-Identifier: Apache-2.0
#include "results_file.hpp"

#include "../error.hpp"

namespace engine {

using nlohmann::json;

results_file::results_file(std::filesystem::path file, json const& of, std::vector<planned_set> const& sets,
                           std::string item)
    : file_(std::move(file)), item_(std::move(item)) {
  auto const refuse = [&](std::string const& why) {
    throw bad_input(file_.string() + ": holds " + why + "; name another file or remove it");
  };
  std::uintmax_t whole = 0;
  std::set<std::string> described;
  if (std::ifstream in(file_); in) {
    for (std::string line; std::getline(in, line) && !in.eof(); whole += line.size() + 1) {
      json const j = json::parse(line, nullptr, false);
      if (whole == 0 && (!j.is_object() || j.value("of", json{}) != of))
        refuse("results of another model, document or seed");
      if (!j.is_object()) continue;
      if (j.contains("plan"))
        for (planned_set const& set : sets)
          if (set.name == j["of_set"]) {
            if (set.text != j["plan"]) refuse("a set '" + set.name + "' that another plan describes");
            described.insert(set.name);
          }
      if (j.contains("set")) done_.emplace(j["set"].get<std::string>(), j[item_].get<int>());
    }
    in.close();
    if (whole == 0 && std::filesystem::file_size(file_) > 0) refuse("no results");
    std::filesystem::resize_file(file_, whole);
  }
  out_.open(file_, std::ios::app);
  if (whole == 0) write({{"of", of}});
  for (planned_set const& set : sets)
    if (!described.contains(set.name)) write({{"of_set", set.name}, {"plan", set.text}});
  if (!out_) throw bad_input(file_.string() + ": cannot be written");
}

void results_file::write(json const& line) {
  out_ << line.dump(-1, ' ', false, json::error_handler_t::replace) << '\n';
  if (!out_.flush()) throw bad_input(file_.string() + ": cannot be written");
}

}  // namespace engine
