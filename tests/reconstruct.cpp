// SPDX-License-Identifier: Apache-2.0
#include <purekv/reconstruct.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/budget/ratio.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/one_of.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/presets.hpp>

#include <deque>

using namespace purekv;
using fixtures::owned_contiguous;
using fixtures::owned_ragged;
using fixtures::owned_rows;
using fixtures::owned_workspace;
using fixtures::size;

namespace {

int value_width(model_shape const& m) { return m.value_dim != 0 ? m.value_dim : m.dim; }

/// Queries, keys and values of one pass through one layer.
struct layer_pass {
  std::vector<std::int32_t> offset{0}, positions;
  owned_rows<float> q, k, v, out;

  /// Sequence s gets counts[s] tokens from position first[s] on.
  layer_pass(fixtures::generator& random, model_shape const& m, std::vector<int> const& first,
             std::vector<int> const& counts)
      : q(m.heads, total(counts), m.dim),
        k(m.kv_heads, total(counts), m.dim, fixtures::order::token_major),
        v(m.kv_heads, total(counts), value_width(m)),
        out(m.heads, total(counts), value_width(m)) {
    for (std::size_t s = 0; s < counts.size(); ++s) {
      for (int i = 0; i < counts[s]; ++i) positions.push_back(first[s] + i);
      offset.push_back(static_cast<std::int32_t>(positions.size()));
    }
    q.fill_normal(random, 2);
    k.fill_normal(random);
    v.fill_normal(random);
  }
  static int total(std::vector<int> const& counts) { return std::accumulate(counts.begin(), counts.end(), 0); }
  query_view<float> queries() const {
    return {q.rows(), {static_cast<std::int32_t>(offset.size()) - 1, offset.data(), positions.data()}};
  }
};

using shared_by_all = across_model<ratio>;
using shared_by_heads = across_heads<ratio>;

template <class B> B a_share_of(int times) {
  if constexpr (std::same_as<B, ratio>)
    return ratio::compression(times);
  else
    return B{ratio::compression(times)};
}

/// A model's layers, its context in two passes and its repetition in two.
template <class T, class B = shared_by_all, Pattern P = dense> struct model_run {
  using driver_type = reconstructor<probes<B>, P>;

  model_shape model;
  std::vector<int> context;
  std::vector<P> patterns;  // one, or one for each layer
  driver_type driver;
  std::deque<owned_contiguous<T>> full;
  std::deque<owned_ragged<T>> kept;
  std::vector<layer_storage<T>> storage;
  std::vector<std::vector<layer_pass>> prefills, repeats;  // [layers][passes]
  std::vector<owned_workspace> state;                      // the last is in use
  int ranks = 1;

  model_run(fixtures::generator& random, model_shape const& shape, std::vector<int> tokens, std::vector<int> repeated,
            int times = 3, std::vector<P> seen = {P{}})
      : model(shape),
        context(std::move(tokens)),
        patterns(std::move(seen)),
        driver(shape, probes<B>{.budget = a_share_of<B>(times), .protect = {sinks{2}, recent{3}}},
               patterns.size() == 1 ? per_layer<P>(patterns[0]) : per_layer<P>(patterns.data())) {
    std::vector<int> head, tail, none(context.size(), 0), half_of_it;
    for (int n : context) head.push_back(n / 3), tail.push_back(n - n / 3);
    for (int n : repeated) half_of_it.push_back(n / 2 + 1);
    int const longest = *std::max_element(context.begin(), context.end());
    int const room = *std::max_element(repeated.begin(), repeated.end()) + 1;
    for (int l = 0; l < model.layers; ++l) {
      full.emplace_back(sequences(), model.kv_heads, longest + room, model.dim, fixtures::order::token_major, 1,
                        fixtures::beyond::nan, model.value_dim);
      storage.push_back({full.back().view, {}});
      prefills.emplace_back();
      prefills.back().emplace_back(random, model, none, head);
      prefills.back().emplace_back(random, model, head, tail);
      repeats.emplace_back();
      repeats.back().emplace_back(random, model, context, repeated);
      repeats.back().emplace_back(random, model, context, half_of_it);
    }
  }

  int sequences() const { return static_cast<int>(context.size()); }
  int longest() const { return *std::max_element(context.begin(), context.end()); }

  status begin() {
    state.emplace_back(driver.state_bytes(sequences(), longest()));
    return driver.begin(sequences(), context.data(), state.back().view());
  }
  status prefill(int l, layer_pass const& p) { return prefill(l, p, bytes_of_prefill(l, p)); }
  status prefill(int l, layer_pass const& p, std::size_t bytes) {
    owned_workspace work(bytes);
    status const done = fixtures::status_on_ranks(ranks, [&](cpu exec) {
      return driver.prefill(exec, l, p.queries(), p.k.rows(), p.v.rows(), storage.data(), p.out.view, work.view());
    });
    CHECK(work.guards_untouched());
    return done;
  }
  status repeat(int l, layer_pass const& p) { return repeat(l, p, bytes_of_repeat(l, p)); }
  status repeat(int l, layer_pass const& p, std::size_t bytes) {
    owned_workspace work(bytes);
    status const done = fixtures::status_on_ranks(ranks, [&](cpu exec) {
      return driver.repeat(exec, l, p.queries(), p.k.rows(), p.v.rows(), storage.data(), p.out.view, work.view());
    });
    CHECK(work.guards_untouched());
    return done;
  }
  std::size_t bytes_of_prefill(int l, layer_pass const& p) const {
    return driver.prefill_workspace(cpu{0, ranks, nullptr, nullptr}, l, p.queries(), storage.data());
  }
  std::size_t bytes_of_repeat(int l, layer_pass const& p) const {
    return driver.repeat_workspace(cpu{0, ranks, nullptr, nullptr}, l, p.queries(), storage.data());
  }
  status select() { return select(driver.template select_workspace<T>()); }
  status select(std::size_t bytes) {
    owned_workspace work(bytes);
    status const done =
        fixtures::status_on_ranks(ranks, [&](cpu exec) { return driver.select(exec, storage.data(), work.view()); });
    CHECK(work.guards_untouched());
    return done;
  }
  status compact(int l, int new_tokens) {
    return fixtures::status_on_ranks(ranks,
                                     [&](cpu exec) { return driver.compact(exec, l, new_tokens, storage.data()); });
  }
  void make_kept(int new_tokens) {
    kept.clear();
    for (int l = 0; l < model.layers; ++l) {
      std::int64_t const slots = driver.kept_slots(l, new_tokens);
      std::vector<std::int32_t> capacities(size(sequences() * model.kv_heads), 0);
      capacities.back() = static_cast<std::int32_t>(slots);  // any extents that make sense; the driver lays them out
      kept.emplace_back(sequences(), model.kv_heads, capacities, model.dim, 0, 0, fixtures::beyond::nan,
                        model.value_dim);
      storage[size(l)].kept = kept.back().view;
    }
  }
  void whole() {
    REQUIRE(begin().ok());
    for (int l = 0; l < model.layers; ++l)
      for (auto const& p : prefills[size(l)]) {
        status const s = prefill(l, p);
        REQUIRE_MESSAGE(s.ok(), s.message);
      }
  }
  void repeated() {
    for (int l = 0; l < model.layers; ++l)
      for (auto const& p : repeats[size(l)]) {
        status const s = repeat(l, p);
        REQUIRE_MESSAGE(s.ok(), s.message);
      }
  }
  void check_lengths(int l) const {
    for (int s = 0; s < sequences(); ++s)
      for (int h = 0; h < model.kv_heads; ++h) CHECK(storage[size(l)].full.length(s, h) == context[size(s)]);
  }

  /// What a pass over a layer's cache, itself appended, should give: attention as the oracle computes it.
  std::vector<oracle::head_attention> attended(int l, layer_pass const& p) const {
    contiguous_cache<T> const& cache = storage[size(l)].full;
    owned_contiguous<T> grown(sequences(), model.kv_heads, cache.tokens, model.dim, fixtures::order::head_major, 0,
                              fixtures::beyond::nan, model.value_dim);
    for (int s = 0; s < sequences(); ++s)
      for (int h = 0; h < model.kv_heads; ++h) {
        for (int t = 0; t < cache.length(s, h); ++t) {
          auto const run = cache.run(s, h, t);
          fixtures::push(
              grown.view, s, h, *run.positions, [&](int c) { return run.keys[c]; },
              [&](int c) { return run.values[c]; });
        }
        for (int i = p.offset[size(s)]; i < p.offset[size(s) + 1]; ++i)
          fixtures::push(
              grown.view, s, h, p.positions[size(i)], [&](int c) { return p.k.view.row(h, i)[c]; },
              [&](int c) { return p.v.view.row(h, i)[c]; });
      }
    return oracle::attend(patterns[size(l) % patterns.size()], p.queries(), grown.view);
  }
  void check_out(layer_pass const& p, std::vector<oracle::head_attention> const& reference) const {
    for (int s = 0; s < sequences(); ++s)
      for (int h = 0; h < model.heads; ++h) {
        auto const& a = reference[size(s * model.heads + h)];
        for (int i = 0; i < p.offset[size(s) + 1] - p.offset[size(s)]; ++i)
          for (int c = 0; c < value_width(model); ++c)
            CHECK(std::abs(static_cast<double>(p.out.view.row(h, p.offset[size(s)] + i)[c]) - a.out(i, c)) <=
                  a.out_bound(i, c) + oracle::rounding_error<float>(a.out(i, c)));
      }
  }
};

/// What the heads of all layers keep of a sequence, [layers, kv_heads].
template <class B>
std::vector<std::vector<std::int32_t>> selected(std::vector<oracle::sharing_head> heads, int layers) {
  if constexpr (std::same_as<B, shared_by_all>)
    return oracle::select_shared(heads, oracle::tie::earlier_head_then_token);
  std::vector<std::vector<std::int32_t>> all;
  auto const of_layer = static_cast<std::ptrdiff_t>(heads.size()) / layers;
  for (auto first = heads.begin(); first != heads.end(); first += of_layer) {
    std::vector<oracle::sharing_head> layer(first, first + of_layer);
    if constexpr (std::same_as<B, shared_by_heads>) {
      for (oracle::sharing_head& head : layer) head.floor = head.keep > 0 ? std::max(1, head.keep / 5) : 0;
      for (auto& kept : oracle::select_shared(layer)) all.push_back(std::move(kept));
    } else {
      for (oracle::sharing_head const& head : layer)
        all.push_back(oracle::select_head(head.scores, head.pinned, head.keep));
    }
  }
  return all;
}

template <class T, class B = shared_by_all, Pattern P = dense>
void check_run(fixtures::generator& random, int group, std::vector<int> const& context,
               std::vector<int> const& repeated, int ranks, std::vector<P> const& patterns = {P{}}) {
  CAPTURE(group);
  CAPTURE(ranks);
  model_shape const shape{3, 2 * group, 2, 20, group == 7 || group == 8 ? 13 : 0};
  model_run<T, B, P> m(random, shape, context, repeated, 3, patterns);
  m.ranks = ranks;
  REQUIRE(m.begin().ok());
  int const group_size = shape.heads / shape.kv_heads;
  for (int l = 0; l < shape.layers; ++l) {
    for (auto const& p : m.prefills[size(l)]) {
      auto const reference = m.attended(l, p);
      REQUIRE(m.prefill(l, p).ok());
      m.check_out(p, reference);
    }
    m.check_lengths(l);
  }
  for (int l = 0; l < shape.layers; ++l) {
    std::vector<std::vector<oracle::head_attention>> references;
    for (auto const& p : m.repeats[size(l)]) {
      references.push_back(m.attended(l, p));
      REQUIRE(m.repeat(l, p).ok());
      m.check_out(p, references.back());
      m.check_lengths(l);
    }
    for (int s = 0; s < m.sequences(); ++s)
      for (int h = 0; h < shape.kv_heads; ++h)
        for (int t = 0; t < context[size(s)]; ++t) {
          double most = 0;
          for (auto const& reference : references)
            for (int g = h * group_size; g < (h + 1) * group_size; ++g) {
              auto const& a = reference[size(s * shape.heads + g)];
              for (int i = 0; i < a.probability.rows(); ++i) most = std::max(most, a.probability(i, t));
            }
          CHECK(m.driver.scores_of(l).row(s, h)[t] == doctest::Approx(most).epsilon(1e-4));
        }
  }

  REQUIRE(m.select().ok());
  for (int s = 0; s < m.sequences(); ++s) {
    std::vector<oracle::sharing_head> heads;
    for (int l = 0; l < shape.layers; ++l)
      for (int h = 0; h < shape.kv_heads; ++h) {
        oracle::sharing_head head{{}, {}, {}, 0, 0};
        int const n = context[size(s)];
        for (int t = 0; t < n; ++t) {
          head.scores.push_back(m.driver.scores_of(l).row(s, h)[t]);
          head.positions.push_back(t);
          head.pinned.push_back(t < 2 || n - 1 - t < 3);
        }
        head.keep = n == 0 ? 0 : std::max(1, n / 3);
        heads.push_back(head);
      }
    auto const expected = selected<B>(heads, shape.layers);
    for (int l = 0; l < shape.layers; ++l)
      for (int h = 0; h < shape.kv_heads; ++h) {
        selection const part = m.driver.kept(l);
        int const row = s * shape.kv_heads + h;
        CHECK(std::vector<std::int32_t>(part.tokens(row), part.tokens(row) + part.count(row)) ==
              expected[size(l * shape.kv_heads + h)]);
      }
  }

  m.make_kept(4);
  for (int l = 0; l < shape.layers; ++l) {
    REQUIRE(m.compact(l, 4).ok());
    contiguous_cache<T> const& from = m.storage[size(l)].full;
    ragged_cache<T> const& to = m.storage[size(l)].kept;
    CHECK(to.check().ok());
    selection const part = m.driver.kept(l);
    for (int s = 0; s < m.sequences(); ++s)
      for (int h = 0; h < shape.kv_heads; ++h) {
        int const row = s * shape.kv_heads + h;
        REQUIRE(to.length(s, h) == part.count(row));
        CHECK(to.capacity(s, h) == part.count(row) + 4);
        for (int i = 0; i < to.length(s, h); ++i) {
          auto const a = from.run(s, h, part.tokens(row)[i]), b = to.run(s, h, i);
          CHECK(*a.positions == *b.positions);
          CHECK(std::memcmp(a.keys, b.keys, size(shape.dim) * sizeof(T)) == 0);
          CHECK(std::memcmp(a.values, b.values, size(value_width(shape)) * sizeof(T)) == 0);
        }
      }
  }
}

}  // namespace

