// SPDX-License-Identifier: Apache-2.0
// Patterns chosen at run time, and probes, with a model that needs no file.
#include "../pattern.hpp"

#include "../cache_memory.hpp"
#include "../error.hpp"
#include "../experiment.hpp"
#include "../random_model.hpp"

#include <doctest/doctest.h>
#include <purekv/append.hpp>
#include <purekv/attend.hpp>

#include <numeric>
#include <random>
#include <set>

namespace engine {

namespace {

constexpr int tokens = 120, more = 3;

/// Text, a video of 6 frames of 3 x 5, and text as far as positions go.
purekv::segment const segments[] = {purekv::segment::text(0, 7), purekv::segment::video(7, 6, 3, 5),
                                    purekv::segment::text(97, INT32_MAX - 97)};
purekv::token_layout const layout{segments, 3};

bool is_text(int position) { return position < 7 || position >= 97; }

std::vector<int> some_tokens(int count, int first = 3) {
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) ids[static_cast<std::size_t>(i)] = (first + 37 * i) % 4096;
  return ids;
}

/// Attention without any of this engine's parts: everything is cached in float, and a pattern of its own type, which
/// knows no ranges, says what is seen.
template <class Predicate> class plain_attention final : public attention {
 public:
  plain_attention(model_shape const& model, Predicate const& seen) : model_(model), seen_{seen} {}

  void begin(int prompt_tokens, int new_tokens) override {
    layers_.clear();
    for (int l = 0; l < model_.layers; ++l)
      layers_.push_back(std::make_unique<cache_memory<float>>(
          meter_, std::int64_t{model_.kv_heads} * (prompt_tokens + new_tokens), model_.kv_heads, model_.dim));
    caches_.clear();
    for (auto const& layer : layers_) caches_.push_back(layer->contiguous());
  }
  void open(int, int, std::int32_t const*) override {
    if (work_.bytes() == 0) work_ = aligned_memory(std::size_t{1} << 24);
  }
  purekv::status run(purekv::cpu exec, int layer, layer_rows const& rows) override {
    auto const heads = [&](auto* data, int n) { return purekv::token_major(data, n, rows.tokens, model_.dim); };
    auto const q = queries_of(model_, rows);
    auto const& cache = caches_[static_cast<std::size_t>(layer)];
    purekv::status const s =
        purekv::append(exec, heads(rows.k, model_.kv_heads), heads(rows.v, model_.kv_heads), q.batch, cache);
    if (!s.ok()) return s;
    auto seen = [this, layer](int, int query, int key) { return seen_(layer, query, key); };
    return purekv::attend(exec, purekv::custom<decltype(seen), purekv::no_classifier, false>{seen}, q, cache,
                          heads(rows.out, model_.heads), purekv::attend_taps{}, {work_.data(), work_.bytes()});
  }
  void close(int) override {}

 private:
  model_shape model_;
  Predicate seen_;
  cache_meter meter_;
  std::vector<std::unique_ptr<cache_memory<float>>> layers_;
  std::vector<purekv::contiguous_cache<float>> caches_;
  aligned_memory work_;
};

/// Logits after the prompt, and after each of some more tokens.
std::vector<std::vector<float>> logits(language_model& model, attention& attention) {
  std::vector<int> const ids = some_tokens(tokens + more);
  attention.begin(tokens, more);
  std::vector<std::vector<float>> result{model.prefill(std::span(ids).first(tokens), attention)};
  for (int i = tokens; i < tokens + more; ++i)
    result.push_back(model.decode(ids[static_cast<std::size_t>(i)], i, attention));
  return result;
}

std::vector<std::vector<float>> logits(language_model& model, purekv::per_layer<pattern> const& seen,
                                       std::string const& preset = "full") {
  auto const attention = make_attention(preset, 1, model, {.element = cache_element::float32, .pattern = seen});
  return logits(model, *attention);
}

double worst(std::vector<std::vector<float>> const& a, std::vector<std::vector<float>> const& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < a[i].size(); ++j) most = std::max(most, std::abs(double{a[i][j]} - b[i][j]));
  return most;
}

