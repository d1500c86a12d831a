// SPDX-License-Identifier: Apache-2.0
#include <purekv/select.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/random.hpp"
#include "support/unscored.hpp"

#include <doctest/doctest.h>

#include <tuple>

using namespace fixtures;
using purekv::bfloat16;
using purekv::errc;
using purekv::half;
using purekv::selection_scope;
using purekv::status;

namespace {

float const inf = std::numeric_limits<float>::infinity(), nan_score = std::numeric_limits<float>::quiet_NaN();

using test::unscored;

/// keep may be any number, whatever a good budget would say.
struct exactly {
  std::int32_t tokens;
  std::int32_t keep(purekv::budget_input) const { return tokens; }
  status check() const { return tokens == -7 ? status{errc::bad_policy, "select: minus seven"} : status{}; }
};
struct percent {
  std::int32_t share;
  std::int32_t keep(purekv::budget_input in) const { return std::max(1, in.tokens * share / 100); }
  status check() const { return {}; }
};
struct by_layer {
  std::int32_t keep(purekv::budget_input in) const { return std::min(in.tokens, in.layers - in.layer); }
  status check() const { return {}; }
};
struct shared_percent : percent {
  static constexpr bool heads_share = true;
  std::int32_t floor(std::int32_t keep) const { return keep / 3; }
};

/// Pins the first `first`, the last `newest` and every position in the set bits of `scattered`, taken modulo 32.
struct pins {
  std::int32_t first = 0, newest = 0;
  std::uint32_t scattered = 0;
  bool pinned(std::int32_t position, std::int32_t last) const {
    return position < first || last - position < newest || (scattered >> (position % 32) & 1u) != 0;
  }
  status check(std::int32_t last) const {
    return last >= 100000 ? status{errc::bad_positions, "select: beyond the pins"} : status{};
  }
};

/// Evicts all but the newest `newest_only`, and every position in the set bits of `odd`, taken modulo 32.
struct evicting_pins : pins {
  std::int32_t newest_only = 0;
  std::uint32_t odd = 0;
  bool evicted(std::int32_t position, std::int32_t last) const {
    return last - position >= newest_only || (odd >> (position % 32) & 1u) != 0;
  }
};

template <class B, selection_scope Scope = selection_scope::kv_head, class P = pins>
purekv::compressor<unscored, B, P, Scope> keeping(B budget, P protect = {}) {
  return {{}, budget, protect};
}

/// Lengths differ by head unless `equal`; positions have holes.
template <class T> owned_ragged<T> cache_of(generator& random, std::vector<int> const& lengths, int kv_heads) {
  std::vector<std::int32_t> capacities;
  for (int n : lengths) capacities.push_back(n + between(random, 0, 2));
  owned_ragged<T> cache(static_cast<int>(lengths.size()) / kv_heads, kv_heads, capacities, 3, 1, 1);
  for (int row = 0; row < static_cast<int>(lengths.size()); ++row) {
    int position = 0;
    for (int t = 0; t < lengths[size(row)]; ++t) {
      position += between(random, 1, 3);
      push(
          cache.view, row / kv_heads, row % kv_heads, position, [](int) { return 1.0f; }, [](int) { return 1.0f; });
    }
  }
  return cache;
}

enum class kind { distinct, ties, plateau, special };

void fill(generator& random, owned_scores& scores, kind what) {
  float const odd[] = {nan_score, -nan_score, inf, -inf, 0.0f, -0.0f, 1e-42f, -1e-42f, 3e38f, -3e38f, 1.0f};
  for (float& x : scores.memory) {
    if (what == kind::distinct) x = normal(random);
    if (what == kind::ties) x = static_cast<float>(between(random, -3, 3)) / 4;
    if (what == kind::plateau) x = between(random, 0, 20) == 0 ? 1.0f : 0.25f;
    if (what == kind::special) x = odd[between(random, 0, 10)];
  }
}

using rows_of_tokens = std::vector<std::vector<std::int32_t>>;

/// One candidate of a reference selection; sorting brings the best to the front.
struct candidate {
  bool sure;
  float score;
  std::int32_t position, head, token;