TEST_CASE("the context is cached, repeated and compressed as the formulas say") {
  SEEDED(random);
  for (int ranks : {1, 3}) {
    check_run<float>(random, 1, {70}, {75}, ranks);
    check_run<float>(random, 7, {33, 1, 64}, {9, 4, 70}, ranks);
    check_run<half>(random, 4, {50, 0}, {61, 2}, ranks);
    check_run<bfloat16>(random, 8, {40}, {1}, ranks);
  }
}

TEST_CASE("budgets that every layer, or every head, has for itself") {
  SEEDED(random);
  for (int ranks : {1, 3}) {
    check_run<float, ratio>(random, 4, {70, 41}, {75, 9}, ranks);
    check_run<half, ratio>(random, 1, {50, 0}, {61, 2}, ranks);
    check_run<float, shared_by_heads>(random, 7, {33, 1, 64}, {9, 4, 70}, ranks);
    check_run<bfloat16, shared_by_heads>(random, 1, {64}, {3}, ranks);
  }
  check_run<float, ratio>(random, 1, {0}, {2}, 1);
}

TEST_CASE("layers with patterns of their own") {
  SEEDED(random);
  using pattern = one_of<dense, sliding_window>;
  std::vector<pattern> const patterns{sliding_window{9}, dense{}, sliding_window{40}};
  for (int ranks : {1, 3}) {
    check_run<float, shared_by_all, pattern>(random, 4, {70, 33}, {75, 9}, ranks, patterns);
    check_run<float, ratio, pattern>(random, 1, {70}, {20}, ranks, patterns);
  }
  dense const* const none = nullptr;
  CHECK(reconstructor(model_shape{2, 4, 2, 8}, kvzip<ratio>{}, none).check().code == errc::null_data);
  CHECK(reconstructor(model_shape{2, 4, 2, 8}, kvzip<ratio>{}, dense{}).check().ok());
}

