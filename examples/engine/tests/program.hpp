// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace engine {

struct outcome {
  int code;
  std::string text;  // of both standard output and standard error
};

inline outcome run_program(std::string const& command) {
  FILE* const pipe = popen((command + " 2>&1 < /dev/null").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run " + command);
  outcome result{};
  std::array<char, 4096> buffer;
  while (std::size_t const n = fread(buffer.data(), 1, buffer.size(), pipe)) result.text.append(buffer.data(), n);
  result.code = WEXITSTATUS(pclose(pipe));
  return result;
}

}  // namespace engine
