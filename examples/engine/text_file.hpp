// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "error.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>

namespace engine {

/// Throws bad_input if it cannot be read.
inline std::string read_text(std::filesystem::path const& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in || std::filesystem::is_directory(file)) throw bad_input(file.string() + ": cannot be read");
  return text;
}

}  // namespace engine
