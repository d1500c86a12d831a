// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

namespace engine {

/// The GGUF file that scripts/demo.sh fetched.
inline std::filesystem::path test_model() {
  char const* const file = std::getenv("ENGINE_TEST_MODEL");
  if (file == nullptr || *file == '\0') throw std::runtime_error("ENGINE_TEST_MODEL names no file");
  return file;
}

/// A directory that goes away with its content.
class scratch_directory {
 public:
  scratch_directory() : path_(std::filesystem::temp_directory_path() / ("purekv-engine-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~scratch_directory() { std::filesystem::remove_all(path_); }
  scratch_directory(scratch_directory const&) = delete;
  scratch_directory& operator=(scratch_directory const&) = delete;
  std::filesystem::path operator/(char const* name) const { return path_ / name; }
  std::filesystem::path const& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string contents(std::filesystem::path const& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// English that no model has an opinion on, long enough for the tests.
inline std::string prose(int sentences) {
  static constexpr char const* parts[] = {"The harbour master wrote the tide tables in pencil. ",
                                          "A narrow stair led from the archive to the roof. ",
                                          "Nobody had oiled the lock since the bridge was built. ",
                                          "Copper prices fell, and the old foundry closed its gates. ",
                                          "She counted seventeen boats before the fog came back. "};
  std::string text;
  for (int i = 0; i < sentences; ++i) text += std::to_string(i * 37 % 101) + ". " + parts[i * i % 5];
  return text;
}

}  // namespace engine
