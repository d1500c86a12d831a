// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

namespace engine {

/// A set of a plan, and the text that describes it there.
struct planned_set {
  std::string name, text;
};

/// Measurements, a line of JSON each, that a program started again goes on with. The first line says what they are of,
/// a line of its own what each set is.
class results_file {
 public:
  /// item: the member that numbers what was measured of a set, "document" or the like. Throws bad_input, and leaves the
  /// file as it is, for results of something else or of another plan. A last line that was cut short is removed.
  results_file(std::filesystem::path file, nlohmann::json const& of, std::vector<planned_set> const& sets,
               std::string item);

  bool has(std::string const& set, int item) const { return done_.contains({set, item}); }
  std::size_t count() const { return done_.size(); }
  void write(nlohmann::json const& line);

 private:
  std::filesystem::path file_;
  std::string item_;
  std::set<std::pair<std::string, int>> done_;
  std::ofstream out_;
};

}  // namespace engine
