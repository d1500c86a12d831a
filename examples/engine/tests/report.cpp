// SPDX-License-Identifier: Apache-2.0
#include "../report.hpp"

#include "../error.hpp"

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

  CHECK_THROWS_AS(write_json("/nowhere/at/all.json", unknown), bad_input);
}

}  // namespace engine