TEST_CASE("with a budget for every head too little memory selects nothing") {
  SEEDED(random);
  model_run<float, ratio> m(random, {3, 4, 2, 16}, {40, 9}, {11, 5});
  for (int ranks : {1, 3}) {
    m.ranks = ranks;
    for (auto& cache : m.full) std::fill(cache.lengths.begin(), cache.lengths.end(), 0);
    REQUIRE(m.begin().ok());
    for (int l = 0; l < 3; ++l) {
      for (auto const& p : m.prefills[size(l)]) REQUIRE(m.prefill(l, p).ok());
      REQUIRE(m.repeat(l, m.repeats[size(l)][0]).ok());
    }
    CHECK(m.select(m.driver.select_workspace<float>() - 1).code == errc::workspace_too_small);
    CHECK(m.compact(0, 0).code == errc::not_ready);
    REQUIRE(m.select().ok());
    m.make_kept(0);
    CHECK(m.compact(2, 0).ok());
  }
}

TEST_CASE("any number of ranks scores and selects the same, to the bit") {
  SEEDED(random);
  std::uint64_t const seed = random();
  std::vector<float> first_scores;
  std::vector<std::int32_t> first_tokens;
  for (int ranks : {1, 2, 7}) {
    fixtures::generator same(seed);
    model_run<half> m(same, {2, 8, 2, 64}, {130, 61}, {140, 3});
    m.ranks = ranks;
    m.whole();
    m.repeated();
    REQUIRE(m.select().ok());
    score_view const last = m.driver.scores_of(1);
    std::vector<float> scores;
    for (int s = 0; s < 2; ++s)
      for (int h = 0; h < 2; ++h) scores.insert(scores.end(), last.row(s, h), last.row(s, h) + m.context[size(s)]);
    selection const part = m.driver.kept(1);
    std::vector<std::int32_t> const tokens(part.token + part.offset[0], part.token + part.offset[part.rows]);
    if (ranks == 1) first_scores = scores, first_tokens = tokens;
    CHECK(std::memcmp(scores.data(), first_scores.data(), scores.size() * sizeof(float)) == 0);
    CHECK(tokens == first_tokens);
  }
}

