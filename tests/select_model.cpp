// SPDX-License-Identifier: Apache-2.0
#include <purekv/select_model.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/unscored.hpp"

#include <doctest/doctest.h>
#include <purekv/budget/across_model.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/compact.hpp>
#include <purekv/protect/any_of.hpp>
#include <purekv/protect/none.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/protect/sinks.hpp>

#include <deque>

using namespace purekv;
using fixtures::between;
using fixtures::generator;
using fixtures::owned_ragged;
using fixtures::owned_scores;
using fixtures::owned_selection;
using fixtures::owned_workspace;
using fixtures::size;
using fixtures::status_on_ranks;

namespace {

using test::unscored;

/// Every other layer keeps twice as much.
struct by_layer {
  std::int32_t share;
  std::int32_t keep(budget_input in) const {
    return share == 0 ? 0 : std::clamp(in.tokens * share * (1 + in.layer % 2) / 100, 1, in.tokens);
  }
  status check() const { return share < 0 ? status{errc::bad_policy, "by_layer: negative"} : status{}; }
};

template <class B, class P> using keeping = compressor<unscored, across_model<B>, P>;

/// A model whose heads hold tokens at odd positions, any number of them.
struct small_model {
  int layers, sequences, kv_heads;
  std::deque<owned_ragged<float>> caches;
  std::deque<owned_scores> scores;
  std::vector<scored_layer<ragged_cache<float>>> view;

  small_model(generator& random, int layer_count, int sequence_count, int head_count, int longest)
      : layers(layer_count), sequences(sequence_count), kv_heads(head_count) {
    for (int l = 0; l < layers; ++l) {
      std::vector<std::int32_t> lengths, capacities;
      for (int r = 0; r < sequences * kv_heads; ++r) {
        lengths.push_back(between(random, 0, 3) == 0 ? between(random, 0, longest) : longest);
        capacities.push_back(lengths.back() + between(random, 0, 2));
      }
      owned_ragged<float>& cache = caches.emplace_back(sequences, kv_heads, capacities, 2, 0, 1);
      for (int r = 0; r < sequences * kv_heads; ++r)
        for (int t = 0, position = 0; t < lengths[size(r)]; ++t) {
          position += between(random, 1, 2);
          fixtures::push(
              cache.view, r / kv_heads, r % kv_heads, position, [](int) { return 1.0f; }, [](int) { return 1.0f; });
        }
      scores.emplace_back(sequences, kv_heads, longest, between(random, 0, 3));
      view.push_back({cache.view, scores.back().view});
    }
  }
  int rows() const { return layers * sequences * kv_heads; }

  template <class F> void fill(F const& score) {
    for (int l = 0; l < layers; ++l)
      for (int s = 0; s < sequences; ++s)
        for (int h = 0; h < kv_heads; ++h)
          for (int t = 0; t < view[size(l)].cache.length(s, h); ++t)
            view[size(l)].scores.row(s, h)[t] = score(l, s, h, t);
  }

  /// Rows [layers, sequences, kv_heads] as the oracle chooses them.
  template <class C> std::vector<std::vector<std::int32_t>> expected(C const& c) const {
    std::vector<std::vector<std::int32_t>> rows_kept(size(rows()));
    for (int s = 0; s < sequences; ++s) {
      std::vector<oracle::sharing_head> heads;
      for (int l = 0; l < layers; ++l) {
        auto const& cache = view[size(l)].cache;
        std::int32_t last = -1;
        for (int h = 0; h < kv_heads; ++h)
          for (int t = 0; t < cache.length(s, h); ++t) last = std::max(last, *cache.run(s, h, t).positions);
        for (int h = 0; h < kv_heads; ++h) {
          oracle::sharing_head head{{}, {}, {}, 0, 0};
          for (int t = 0; t < cache.length(s, h); ++t) {
            head.scores.push_back(view[size(l)].scores.row(s, h)[t]);
            head.positions.push_back(*cache.run(s, h, t).positions);
            head.pinned.push_back(c.protect.pinned(head.positions.back(), last));
          }
          if (cache.length(s, h) > 0) head.keep = c.budget.keep({cache.length(s, h), l, layers});
          head.floor = c.budget.floor(head.keep);
          heads.push_back(head);
        }
      }
      auto const kept = oracle::select_shared(heads, oracle::tie::earlier_head_then_token);
      for (int l = 0; l < layers; ++l)
        for (int h = 0; h < kv_heads; ++h)
          rows_kept[size((l * sequences + s) * kv_heads + h)] = kept[size(l * kv_heads + h)];
    }
    return rows_kept;
  }

  template <class C> status select_on(int ranks, C const& c, selection const& out, workspace work) const {
    return status_on_ranks(ranks, [&](cpu exec) { return select(exec, c, view.data(), layers, out, work); });
  }

