// SPDX-License-Identifier: Apache-2.0
#include "../evaluation/evaluation.hpp"

#include "../error.hpp"
#include "../evaluation/layer_agreement.hpp"
#include "../experiment.hpp"
#include "program.hpp"
#include "support.hpp"

#include <doctest/doctest.h>

#include <fstream>

namespace engine {

namespace {

using nlohmann::json;

evaluation_plan plan_of(std::string const& text) {
  scratch_directory const scratch;
  std::ofstream(scratch / "plan.json") << text;
  return read_plan(scratch / "plan.json");
}

std::string complaint(std::string const& text) {
  try {
    plan_of(text);
  } catch (bad_input const& e) {
    return e.what();
  }
  return "none";
}

std::string text_of(tokenizer const& words, std::span<int const> tokens) {
  std::string text;
  for (int const token : tokens) text += words.text(token);
  return text;
}

std::vector<json> lines_of(std::filesystem::path const& file) {
  std::vector<json> lines;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

}  // namespace

TEST_CASE("plans: what they say, and what is none") {
  evaluation_plan const plan = plan_of(R"({"seed": 7, "sets": [{"name": "a", "tokens": 100, "documents": 3,
      "fact": "words", "rows": [{"presets": ["snapkv", "purekv@3-5"], "compressions": [5, 10]}]},
      {"name": "b", "tokens": 50, "documents": 1, "measure": "perplexity"}]})");
  CHECK(plan.seed == 7);
  REQUIRE(plan.sets.size() == 2);
  CHECK(plan.sets[0].kind == fact_kind::words);
  CHECK(plan.sets[0].rows.size() == 4);
  CHECK(plan.sets[0].rows[2].preset == "purekv@3-5");
  CHECK(plan.sets[1].agnostic);

  auto const has = [](std::string const& text, char const* part) {
    CAPTURE(part);
    CHECK(complaint(text).find(part) != std::string::npos);
  };
  has("{", "is not a plan");
  has("[]", "is not a plan");
  has(R"({"sets": [{"name": "a", "tokens": 100}]})", "set 1");
  has(R"({"sets": [{"name": "a", "tokens": 100, "documents": 0}]})", "must be positive");
  has(R"({"sets": [{"name": "a", "tokens": 100, "documents": 1, "measure": "speed"}]})", "unknown \"measure\"");
  has(R"({"sets": [{"name": "a", "tokens": 100, "documents": 1, "token": 1}]})", "unknown key \"token\"");
  has(R"({"sets": [{"name": "a", "tokens": 1, "documents": 1, "rows": [{"presets": ["x"], "compressions": [2]}]}]})",
      "unknown preset 'x'");
  has(R"({"sets": [{"name": "a", "tokens": 1, "documents": 1}, {"name": "a", "tokens": 1, "documents": 1}]})",
      "same name");
  for (char const* shipped : {"text", "quick"})
    CHECK(read_plan(std::filesystem::path(ENGINE_PLANS) / (std::string(shipped) + ".json")).sets.size() > 2);
}

TEST_CASE("a document is the same in every set of its length; calibration has a part of the text to itself") {
  tokenizer const words(test_model());
  std::vector<int> const text = words.tokens(prose(400));
  evaluation_set set{.name = "a", .tokens = 300, .documents = 5};
  task const plain = make_task(set, 2, 1, text, words);
  CHECK(text_of(words, plain.expected) == ' ' + plain.about["code"].get<std::string>());
  CHECK(text_of(words, plain.text.document).find(plain.about["code"].get<std::string>()) != std::string::npos);
  CHECK(plain.about["depth"].get<double>() == doctest::Approx(0.5));

  set.kind = fact_kind::two;
  task const two = make_task(set, 2, 1, text, words);
  CHECK(two.about["first"] == plain.about["first"]);
  std::string const document = text_of(words, two.text.document);
  CHECK(document.find(two.about["code"].get<std::string>()) != std::string::npos);
  CHECK(document.find(two.about["second"]["code"].get<std::string>()) != std::string::npos);
  CHECK(two.about["name"] != two.about["second"]["name"]);
  CHECK(std::ranges::count(two.asked, false) > 0);
  CHECK(two.asked.front());
  CHECK(two.asked.back());

  set.kind = fact_kind::words;
  CHECK(make_task(set, 2, 1, text, words).text.question != plain.text.question);
  set.calibration = true;
  CHECK(make_task(set, 2, 1, text, words).about["first"].get<std::size_t>() + 300 <= text.size() / 4);
  set.tokens = 100000;
  CHECK_THROWS_AS(make_task(set, 0, 1, text, words), bad_input);
}

TEST_CASE("an answer ends where no more of it follows") {
  CHECK(task::ends_answer(".", fact_kind::digits));
  CHECK(task::ends_answer("", fact_kind::digits));
  CHECK_FALSE(task::ends_answer("7", fact_kind::digits));
  CHECK(task::ends_answer("7", fact_kind::words));
  CHECK_FALSE(task::ends_answer("s", fact_kind::words));
  CHECK(task::ends_answer(" and", fact_kind::words));
}