  bool operator<(candidate const& o) const {
    if (sure != o.sure) return sure;
    if (std::isnan(score) != std::isnan(o.score)) return std::isnan(o.score);
    if (!std::isnan(score) && score != o.score) return score > o.score;
    return std::tie(position, head) < std::tie(o.position, o.head);
  }
};

template <class C> std::int32_t newest(C const& cache, int s) {
  std::int32_t last = -1;
  for (int h = 0; h < cache.kv_heads; ++h)
    for (int t = 0; t < cache.length(s, h); ++t) last = std::max(last, *cache.run(s, h, t).positions);
  return last;
}

template <class C, class P>
std::vector<candidate> candidates(C const& cache, purekv::score_view const& scores, P const& protect, int s, int h) {
  std::vector<candidate> all;
  for (int t = 0; t < cache.length(s, h); ++t) {
    std::int32_t const position = *cache.run(s, h, t).positions;
    if constexpr (purekv::EvictingProtect<P>)
      if (protect.evicted(position, newest(cache, s))) continue;
    all.push_back({protect.pinned(position, newest(cache, s)), scores.row(s, h)[t], position, h, t});
  }
  return all;
}

std::ptrdiff_t sure_ones(std::vector<candidate> const& all) {
  return std::count_if(all.begin(), all.end(), [](candidate const& c) { return c.sure; });
}

/// The best of them, the sure ones first: max(keep, sure).
std::vector<candidate> best(std::vector<candidate> all, std::ptrdiff_t keep) {
  std::sort(all.begin(), all.end());
  all.resize(std::min(all.size(), static_cast<std::size_t>(std::max(keep, sure_ones(all)))));
  return all;
}

std::vector<std::int32_t> tokens_of(std::vector<candidate> const& chosen, int head) {
  std::vector<std::int32_t> tokens;
  for (candidate const& c : chosen)
    if (c.head == head) tokens.push_back(c.token);
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

template <class C, class B, class P>
rows_of_tokens expected_by_head(C const& cache, purekv::score_view const& scores, B const& budget, P const& protect) {
  rows_of_tokens rows;
  for (int s = 0; s < cache.sequences; ++s)
    for (int h = 0; h < cache.kv_heads; ++h) {
      int const n = cache.length(s, h);
      rows.push_back(tokens_of(best(candidates(cache, scores, protect, s, h), n == 0 ? 0 : budget.keep({n})), h));
    }
  return rows;
}

template <class C, class B, class P>
rows_of_tokens expected_shared(C const& cache, purekv::score_view const& scores, B const& budget, P const& protect) {
  rows_of_tokens rows;
  for (int s = 0; s < cache.sequences; ++s) {
    std::vector<candidate> all;
    std::ptrdiff_t keep = 0;
    for (int h = 0; h < cache.kv_heads; ++h) {
      int const n = cache.length(s, h);
      if (n == 0) continue;
      auto of_head = candidates(cache, scores, protect, s, h);
      int const keep_of_head = std::min(budget.keep({n}), static_cast<int>(of_head.size()));
      auto const sure = tokens_of(best(of_head, budget.floor(keep_of_head)), h);
      for (candidate& c : of_head) c.sure = std::find(sure.begin(), sure.end(), c.token) != sure.end();
      all.insert(all.end(), of_head.begin(), of_head.end());
      keep += keep_of_head;
    }
    auto const chosen = best(all, keep);
    for (int h = 0; h < cache.kv_heads; ++h) rows.push_back(tokens_of(chosen, h));
  }
  return rows;
}

/// Selects on several numbers of ranks with exactly the workspace asked for and exactly the capacity needed.
template <class Compressor, class C>
void check(Compressor const& c, purekv::score_view const& scores, C const& cache, rows_of_tokens const& expected,
           purekv::layer_position layer = {}) {
  std::int64_t total = 0;
  for (auto const& row : expected) total += static_cast<std::int64_t>(row.size());
  CHECK(total <= purekv::selection_capacity(cache));
  for (int ranks : {1, 2, 3, 7}) {
    CAPTURE(ranks);
    owned_selection kept(static_cast<int>(expected.size()), total + 5, Compressor::scope);
    kept.view.capacity = total;
    owned_workspace work(purekv::select_workspace(purekv::cpu{0, ranks, nullptr, nullptr}, c, cache));
    status const done = status_on_ranks(
        ranks, [&](purekv::cpu exec) { return purekv::select(exec, c, scores, cache, kept.view, work.view(), layer); });
    REQUIRE_MESSAGE(done.ok(), done.message);
    CHECK(work.guards_untouched());
    CHECK(kept.offset[0] == 0);
    for (std::size_t row = 0; row < expected.size(); ++row) {
      CAPTURE(row);
      CHECK(kept.row(static_cast<int>(row)) == expected[row]);
    }
    for (std::int64_t i = total; i < total + 5; ++i) CHECK(is_untouched(kept.token[size(i)]));

    if (total > 0) {
      owned_selection small(static_cast<int>(expected.size()), total - 1, Compressor::scope);
      snapshot before;
      before.watch(small.offset);
      before.watch(small.token);
      CHECK(status_on_ranks(ranks, [&](purekv::cpu exec) {
              return purekv::select(exec, c, scores, cache, small.view, work.view(), layer);
            }).code == errc::capacity_exceeded);
      CHECK(status_on_ranks(ranks, [&](purekv::cpu exec) {
              return purekv::select(exec, c, scores, cache, kept.view, work.one_byte_less(), layer);
            }).code == errc::workspace_too_small);
      CHECK(before.unchanged());
    }
  }
}

std::vector<int> odd_lengths(generator& random, int rows) {
  int const odd[] = {0, 1, 2, 15, 16, 17, 100, 257};
  std::vector<int> lengths;
  for (int i = 0; i < rows; ++i) lengths.push_back(odd[between(random, 0, 7)]);
  return lengths;
}

int longest(std::vector<int> const& lengths) { return *std::max_element(lengths.begin(), lengths.end()); }

}  // namespace

TEST_CASE("rank keys have the order of scores: NaN, -inf, ..., -0 = +0, ..., inf, pinned") {
  float const ascending[] = {nan_score, -inf, -3e38f, -1.0f, -1e-42f, -0.0f, 1e-42f, 1.0f, 3e38f, inf};
  for (std::size_t i = 1; i < std::size(ascending); ++i)
    CHECK(purekv::detail::rank_key(ascending[i - 1]) < purekv::detail::rank_key(ascending[i]));
  CHECK(purekv::detail::rank_key(-0.0f) == purekv::detail::rank_key(0.0f));
  CHECK(purekv::detail::rank_key(-nan_score) == purekv::detail::rank_key(nan_score));
  CHECK(purekv::detail::rank_key(inf) < purekv::detail::pinned_key);
}

TEST_CASE("the cut of any keys leaves exactly k of them, the largest, ties from the front") {
  SEEDED(random);
  for (int round = 0; round < 200; ++round) {
    int const n = between(random, 1, 300), k = between(random, 1, n);
    std::uint32_t const mask[] = {0xffffffffu, 0x3u, 0xffe00000u, 0x001ffc00u, 0x000003ffu, 0x00200401u};
    std::vector<std::uint32_t> keys(size(n)), scratch(size(n));
    for (std::uint32_t& key : keys) key = static_cast<std::uint32_t>(random()) & mask[round % 6];
    std::vector<int> order(size(n));
    for (int i = 0; i < n; ++i) order[size(i)] = i;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return keys[size(a)] > keys[size(b)]; });
    std::vector<std::int32_t> expected(order.begin(), order.begin() + k);
    std::sort(expected.begin(), expected.end());