  template <class C> std::int64_t check(C const& c) const {
    auto const want = expected(c);
    std::int64_t total = 0;
    for (auto const& row : want) total += static_cast<std::int64_t>(row.size());
    CHECK(total <= selection_capacity(view.data(), layers));
    for (int ranks : {1, 2, 3, 32}) {
      CAPTURE(ranks);
      owned_selection kept(rows(), total);
      owned_workspace work(select_workspace(cpu{0, ranks, nullptr, nullptr}, c, view.data(), layers));
      status const refused = select_on(ranks, c, kept.view, work.one_byte_less());
      CHECK(refused.code == errc::workspace_too_small);
      CHECK(fixtures::is_untouched(kept.offset[0]));
      status const done = select_on(ranks, c, kept.view, work.view());
      REQUIRE_MESSAGE(done.ok(), done.message);
      CHECK(work.guards_untouched());
      for (int r = 0; r < rows(); ++r) {
        CAPTURE(r);
        CHECK(kept.row(r) == want[size(r)]);
      }
      for (int l = 0; l < layers; ++l) {
        selection const part = layer_of(kept.view, l, layers);
        CHECK(part.rows == sequences * kv_heads);
        for (int r = 0; r < part.rows; ++r)
          CHECK(std::vector<std::int32_t>(part.tokens(r), part.tokens(r) + part.count(r)) ==
                want[size(l * sequences * kv_heads + r)]);
        CHECK(detail::check_selection(part, view[size(l)].cache).ok());
      }
    }
    return total;
  }
};

any_of<sinks, recent> pins(int first, int newest) { return {sinks{first}, recent{newest}}; }

float const inf = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("one budget for all layers and heads: the best of them all, each head what is pinned and its floor") {
  SEEDED(random);
  for (int round = 0; round < 12; ++round) {
    small_model m(random, between(random, 1, 5), between(random, 1, 3), between(random, 1, 4), between(random, 1, 70));
    float const odd[] = {not_a_number, -not_a_number, inf, -inf, 0.0f, -0.0f, 1e-42f, -3e38f, 1.0f};
    m.fill([&](int l, int, int, int) {
      if (round % 3 == 0) return fixtures::normal(random) + static_cast<float>(l);
      return round % 3 == 1 ? static_cast<float>(between(random, -2, 2)) : odd[between(random, 0, 8)];
    });
    for (int floor : {0, 1, 4}) {
      m.check(keeping<ratio, none>{.budget = {{1, between(random, 1, 9)}, floor, 4}});
      m.check(keeping<by_layer, decltype(pins(0, 0))>{.budget = {{between(random, 1, 60)}, floor, 4},
                                                      .protect = pins(between(random, 0, 4), between(random, 0, 6))});
    }
  }
}

TEST_CASE("the total is exactly layers * kv_heads * keep; a head may be left with nothing") {
  SEEDED(random);
  small_model m(random, 3, 1, 2, 1);
  owned_scores scores(1, 2, 50);
  fixtures::owned_contiguous<float> cache(1, 2, 50, 1);
  for (int h = 0; h < 2; ++h)
    for (int t = 0; t < 50; ++t)
      fixtures::push(
          cache.view, 0, h, t, [](int) { return 0.0f; }, [](int) { return 0.0f; });
  owned_scores low(1, 2, 50);
  for (int h = 0; h < 2; ++h)
    for (int t = 0; t < 50; ++t) {
      scores.view.row(0, h)[t] = 1 + fixtures::normal(random) * 1e-3f;
      low.view.row(0, h)[t] = 0;
    }
  scored_layer<contiguous_cache<float>> const model[] = {
      {cache.view, low.view}, {cache.view, scores.view}, {cache.view, low.view}};
  keeping<ratio, none> const c{.budget = {{1, 5}}};
  owned_selection kept(6, 300);
  owned_workspace work(select_workspace(cpu{}, c, model, 3));
  REQUIRE(select(cpu{}, c, model, 3, kept.view, work.view()).ok());
  CHECK(kept.offset.back() == 3 * 2 * 10);
  CHECK(kept.view.count(0) == 0);
  CHECK(kept.view.count(2) + kept.view.count(3) == 60);
  CHECK(kept.view.count(5) == 0);
}

TEST_CASE("more pinned tokens than the budget: all of them and nothing else") {
  SEEDED(random);
  small_model m(random, 4, 2, 2, 30);
  m.fill([&](int, int, int, int) { return fixtures::normal(random); });
  auto const c = keeping<ratio, decltype(pins(0, 0))>{.budget = {{1, 30}}, .protect = pins(20, 20)};
  auto const expected = m.expected(c);
  std::int64_t pinned = 0;
  for (int l = 0; l < 4; ++l)
    for (int s = 0; s < 2; ++s) {
      auto const& cache = m.view[size(l)].cache;
      std::int32_t last = -1;
      for (int h = 0; h < 2; ++h)
        for (int t = 0; t < cache.length(s, h); ++t) last = std::max(last, *cache.run(s, h, t).positions);
      for (int h = 0; h < 2; ++h)
        for (int t = 0; t < cache.length(s, h); ++t) pinned += c.protect.pinned(*cache.run(s, h, t).positions, last);
    }
  CHECK(m.check(c) == pinned);
}

TEST_CASE("one layer and one head: what select keeps without sharing") {
  SEEDED(random);
  small_model m(random, 1, 2, 1, 200);
  m.fill([&](int, int, int, int) { return static_cast<float>(between(random, 0, 20)); });
  keeping<ratio, none> const whole{.budget = {{1, 3}}};
  compressor<unscored, ratio, none> const alone{.budget = {1, 3}};
  owned_selection a(2, 400), b(2, 400);
  owned_workspace work(select_workspace(cpu{}, whole, m.view.data(), 1)),
      other(select_workspace(cpu{}, alone, m.view[0].cache));
  REQUIRE(select(cpu{}, whole, m.view.data(), 1, a.view, work.view()).ok());
  REQUIRE(select(cpu{}, alone, m.view[0].scores, m.view[0].cache, b.view, other.view()).ok());
  for (int r = 0; r < 2; ++r) CHECK(a.row(r) == b.row(r));
}

TEST_CASE("empty caches keep nothing") {
  SEEDED(random);
  small_model const m(random, 3, 1, 2, 0);
  CHECK(m.check(keeping<ratio, none>{.budget = {{1, 5}}}) == 0);
}

TEST_CASE("what makes no sense is refused and nothing is written") {
  SEEDED(random);
  small_model m(random, 3, 1, 2, 20);
  m.fill([&](int, int, int, int) { return fixtures::normal(random); });
  keeping<ratio, none> const c{.budget = {{1, 2}}};
  owned_selection kept(6, 120);
  owned_workspace work(select_workspace(cpu{}, c, m.view.data(), 3) + 1024);
  auto const refused = [&](auto const& compressor, auto const& model, int layers, selection const& out) {
    fixtures::snapshot before;
    before.watch(kept.offset);
    before.watch(kept.token);
    errc codes[2];
    for (int i = 0; i < 2; ++i)
      codes[i] = status_on_ranks(i == 0 ? 1 : 3, [&](cpu exec) {
                   return select(exec, compressor, model.data(), layers, out, work.view());
                 }).code;
    CHECK(codes[0] == codes[1]);
    CHECK(before.unchanged());
    return codes[0];
  };
  CHECK(refused(c, m.view, 0, kept.view) == errc::bad_shape);
  CHECK(refused(c, m.view, -1, kept.view) == errc::bad_shape);
  CHECK(refused(c, std::vector<scored_layer<ragged_cache<float>>>{}, 3, kept.view) == errc::null_data);
  CHECK(refused(keeping<ratio, none>{.budget = {{3, 2}}}, m.view, 3, kept.view) == errc::bad_policy);
  CHECK(refused(keeping<by_layer, none>{.budget = {{0}}}, m.view, 3, kept.view) == errc::bad_policy);
  CHECK(refused(keeping<ratio, none>{.budget = {{1, 2}, 2, 1}}, m.view, 3, kept.view) == errc::bad_policy);

  selection wrong = kept.view;
  wrong.rows = 5;
  CHECK(refused(c, m.view, 3, wrong) == errc::mismatch);
  wrong = kept.view;
  wrong.scope = selection_scope::layer;
  CHECK(refused(c, m.view, 3, wrong) == errc::mismatch);
  wrong = kept.view;
  wrong.offset = nullptr;
  CHECK(refused(c, m.view, 3, wrong) == errc::null_data);
  wrong = kept.view;
  wrong.capacity = 3;
  CHECK(refused(c, m.view, 3, wrong) == errc::capacity_exceeded);

  auto other = m.view;
  other[2].scores.data = nullptr;
  CHECK(refused(c, other, 3, kept.view) == errc::null_data);
  other = m.view;
  other[1].scores.tokens = 1;
  CHECK(refused(c, other, 3, kept.view) == errc::mismatch);
  other = m.view;
  other[1].cache.kv_heads = 1;
  CHECK(refused(c, other, 3, kept.view) == errc::mismatch);
  CHECK(select_workspace(cpu{}, c, other.data(), 3) == 0);
  CHECK(select_workspace(cpu{}, c, other.data(), 0) == 0);
}