TEST_CASE("a NaN in the repetition scores nothing and spoils nothing") {
  SEEDED(random);
  model_run<float> m(random, {1, 2, 1, 8}, {30}, {12});
  m.repeats[0][0].q.view.row(1, 3)[2] = std::numeric_limits<float>::quiet_NaN();
  m.repeats[0][0].k.view.row(0, 5)[1] = std::numeric_limits<float>::infinity();
  m.whole();
  m.repeated();
  for (int t = 0; t < 30; ++t) CHECK(std::isfinite(m.driver.scores_of(0).row(0, 0)[t]));
}

TEST_CASE("calls that come too early, too late or with bad arguments change nothing") {
  SEEDED(random);
  model_run<float> m(random, {2, 4, 2, 16}, {40, 9}, {11, 5});
  for (int ranks : {1, 3}) {
    m.ranks = ranks;
    CAPTURE(ranks);
    m.driver = {m.model, kvzip<ratio>{.budget = {ratio::compression(3)}}, dense{}};
    for (auto& cache : m.full) std::fill(cache.lengths.begin(), cache.lengths.end(), 0);
    auto const& first = m.prefills[0][0];
    auto const& chunk = m.repeats[0][0];
    CHECK(m.prefill(0, first, 1 << 20).code == errc::not_ready);
    CHECK(m.driver.select(cpu{}, m.storage.data(), {}).code == errc::not_ready);
    CHECK(m.driver.compact(cpu{}, 0, 0, m.storage.data()).code == errc::not_ready);

    owned_workspace state(m.driver.state_bytes(2, 40));
    int const longest[] = {40, 40};
    CHECK(m.driver.begin(2, longest, state.one_byte_less()).code == errc::workspace_too_small);
    CHECK(m.driver.begin(0, m.context.data(), state.view()).code == errc::bad_shape);
    CHECK(m.driver.begin(2, nullptr, state.view()).code == errc::null_data);
    int const negative[] = {3, -1};
    CHECK(m.driver.begin(2, negative, state.view()).code == errc::bad_shape);
    CHECK(m.prefill(0, first, 1 << 20).code == errc::not_ready);  // none of these began

    REQUIRE(m.begin().ok());
    CHECK(m.prefill(-1, first, 1 << 20).code == errc::bad_shape);
    CHECK(m.prefill(2, first, 1 << 20).code == errc::bad_shape);
    CHECK(m.prefill(0, first, 64).code == errc::workspace_too_small);
    CHECK(m.storage[0].full.length(0, 0) == 0);
    CHECK(m.repeat(0, chunk, 1 << 20).code == errc::not_ready);  // the context is not there yet
    REQUIRE(m.prefill(0, first).ok());
    CHECK(m.repeat(0, chunk, 1 << 20).code == errc::not_ready);
    CHECK(m.prefill(0, first, 1 << 20).code == errc::bad_positions);  // the same tokens again
    CHECK(m.storage[0].full.length(0, 0) == 13);
    REQUIRE(m.prefill(0, m.prefills[0][1]).ok());
    CHECK(m.prefill(0, chunk, 1 << 20).code == errc::mismatch);  // more than the context
    m.check_lengths(0);

    CHECK(m.select().code == errc::not_ready);
    std::size_t const bytes = m.bytes_of_repeat(0, chunk);
    CHECK(m.repeat(0, chunk, bytes - 1).code == errc::workspace_too_small);
    m.check_lengths(0);
    REQUIRE(m.repeat(0, chunk).ok());
    std::vector<float> const scores(m.driver.scores_of(0).row(0, 0), m.driver.scores_of(0).row(0, 0) + 40);
    layer_pass const known(random, m.model, {3, 2}, {5, 5});  // positions of the context
    CHECK(m.repeat(0, known, 1 << 20).code == errc::bad_positions);
    CHECK(m.repeat(0, chunk, bytes - 1).code == errc::workspace_too_small);
    m.check_lengths(0);
    CHECK(std::memcmp(scores.data(), m.driver.scores_of(0).row(0, 0), 40 * sizeof(float)) == 0);
    CHECK(m.select().code == errc::not_ready);  // the other layer has not been repeated

    for (auto const& p : m.prefills[1]) REQUIRE(m.prefill(1, p).ok());
    REQUIRE(m.repeat(1, m.repeats[1][0]).ok());
    CHECK(m.compact(0, 0).code == errc::not_ready);
    CHECK(m.select(m.driver.select_workspace<float>() - 1).code == errc::workspace_too_small);
    CHECK(m.compact(0, 0).code == errc::not_ready);
    REQUIRE(m.select().ok());
    CHECK(m.repeat(0, chunk).code == errc::bad_policy);

    m.make_kept(2);
    fixtures::snapshot before;
    before.watch(m.kept[0].keys);
    before.watch(m.kept[0].extents);
    CHECK(m.compact(0, 3).code == errc::capacity_exceeded);
    CHECK(m.compact(0, -1).code == errc::bad_shape);
    CHECK(m.compact(2, 0).code == errc::bad_shape);
    m.storage[0].kept.dim = 15;
    CHECK(m.compact(0, 2).code == errc::mismatch);
    m.storage[0].kept = m.kept[0].view;
    m.storage[0].kept.value_dim = 3;
    CHECK(m.compact(0, 2).code == errc::mismatch);
    m.storage[0].kept = m.kept[0].view;
    m.storage[0].kept.keys = nullptr;
    CHECK(m.compact(0, 2).code == errc::null_data);
    m.storage[0].kept = m.kept[0].view;
    CHECK(before.unchanged());
    REQUIRE(m.compact(0, 2).ok());
    CHECK(m.select().code == errc::bad_policy);
  }
}

TEST_CASE("models and budgets that make no sense are refused") {
  auto const check = [](model_shape const& shape, kvzip<ratio> const& c = {}) {
    return reconstructor<kvzip<ratio>, dense>(shape, c, dense{}).check().code;
  };
  CHECK(check({2, 4, 2, 8}) == errc::ok);
  CHECK(check({0, 4, 2, 8}) == errc::bad_shape);
  CHECK(check({2, 5, 2, 8}) == errc::bad_shape);
  CHECK(check({2, 4, 2, 8}, {.budget = {{3, 2}}}) == errc::bad_policy);
}