/// What the policy's page says of `spatial_temporal{layout}`.
bool st_shows(int q, int k) {
  int const a = q - 7, b = k - 7;
  return k < 4 || is_text(q) || is_text(k) || a / 15 == b / 15 || a % 15 == b % 15;
}

answer_reader const nothing_to_read{[](int) { return std::string{}; }, [](int) { return false; },
                                    [](std::string const&) { return std::nullopt; }};

/// What each head of each layer keeps, [layers, kv_heads].
using kept_positions = std::vector<std::vector<std::vector<std::int32_t>>>;

kept_positions kept_after(random_model& model, std::string const& preset, int times,
                          std::vector<std::vector<int>> const& probes, pattern const& seen = {}) {
  prompt const p{some_tokens(tokens), {}, {}, {}, probes};
  auto const attention = make_attention(preset, times, model, {.pattern = seen});
  CHECK(attention->asks_probes());
  compress_document(model, *attention, p, 4, [&] { model.prefill(p.document, *attention); });
  kept_positions result;
  for (int l = 0; l < model.shape().layers; ++l) result.push_back(attention->kept(l));
  return result;
}

std::size_t total(std::vector<std::vector<std::int32_t>> const& heads) {
  return std::accumulate(heads.begin(), heads.end(), std::size_t{0},
                         [](std::size_t sum, auto const& head) { return sum + head.size(); });
}

}  // namespace

TEST_CASE("dense by name is dense, to the bit") {
  random_model model(2);
  auto const expected = logits(model, pattern{});
  CHECK(logits(model, pattern{purekv::sliding_window{INT32_MAX}}) == expected);
  plain_attention plain(model.shape(), [](int, int, int) { return true; });
  CHECK(worst(logits(model, plain), expected) < 1e-3);
}

TEST_CASE("a sparse prompt, and what comes after it, is what masked attention makes of it") {
  random_model model(2);
  auto const dense = logits(model, pattern{});
  auto const check = [&](pattern const& seen, auto const& shows) {
    plain_attention plain(model.shape(), [&](int, int q, int k) { return shows(q, k); });
    auto const expected = logits(model, plain);
    CHECK(worst(logits(model, seen), expected) < 1e-3);
    CHECK(worst(logits(model, seen, "snapkv"), expected) < 1e-3);
    CHECK(worst(dense, expected) > 1e-2);
  };
  check(purekv::spatial_temporal{layout}, st_shows);
  sees_newest const newest{{layout}, 9};
  check(newest_and_text{newest, newest}, [](int q, int k) { return is_text(q) || is_text(k) || q - k < 9; });
  sees_at_random const some{{layout}, 0.2, 7};
  check(random_and_text{some, some}, [&](int q, int k) { return is_text(q) || is_text(k) || q == k || some(0, q, k); });
}

TEST_CASE("every layer may have a pattern of its own") {
  random_model model(2);
  std::vector<pattern> each(static_cast<std::size_t>(model.shape().layers));
  for (std::size_t l = 0; l < each.size(); l += 2) each[l] = purekv::spatial_temporal{layout};
  plain_attention plain(model.shape(), [](int layer, int q, int k) { return layer % 2 != 0 || st_shows(q, k); });
  auto const expected = logits(model, plain);
  CHECK(worst(logits(model, each.data()), expected) < 1e-3);
  CHECK(worst(logits(model, each[0]), expected) > 1e-2);
}

