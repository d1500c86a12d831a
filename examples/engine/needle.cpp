// SPDX-License-Identifier: Apache-2.0
#include "needle.hpp"

#include "error.hpp"
#include "experiment.hpp"
#include "prompt.hpp"
#include "report.hpp"

#include <iostream>

namespace engine {

namespace {

struct tally {
  share found;       // the code, whatever follows
  share all;         // the code and no further digit
  share where_full;  // the same, over the documents that the full cache answers
};

/// Whether the answer is right is known by then.
bool ends_code(std::string const& piece) { return piece.find_first_not_of(" 0123456789") != std::string::npos; }

std::string interval(share const& s) {
  if (s.all == 0) return "-";
  return std::to_string(s.right) + '/' + std::to_string(s.all) + " (" + with_decimals(100 * s.low(), 0) + "-" +
         with_decimals(100 * s.high(), 0) + " %)";
}

nlohmann::json to_json(share const& s) {
  return {{"right", s.right}, {"of", s.all}, {"low", s.low()}, {"high", s.high()}};
}

}  // namespace

void find_needles(engine& model, tokenizer const& words, std::span<int const> document, options const& o,
                  std::function<void(nlohmann::json const&)> const& save) {
  auto rows = o.rows();
  std::erase_if(rows, [](options::row const& row) { return row.preset == "full"; });  // the reference below
  int const runs = static_cast<int>(rows.size() + 1) * o.needles;
  nlohmann::json finished = nlohmann::json::array();
  constexpr int answer_tokens = 12;

  for (int const length : o.lengths) {
    if (document.size() < static_cast<std::size_t>(length))
      throw bad_input("the document has " + std::to_string(document.size()) + " tokens; --lengths asks for " +
                      std::to_string(length));
    std::mt19937 generator(o.seed);
    std::vector<tally> tallies(rows.size());
    share full;
    nlohmann::json answers = nlohmann::json::array();
    progress_bar bar(runs);

    for (int i = 0; i < o.needles; ++i) {
      needle const fact = needle::random(generator, o.paraphrased);
      double const depth = 0.1 + 0.8 * (i + 0.5) / o.needles;
      auto const first =
          std::uniform_int_distribution<std::size_t>(0, document.size() - static_cast<std::size_t>(length))(generator);
      prompt const p = hide(fact, document.subspan(first, static_cast<std::size_t>(length)), depth, words);
      std::vector<int> const whole_prompt = p.whole();
      int const tokens = p.tokens();
      if (tokens + answer_tokens > model.shape().context)
        throw bad_input("a document of " + std::to_string(length) + " tokens is longer than the model's context of " +
                        std::to_string(model.shape().context));
      answer_reader const reader{[&](int token) { return words.text(token); },
                                 [&](int token) { return words.ends(token) || ends_code(words.text(token)); },
                                 [&](std::string const& text) { return fact.answered_by(text); }};

      // Every preset attends to all in its lower layers, or in all: what enters those layers is computed once, of the
      // document alone if it is compressed without the question.
      recorded_prompt pass;
      bar.step(std::to_string(length) + " tokens: full");
      auto const reference = make_attention("full", 1, o.element, model);
      measurement const whole = o.agnostic ? answer_document(model, *reference, p, answer_tokens, reader,
                                                             [&] { model.record(p.document, *reference, pass); })
                                           : answer_prompt(model, *reference, tokens, answer_tokens, reader, [&] {
                                               return model.record(whole_prompt, *reference, pass);
                                             });
      full.all += 1;
      full.right += *whole.right;

      nlohmann::json record{{"name", fact.name}, {"code", fact.code}, {"depth", depth}, {"full", whole.answer}};
      for (std::size_t r = 0; r < rows.size(); ++r) {
        auto const& [preset, compression] = rows[r];
        bar.step(std::to_string(length) + " tokens: " + preset + ' ' + std::to_string(compression) + 'x');
        auto const attention = make_attention(preset, compression, o.element, model);
        auto const replay = [&] { return model.replay(pass, attention->first_layer_that_differs(), *attention); };
        measurement const m = o.agnostic ? answer_document(model, *attention, p, answer_tokens, reader, replay)
                              : attention->repeats()
                                  ? answer_document(model, *attention, p, answer_tokens, reader,
                                                    [&] { model.prefill(p.document, *attention); })
                                  : answer_prompt(model, *attention, tokens, answer_tokens, reader, replay);
        tallies[r].found.all += 1;
        tallies[r].found.right += fact.found_in(m.answer);
        tallies[r].all.all += 1;
        tallies[r].all.right += *m.right;
        tallies[r].where_full.all += *whole.right;
        tallies[r].where_full.right += *whole.right && *m.right;
        record[preset + ' ' + std::to_string(compression) + 'x'] = m.answer;
      }
      answers.push_back(record);

      nlohmann::json shares = nlohmann::json::array();
      for (std::size_t r = 0; r < rows.size(); ++r)
        shares.push_back({{"preset", rows[r].preset},
                          {"compression", rows[r].compression},
                          {"code_found", to_json(tallies[r].found)},
                          {"right", to_json(tallies[r].all)},
                          {"right_where_full_is", to_json(tallies[r].where_full)}});
      nlohmann::json so_far = finished;
      so_far.push_back({{"tokens", length}, {"full", to_json(full)}, {"presets", shares}, {"answers", answers}});
      save(so_far);
      if (i + 1 == o.needles) finished = so_far;
    }

    std::vector<std::vector<std::string>> cells{{"preset", "smaller", "code found", "right", "right where full is"}};
    cells.push_back({"full", "-", "", interval(full), ""});
    for (std::size_t r = 0; r < rows.size(); ++r)
      cells.push_back({rows[r].preset, std::to_string(rows[r].compression) + 'x', interval(tallies[r].found),
                       interval(tallies[r].all), interval(tallies[r].where_full)});
    std::cout << '\n'
              << o.needles << " documents of " << length
              << " tokens, with 95 % intervals (Wilson). Found: the answer begins with the code; right: "
              << "no further digit follows.\n\n"
              << markdown(cells) << std::flush;
  }
}

}  // namespace engine