    auto const where = purekv::detail::find_cut(keys.data(), n, k, scratch.data());
    std::vector<std::int32_t> found(size(n) + 1, -1);
    CHECK(purekv::detail::put_above(keys.data(), n, where, found.data(), k) == k);
    CHECK(found[size(k)] == -1);
    found.resize(size(k));
    CHECK(found == expected);
    CHECK(purekv::detail::count_above(keys.data(), n, where) == k);
    auto in_place = keys;
    auto const again = purekv::detail::find_cut(in_place.data(), n, k, in_place.data());
    CHECK(again.key == where.key);
    CHECK(again.ties == where.ties);
  }
}

TEST_CASE("every head keeps its pinned tokens, then its best") {
  SEEDED(random);
  for (kind what : {kind::distinct, kind::ties, kind::plateau, kind::special})
    for (int round = 0; round < 4; ++round) {
      auto const lengths = odd_lengths(random, 6);
      auto const cache = cache_of<half>(random, lengths, 2);
      owned_scores scores(3, 2, longest(lengths) + 1, between(random, 0, 3));
      fill(random, scores, what);
      pins const protect{between(random, 0, 6), between(random, 0, 6), 1u << between(random, 0, 31)};
      percent const budget{between(random, 0, 100)};
      check(keeping(budget, protect), scores.view, cache.view,
            expected_by_head(cache.view, scores.view, budget, protect));
      for (exactly const& number : {exactly{1}, exactly{16}, exactly{INT32_MAX}})
        check(keeping(number), scores.view, cache.view, expected_by_head(cache.view, scores.view, number, pins{}));
    }
}

