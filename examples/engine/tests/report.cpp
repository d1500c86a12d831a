// SPDX-License-Identifier: Apache-2.0
#include "../report.hpp"

#include "../error.hpp"
#include "support.hpp"

#include <doctest/doctest.h>

#include <fstream>

namespace engine {

TEST_CASE("a table lines up, characters counted as a terminal shows them") {
  CHECK(markdown({{"a", "bb"}, {"é", "c"}}) ==
        "| a | bb |\n"
        "|---|----|\n"
        "| é | c  |\n");
}

TEST_CASE("a cell is one line") {
  CHECK(printable("  48213.\nand|more") == "48213. and more");
  CHECK(printable("").empty());
  CHECK(printable("   ").find_first_not_of(' ') == std::string::npos);
}

TEST_CASE("a row as data holds every figure, and 'right' only where somebody knows") {
  measurement m;
  m.preset = "snapkv";
  m.compression = 5;
  m.answer = "\xe2\x82";  // half a character: a token may be
  m.prefill = seconds(2);
  m.attention = seconds(0.5);
  m.cache_bytes = 10;
  m.layers = {seconds(1.5), seconds(0.5)};
  nlohmann::json const unknown = to_json(m);
  CHECK(unknown["prefill_seconds"] == 2.0);
  CHECK(unknown["cache_bytes"] == 10);
  CHECK(unknown["repetition_seconds"] == 0.0);
  CHECK(unknown["layer_seconds"] == nlohmann::json{1.5, 0.5});
  CHECK_FALSE(unknown.contains("right"));
  m.right = false;
  CHECK(to_json(m)["right"] == false);
}

TEST_CASE("a file of results is there whole or as it was") {
  scratch_directory const scratch;
  auto const file = scratch / "results.json", link = scratch / "link.json";
  auto const files = [&] {
    return std::distance(std::filesystem::directory_iterator(scratch.path()), std::filesystem::directory_iterator{});
  };
  check_writable(file);
  CHECK(files() == 0);
  write_json(file, {{"a", 1}});
  write_json(file, {{"a", 2}});
  CHECK(nlohmann::json::parse(contents(file)) == nlohmann::json{{"a", 2}});
  std::filesystem::create_symlink(file, link);
  check_writable(link);
  CHECK(nlohmann::json::parse(contents(file)) == nlohmann::json{{"a", 2}});
  write_json(link, {{"a", 3}});
  CHECK(std::filesystem::is_symlink(link));
  CHECK(nlohmann::json::parse(contents(file)) == nlohmann::json{{"a", 3}});
  CHECK(files() == 2);

  check_writable("/dev/null");
  write_json("/dev/null", {});
  CHECK_THROWS_AS(write_json("/dev/full", {}), bad_input);
  CHECK(std::filesystem::exists("/dev/full"));
  for (std::filesystem::path const& nowhere : {std::filesystem::path("/nowhere/at/all.json"), scratch.path()}) {
    CHECK_THROWS_AS(check_writable(nowhere), bad_input);
    CHECK_THROWS_AS(write_json(nowhere, {}), bad_input);
  }
  CHECK(files() == 2);
}

}  // namespace engine
