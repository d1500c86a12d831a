// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "experiment.hpp"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <iosfwd>

namespace engine {

/// A table in aligned Markdown: rows of cells, the first row is the head.
std::string markdown(std::vector<std::vector<std::string>> const& rows);

std::string table(std::vector<measurement> const& rows);
nlohmann::json to_json(measurement const& row);
nlohmann::json to_json(model_shape const& shape);

/// Throws bad_input if the file could not be written; for before the work that it is to hold.
void check_writable(std::filesystem::path const& file);

/// All of the data or, if it cannot be written, the file as it was; throws bad_input then.
void write_json(std::filesystem::path const& file, nlohmann::json const& data);

std::string with_decimals(double value, int decimals);
std::string printable(std::string const& text);  // one line, no control characters

/// "[####....] 3/25 text" on a terminal's standard error, nothing elsewhere.
class progress_bar {
 public:
  explicit progress_bar(int steps);
  ~progress_bar();
  progress_bar(progress_bar const&) = delete;
  progress_bar& operator=(progress_bar const&) = delete;
  void step(std::string const& about_to_do);

 private:
  void clear() const;
  int steps_, done_ = -1;
  bool terminal_;
};

}  // namespace engine