TEST_CASE("classifiers agree with what they classify") {
  unsigned const seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  auto const below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  auto const check = [&](auto const& predicate) {
    int empty = 0, full = 0;
    for (int trial = 0; trial < 4000; ++trial) {
      int const q_first = below(130), q_last = q_first + below(trial % 2 == 0 ? 4 : 60);
      int const k_first = below(q_last + 1), k_last = std::min(q_last, k_first + below(trial % 3 == 0 ? 4 : 70));
      purekv::coverage const said = predicate(q_first, q_last, k_first, k_last);
      int seen = 0, pairs = 0;
      for (int q = q_first; q <= q_last; ++q)
        for (int k = k_first; k <= std::min(k_last, q); ++k, ++pairs) seen += predicate(0, q, k);
      if (said == purekv::coverage::full) CHECK(seen == pairs);
      if (said == purekv::coverage::empty) CHECK(seen == 0);
      full += said == purekv::coverage::full;
      empty += said == purekv::coverage::empty;
    }
    CHECK(full > 100);
    return empty;
  };
  CHECK(check(sees_newest{{layout}, 9}) > 100);
  check(sees_newest{{layout}, 40});
  check(sees_newest{{{segments, 2}}, 9});  // positions beyond the layout are text
  check(sees_at_random{{layout}, 0.3, 5});
}

TEST_CASE("a random pattern shows its share, and another seed other pairs") {
  sees_at_random const some{{layout}, 0.3, 1}, others{{layout}, 0.3, 2};
  int seen = 0, pairs = 0, differing = 0;
  for (int q = 7; q < 97; ++q)
    for (int k = 7; k < q; ++k, ++pairs) {
      seen += some(0, q, k);
      differing += some(0, q, k) != others(0, q, k);
    }
  CHECK(seen > 0.26 * pairs);
  CHECK(seen < 0.34 * pairs);
  CHECK(differing > 0.37 * pairs);
  CHECK(differing < 0.47 * pairs);
  for (int q = 7; q < 97; ++q) CHECK(some(0, q, q));
}

TEST_CASE("probes choose what each budget says, and the order in which they are asked does not matter") {
  random_model model(2), three(3);
  std::vector<std::vector<int>> const probes{some_tokens(5, 900), some_tokens(9, 2000), some_tokens(1, 11)};
  std::size_t const share = tokens / 4, kv_heads = static_cast<std::size_t>(model.shape().kv_heads);
  std::set<kept_positions> different;
  for (std::string const preset : {"probes", "probes_heads", "probes_model"}) {
    CAPTURE(preset);
    kept_positions const kept = kept_after(model, preset, 4, probes);
    std::size_t all = 0;
    for (auto const& layer : kept) {
      if (preset == "probes")
        for (auto const& head : layer) CHECK(head.size() == share);
      if (preset == "probes_heads") CHECK(total(layer) == share * kv_heads);
      all += total(layer);
    }
    CHECK(all == share * kv_heads * kept.size());
    CHECK(kept_after(three, preset, 4, {probes[2], probes[0], probes[1], probes[0]}) == kept);
    CHECK(kept_after(model, preset, 4, {probes[0]}) != kept);
    CHECK(kept_after(model, preset, 4, probes, purekv::spatial_temporal{layout}) != kept);
    different.insert(kept);
  }
  CHECK(different.size() == 3);
}

TEST_CASE("probes that keep everything answer as the full cache does, under any pattern") {
  random_model model(2);
  prompt const p{some_tokens(tokens), some_tokens(6, 1000), {}, {}, {some_tokens(5, 900), some_tokens(9, 2000)}};
  for (pattern const& seen : {pattern{}, pattern{purekv::spatial_temporal{layout}}}) {
    auto const answer = [&](std::string const& preset) {
      auto const attention = make_attention(preset, 1, model, {.pattern = seen});
      return answer_document(model, *attention, p, 5, nothing_to_read, [&] { model.prefill(p.document, *attention); })
          .tokens;
    };
    for (std::string const preset : {"probes", "probes_heads", "probes_model"}) CHECK(answer(preset) == answer("full"));
  }
}

TEST_CASE("a prompt without probes cannot be compressed by them") {
  random_model model(1);
  auto const attention = make_attention("probes", 4, model);
  prompt const p{some_tokens(30), {}, {}, {}};
  CHECK_THROWS_WITH_AS(compress_document(model, *attention, p, 4, [] {}), doctest::Contains("typical"), bad_input);
}

}  // namespace engine