TEST_CASE("more pinned tokens than the budget: all of them and nothing else") {
  SEEDED(random);
  auto const cache = cache_of<float>(random, {100, 40}, 2);
  owned_scores scores(1, 2, 100);
  fill(random, scores, kind::distinct);
  pins const all{INT32_MAX, 0, 0}, many{20, 30, 0x0f0f0f0fu};
  check(keeping(exactly{3}, all), scores.view, cache.view, expected_by_head(cache.view, scores.view, exactly{3}, all));
  auto const expected = expected_by_head(cache.view, scores.view, exactly{3}, many);
  CHECK(expected[0].size() > 30);
  check(keeping(exactly{3}, many), scores.view, cache.view, expected);
}

TEST_CASE("what the protect evicts is not kept, whatever the budget, the scores and the pins") {
  SEEDED(random);
  for (kind what : {kind::distinct, kind::ties, kind::special})
    for (int newest_only : {0, 1, 7, 60, 1000}) {
      auto const lengths = odd_lengths(random, 6);
      auto const cache = cache_of<half>(random, lengths, 3);
      owned_scores scores(2, 3, longest(lengths) + 1, between(random, 0, 3));
      fill(random, scores, what);
      evicting_pins const protect{
          {between(random, 0, 40), between(random, 0, 6), 1u << between(random, 0, 31)}, newest_only, 0x04010080u};
      for (exactly const& number : {exactly{1}, exactly{30}, exactly{INT32_MAX}})
        check(keeping(number, protect), scores.view, cache.view,
              expected_by_head(cache.view, scores.view, number, protect));
      shared_percent const budget{{between(random, 0, 100)}};
      check(keeping(budget, protect), scores.view, cache.view,
            expected_shared(cache.view, scores.view, budget, protect));
    }
}

TEST_CASE("the budget hears of the layer") {
  SEEDED(random);
  auto const cache = cache_of<bfloat16>(random, {30}, 1);
  owned_scores scores(1, 1, 30);
  fill(random, scores, kind::distinct);
  for (int layer : {0, 3, 8})
    check(keeping(by_layer{}), scores.view, cache.view,
          expected_by_head(cache.view, scores.view, exactly{9 - layer}, pins{}), {layer, 9});
}