TEST_CASE("expected tokens fed at once say what greedy decoding says") {
  gguf_model const weights(test_model());
  tokenizer const words(test_model());
  engine model(weights, 2);
  std::vector<int> const text = words.tokens(prose(200));
  for (bool const agnostic : {false, true}) {
    evaluation_set const set{.name = "a",
                             .tokens = 250,
                             .documents = 4,
                             .wording = 0,
                             .agnostic = agnostic,
                             .rows = {{"streaming", 5}, {"snapkv", 4}, {"purekv", 4}, {"purekv_deep", 4}}};
    for (int i = 0; i < set.documents; ++i) {
      json const record = measure_document(model, words, set, i, 1, text, cache_element::float16);
      task const t = make_task(set, i, 1, text, words);
      std::string const code = t.about["code"];
      answer_reader const reader{[&](int token) { return words.text(token); }, [](int) { return false; },
                                 [](std::string const&) { return std::nullopt; }};
      std::vector<options::row> rows = set.rows;
      rows.insert(rows.begin(), {"full", 1});
      for (std::size_t r = 0; r < rows.size(); ++r) {
        CAPTURE(rows[r].preset);
        auto const attention = make_attention(rows[r].preset, rows[r].compression, model);
        std::vector<int> const whole = t.text.whole();
        measurement const m = agnostic ? answer_document(model, *attention, t.text, 7, reader,
                                                         [&] { model.prefill(t.text.document, *attention); })
                                       : answer_prompt(model, *attention, t.text.tokens(), 7, reader,
                                                       [&] { return model.prefill(whole, *attention); });
        json const& said = r == 0 ? record["full"] : record["rows"][r - 1];
        bool const found = m.answer.starts_with(' ' + code);
        CHECK(said["found"] == found);
        bool const more = found && m.answer.size() > code.size() + 1 && std::isdigit(m.answer[code.size() + 1]) != 0;
        CHECK(said["right"] == (found && !more));
      }
    }
  }
}

TEST_CASE("Spearman's correlation") {
  std::vector<float> const a{1, 2, 3, 4, 5}, same{10, 20, 30, 40, 500}, reversed{5, 4, 3, 2, 1}, constant(5, 1.0f);
  CHECK(spearman(a, same) == doctest::Approx(1));
  CHECK(spearman(a, reversed) == doctest::Approx(-1));
  CHECK(spearman(a, constant) == 0);
  CHECK(spearman(std::vector<float>{1, 2, 2, 3}, std::vector<float>{1, 3, 2, 4}) == doctest::Approx(0.94868));
}

TEST_CASE("evaluate goes on where it stopped, and refuses results of something else") {
  scratch_directory const scratch;
  std::ofstream(scratch / "text.txt") << prose(300);
  std::ofstream(scratch / "plan.json") << R"({"sets": [{"name": "a", "tokens": 120, "documents": 3, "rows":
      [{"presets": ["snapkv"], "compressions": [2]}]}, {"name": "p", "tokens": 120, "documents": 1, "measure":
      "perplexity"}, {"name": "l", "tokens": 120, "documents": 1, "measure": "layers"}, {"name": "t", "tokens": 120,
      "documents": 1, "measure": "time", "rows": [{"presets": ["purekv"], "compressions": [2]}]}]})";
  auto const results = scratch / "results.jsonl";
  std::string const command = std::string(ENGINE_EVALUATE) + " --model " + test_model().string() + " --document " +
                              (scratch / "text.txt").string() + " --plan " + (scratch / "plan.json").string() +
                              " --results " + results.string();
  outcome const first = run_program(command);
  CAPTURE(first.text);
  REQUIRE(first.code == 0);
  std::vector<json> const all = lines_of(results);
  REQUIRE(all.size() == 11);
  CHECK(all[0].contains("of"));

  // The last document was cut short.
  std::filesystem::resize_file(results, std::filesystem::file_size(results) - 9);
  outcome const again = run_program(command);
  CHECK(again.code == 0);
  CHECK(again.text.find("5 documents done before, 1 to go") != std::string::npos);
  std::vector<json> const repaired = lines_of(results);
  REQUIRE(repaired.size() == 11);
  CHECK(repaired.back()["set"] == all.back()["set"]);
  CHECK(repaired.back()["document"] == all.back()["document"]);
  CHECK(repaired.back().value("full", json{}) == all.back().value("full", json{}));

  auto const size = std::filesystem::file_size(results);
  std::ofstream(scratch / "text.txt") << prose(301);
  outcome const other = run_program(command);
  CHECK(other.code == 2);
  CHECK(other.text.find("holds results of another model, document or seed") != std::string::npos);
  CHECK(std::filesystem::file_size(results) == size);

  std::ofstream(scratch / "text.txt") << prose(300);
  std::ofstream(scratch / "plan.json") << R"({"sets": [{"name": "a", "tokens": 120, "documents": 3}]})";
  outcome const changed = run_program(command);
  CHECK(changed.code == 2);
  CHECK(changed.text.find("a set 'a' that another plan describes") != std::string::npos);
  CHECK(std::filesystem::file_size(results) == size);

  std::ofstream(scratch / "letter.txt") << "one line and no end";
  std::string const over_letter = command.substr(0, command.find(" --results")) + " --results ";
  outcome const letter = run_program(over_letter + (scratch / "letter.txt").string());
  CHECK(letter.code == 2);
  CHECK(std::filesystem::file_size(scratch / "letter.txt") == 19);

  outcome const nowhere = run_program(command + "/nowhere/results.jsonl");
  CHECK(nowhere.code == 2);
  CHECK(nowhere.text.find("cannot be written") != std::string::npos);
  outcome const unknown = run_program(command + " --sets a,b");
  CHECK(unknown.code == 2);
  CHECK(unknown.text.find("has no set 'b'") != std::string::npos);
}

}  // namespace engine
