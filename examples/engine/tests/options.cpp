// SPDX-License-Identifier: Apache-2.0
#include "../options.hpp"

#include "../error.hpp"

#include <doctest/doctest.h>

#include <string>

namespace engine {

namespace {

options parse(std::vector<std::string> words, bool with_text = true) {
  words.insert(words.begin(), "demo");
  if (with_text) words.insert(words.end(), {"--model", "m", "--document", "d"});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return parse_options(static_cast<int>(argv.size()), argv.data(), with_text);
}

std::string complaint(std::vector<std::string> const& words) {
  try {
    parse(words);
  } catch (bad_input const& e) {
    return e.what();
  }
  return "none";
}

bool contains(std::string const& text, char const* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("one row per preset and compression, the full cache once") {
  options const o = parse({"--presets", "full,snapkv,purekv", "--compressions", "5,20"});
  auto const rows = o.rows();
  REQUIRE(rows.size() == 5);
  CHECK(rows[0].preset == "full");
  CHECK(rows[2].preset == "snapkv");
  CHECK(rows[2].compression == 20);
  CHECK(o.threads >= 1);
}

TEST_CASE("an unknown preset: the known ones are named") {
  std::string const text = complaint({"--presets", "full,snapvk"});
  CHECK(contains(text, "snapvk"));
  for (std::string const& name : preset_names()) CHECK(contains(text, name.c_str()));
}

TEST_CASE("the layers of a source may follow the name of a preset") {
  CHECK(!read_preset("purekv").band);
  CHECK(read_preset("purekv@8").band->last == 8);
  preset_name const range = read_preset("purekv_deep@16-22");
  CHECK(range.name == "purekv_deep");
  CHECK(range.band->first == 16);
  CHECK(range.band->last == 22);
  for (char const* wrong : {"purekv@", "purekv@x", "purekv@3-", "purekv@5-3", "purekv@-1", "purekv@3-5x"}) {
    CAPTURE(wrong);
    CHECK(contains(complaint({"--presets", wrong}), "purekv@8 or purekv@0-10"));
  }
  CHECK(contains(complaint({"--presets", "snapkv@3"}), "has no source layers"));
}

TEST_CASE("options that make no sense are refused, naming themselves") {
  CHECK(contains(complaint({"--compressions", "0"}), "--compressions"));
  CHECK(contains(complaint({"--compressions", "-5"}), "--compressions"));
  CHECK(contains(complaint({"--cache", "int8"}), "int8"));
  CHECK(contains(complaint({"--depth", "2"}), "--depth"));
  CHECK(contains(complaint({"--new-tokens", "0"}), "--new-tokens"));
  CHECK(contains(complaint({"--tokens", "many"}), "many"));
  CHECK(contains(complaint({"--colour"}), "--colour"));
  CHECK(contains(complaint({"--stdin"}), "--chat"));
  CHECK(contains(complaint({"--chat", "--forget"}), "--stdin"));
  CHECK(contains(complaint({"--chunk", "-1"}), "--chunk"));
  CHECK(contains(complaint({"--speculate", "-1"}), "--speculate"));
  CHECK_THROWS_AS(parse({"--chat"}, false), bad_input);  // random weights find nothing
}

}  // namespace engine