TEST_CASE("scope layer ranks by the mean of the heads") {
  SEEDED(random);
  for (kind what : {kind::distinct, kind::ties, kind::plateau}) {
    owned_contiguous<float> cache(2, 3, 70, 2, order::token_major);
    for (int s = 0; s < 2; ++s)
      for (int t = 0; t < (s == 0 ? 70 : 33); ++t)
        for (int h = 0; h < 3; ++h)
          push(
              cache.view, s, h, t * 2 + s, [](int) { return 1.0f; }, [](int) { return 1.0f; });
    owned_scores scores(2, 3, 70), mean(2, 1, 70);
    fill(random, scores, what);
    scores.view.row(1, 2)[5] = nan_score;
    owned_contiguous<float> one(2, 1, 70, 2);
    for (int s = 0; s < 2; ++s)
      for (int t = 0; t < cache.view.length(s, 0); ++t) {
        push(
            one.view, s, 0, t * 2 + s, [](int) { return 1.0f; }, [](int) { return 1.0f; });
        mean.view.row(s, 0)[t] =
            (scores.view.row(s, 0)[t] + scores.view.row(s, 1)[t] + scores.view.row(s, 2)[t]) / 3.0f;
      }
    pins const protect{2, 1, 0};
    check(keeping<percent, selection_scope::layer>({30}, protect), scores.view, cache.view,
          expected_by_head(one.view, mean.view, percent{30}, protect));
    evicting_pins const newest{protect, 20, 0};
    check(keeping<percent, selection_scope::layer>({30}, newest), scores.view, cache.view,
          expected_by_head(one.view, mean.view, percent{30}, newest));
  }
}

TEST_CASE("scope layer refuses heads that hold different tokens") {
  SEEDED(random);
  auto const c = keeping<percent, selection_scope::layer>({30});
  owned_scores scores(1, 2, 20);
  fill(random, scores, kind::distinct);
  auto const refused = [&](auto const& cache) {
    owned_selection kept(1, 40, selection_scope::layer);
    owned_workspace work(purekv::select_workspace(purekv::cpu{}, c, cache));
    snapshot before;
    before.watch(kept.offset);
    before.watch(kept.token);
    for (int ranks : {1, 3})
      CHECK(status_on_ranks(ranks, [&](purekv::cpu exec) {
              return purekv::select(exec, c, scores.view, cache, kept.view, work.view());
            }).code == errc::mismatch);
    CHECK(before.unchanged());
  };
  auto const lengths = cache_of<float>(random, {20, 19}, 2);
  refused(lengths.view);
  auto positions = cache_of<float>(random, {20, 20}, 2);
  for (int t = 0; t < 20; ++t)
    for (int h = 0; h < 2; ++h) *positions.view.run(0, h, t).positions = 3 * t;
  check(c, scores.view, positions.view, {[&] {
          owned_scores mean(1, 1, 20);
          for (int t = 0; t < 20; ++t)
            mean.view.row(0, 0)[t] = (scores.view.row(0, 0)[t] + scores.view.row(0, 1)[t]) / 2.0f;
          return tokens_of(best(candidates(positions.view, mean.view, pins{}, 0, 0), 6), 0);
        }()});
  *positions.view.run(0, 1, 7).positions += 1;
  refused(positions.view);
}

TEST_CASE("heads that share a budget give it to the best of them all, ties to the lower position, then head") {
  SEEDED(random);
  for (kind what : {kind::distinct, kind::ties, kind::plateau, kind::special})
    for (int round = 0; round < 6; ++round) {
      auto const lengths = odd_lengths(random, 8);
      auto const cache = cache_of<float>(random, lengths, 4);
      owned_scores scores(2, 4, longest(lengths), between(random, 0, 3));
      fill(random, scores, what);
      if (round % 2 == 0)  // one head far above the others
        for (int t = 0; t < scores.view.tokens; ++t) scores.view.row(0, 1)[t] += 1;
      pins const protect{between(random, 0, 9), between(random, 0, 9), round == 5 ? 0x00ff00ffu : 0u};
      shared_percent const budget{{between(random, 1, 100)}};
      check(keeping(budget, protect), scores.view, cache.view,
            expected_shared(cache.view, scores.view, budget, protect));
    }
}

TEST_CASE("heads that share a budget keep its exact sum and each its floor") {
  SEEDED(random);
  auto const cache = cache_of<float>(random, {90, 90, 90}, 3);
  owned_scores scores(1, 3, 90);
  for (int t = 0; t < 90; ++t)
    for (int h = 0; h < 3; ++h) scores.view.row(0, h)[t] = h == 1 ? 10.0f : 1.0f;
  auto const c = keeping(shared_percent{{20}});
  owned_selection kept(3, 270);
  owned_workspace work(purekv::select_workspace(purekv::cpu{}, c, cache.view));
  REQUIRE(purekv::select(purekv::cpu{}, c, scores.view, cache.view, kept.view, work.view()).ok());
  CHECK(kept.view.count(0) == 6);
  CHECK(kept.view.count(1) == 54 - 12);
  CHECK(kept.view.count(2) == 6);
}

TEST_CASE("large rows agree with the reference") {
  SEEDED(random);
  auto const cache = cache_of<half>(random, {16384, 5000}, 2);
  owned_scores scores(1, 2, 16384);
  for (float& x : scores.memory) x = std::exp(normal(random));
  check(keeping(percent{20}, pins{4, 32, 0}), scores.view, cache.view,
        expected_by_head(cache.view, scores.view, percent{20}, pins{4, 32, 0}));
  check(keeping(shared_percent{{20}}), scores.view, cache.view,
        expected_shared(cache.view, scores.view, shared_percent{{20}}, pins{}));
}

TEST_CASE("an empty cache gives empty rows") {
  SEEDED(random);
  auto const cache = cache_of<float>(random, {0, 0}, 2);
  owned_scores scores(1, 2, 0);
  check(keeping(exactly{5}), scores.view, cache.view, {{}, {}});
  check(keeping(shared_percent{{20}}), scores.view, cache.view, {{}, {}});
}

TEST_CASE("select refuses budgets, protects and layers that make no sense, and writes nothing") {
  SEEDED(random);
  auto const cache = cache_of<float>(random, {20, 7}, 2);
  owned_scores scores(1, 2, 20);
  fill(random, scores, kind::distinct);
  auto const refused = [&](auto const& c, purekv::layer_position layer = {}) {
    owned_selection kept(2, 40);
    owned_workspace work(purekv::select_workspace(purekv::cpu{}, c, cache.view));
    snapshot before;
    before.watch(kept.offset);
    before.watch(kept.token);
    auto const run = [&](int ranks) {
      return status_on_ranks(ranks,
                             [&](purekv::cpu exec) {
                               return purekv::select(exec, c, scores.view, cache.view, kept.view, work.view(), layer);
                             })
          .code;
    };
    errc const code = run(1);
    CHECK(run(3) == code);
    CHECK(before.unchanged());
    return code;
  };
  CHECK(refused(keeping(exactly{0})) == errc::bad_policy);
  CHECK(refused(keeping(exactly{-3})) == errc::bad_policy);
  CHECK(refused(keeping(exactly{-7})) == errc::bad_policy);
  CHECK(refused(keeping(exactly{1}), {1, 1}) == errc::bad_shape);
  CHECK(refused(keeping(exactly{1}), {-1, 4}) == errc::bad_shape);
  CHECK(refused(keeping(exactly{1}), {0, 0}) == errc::bad_shape);
  *cache.view.run(0, 1, 6).positions = 100000;
  CHECK(refused(keeping(exactly{1})) == errc::bad_positions);
}

TEST_CASE("a cache that makes no sense wants no workspace and no capacity; select says why") {
  std::vector<std::int32_t> lengths(1, -5);
  purekv::contiguous_cache<float> cache{};
  cache.lengths = lengths.data();
  cache.sequences = cache.kv_heads = 1;
  CHECK(purekv::select_workspace(purekv::cpu{}, keeping(exactly{1}), cache) == 0);
  CHECK(purekv::selection_capacity(cache) == 0);
  CHECK(purekv::select(purekv::cpu{}, keeping(exactly{1}), {}, cache, {}, {}).code == errc::bad_shape);
}
