// SPDX-License-Identifier: Apache-2.0
#include <purekv/select.cuh>
// The header under test comes first.
#include "support/gpu.hpp"
#include "support/unscored.hpp"

#include <purekv/budget/across_heads.hpp>
#include <purekv/budget/fixed.hpp>
#include <purekv/budget/pyramid.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/protect/any_of.hpp>
#include <purekv/protect/none.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/protect/sinks.hpp>
#include <purekv/protect/within_window.hpp>
#if defined(__CUDACC__)
#include <cub/device/device_segmented_radix_sort.cuh>
#endif

using namespace purekv;

namespace gpu_select_test {

using test::unscored;

float const inf = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();

/// Pins the first, the newest, and every position in the set bits of `scattered`, taken modulo 32.
struct pins {
  std::int32_t first = 0, newest = 0;
  std::uint32_t scattered = 0;
  PUREKV_HD bool pinned(std::int32_t position, std::int32_t last) const {
    return position < first || last - position < newest || (scattered >> (position % 32) & 1u) != 0;
  }
  PUREKV_HD status check(std::int32_t) const { return {}; }
};

/// keep may be any number, whatever a good budget would say.
struct exactly {
  std::int32_t tokens;
  PUREKV_HD std::int32_t keep(budget_input) const { return tokens; }
  PUREKV_HD status check() const { return tokens == -7 ? status{errc::bad_policy, "exactly: minus seven"} : status{}; }
};

template <selection_scope Scope = selection_scope::kv_head, class B, class P = none>
compressor<unscored, B, P, Scope> keeping(B budget, P protect = {}) {
  return {{}, budget, protect};
}

/// Tiles of few keys, so that short rows have several of them, and several blocks.
struct small_tiles {
  static constexpr std::int32_t threads = 64, packs = 2, keys_per_block = 128;
};

/// A ragged cache or a contiguous one; positions have holes.
template <class Owned> Owned cache_of(test::random& random, std::vector<int> const& lengths, int kv_heads) {
  int const sequences = static_cast<int>(lengths.size()) / kv_heads;
  Owned cache = [&] {
    if constexpr (requires(Owned & o) { o.lengths; })
      return Owned(sequences, kv_heads, *std::max_element(lengths.begin(), lengths.end()) + random.between(0, 3), 1);
    else {
      std::vector<std::int32_t> capacities;
      for (int n : lengths) capacities.push_back(n + random.between(0, 2));
      return Owned(sequences, kv_heads, capacities, 1, 0, random.between(0, 2));
    }
  }();
  for (int row = 0; row < static_cast<int>(lengths.size()); ++row) {
    int position = -1;
    for (int t = 0; t < lengths[fixtures::size(row)]; ++t) {
      position += random.between(1, 3);
      fixtures::push(
          cache.view, row / kv_heads, row % kv_heads, position, [](int) { return 1.0f; }, [](int) { return 1.0f; });
    }
  }
  return cache;
}

using ragged = fixtures::owned_ragged<purekv::half>;
using contiguous = fixtures::owned_contiguous<purekv::half>;

enum class kind { distinct, ties, plateau, special, equal, nan };
constexpr kind kinds[] = {kind::distinct, kind::ties, kind::plateau, kind::special, kind::equal, kind::nan};

template <class C> fixtures::owned_scores scores_of(test::random& random, C const& cache, kind what) {
  int longest = 0;
  for (int s = 0; s < cache.sequences; ++s)
    for (int h = 0; h < cache.kv_heads; ++h) longest = std::max(longest, cache.length(s, h));
  fixtures::owned_scores scores(cache.sequences, cache.kv_heads, longest, random.between(0, 3));
  float const odd[] = {not_a_number, -not_a_number, inf, -inf, 0.0f, -0.0f, 1e-42f, -1e-42f, 3e38f, -3e38f, 1.0f};
  for (float& x : scores.memory) {
    if (what == kind::distinct) x = random.normal();
    if (what == kind::ties) x = static_cast<float>(random.between(-1, 1));
    if (what == kind::plateau) x = random.between(0, 20) == 0 ? random.normal() : 0.25f;
    if (what == kind::special) x = odd[random.between(0, 10)];
    if (what == kind::equal) x = 2.5f;
    if (what == kind::nan) x = not_a_number;
  }
  return scores;
}

using rows_of_tokens = std::vector<std::vector<std::int32_t>>;

rows_of_tokens rows_of(fixtures::owned_selection const& kept) {
  rows_of_tokens rows;
  for (int r = 0; r < kept.view.rows; ++r) rows.push_back(kept.row(r));
  return rows;
}

template <class Compressor, class C>
rows_of_tokens by_cpu(Compressor const& c, score_view const& scores, C const& cache, layer_position layer) {
  fixtures::owned_selection kept(detail::selection_rows<Compressor>(cache), selection_capacity(cache),
                                 Compressor::scope);
  fixtures::owned_workspace work(select_workspace(cpu{}, c, cache));
  status const s = select(cpu{}, c, scores, cache, kept.view, work.view(), layer);
  REQUIRE_MESSAGE(s.ok(), s.message);
  return rows_of(kept);
}

template <class Tiles, class Compressor, class C>
void check_with(test::random& random, Compressor const& c, score_view const& scores, C const& cache,
                rows_of_tokens const& expected, layer_position layer) {
  test::gpu_device device(random);
  gpu exec = device.exec();
  if (std::is_same_v<Tiles, small_tiles>) exec.device.multiprocessors = random.between(1, 40);  // more blocks for a row
  std::int64_t const capacity = selection_capacity(exec, cache, Compressor::scope);
  fixtures::owned_selection kept(static_cast<int>(expected.size()), capacity, Compressor::scope);
  fixtures::owned_workspace work(detail::select_workspace_with<Tiles>(exec, c, cache));
  auto const run = [&](workspace const& memory) {
    return [&, memory](gpu const&) {
      return detail::select_with<Tiles>(exec, c, scores, cache, kept.view, memory, layer);
    };
  };
  fixtures::snapshot before;
  before.watch(kept.offset);
  before.watch(kept.token);
  CHECK(device.status_of(run(work.one_byte_less())).code == errc::workspace_too_small);
  CHECK(before.unchanged());
  device.run(run(work.view()));
  CHECK(work.guards_untouched());
  REQUIRE(kept.offset[0] == 0);
  std::int64_t total = 0;
  for (std::size_t r = 0; r < expected.size(); ++r)
    REQUIRE(kept.offset[r + 1] == (total += static_cast<std::int64_t>(expected[r].size())));
  CHECK(rows_of(kept) == expected);
  for (std::int64_t i = total; i < capacity; ++i) CHECK(fixtures::is_untouched(kept.token[fixtures::size(i)]));
}

/// The same as the CPU, with both tilings.
template <class Compressor, class C>
void check(test::random& random, Compressor const& c, score_view const& scores, C const& cache,
           layer_position layer = {}) {
  rows_of_tokens const expected = by_cpu(c, scores, cache, layer);
  check_with<detail::select_tiles>(random, c, scores, cache, expected, layer);
  check_with<small_tiles>(random, c, scores, cache, expected, layer);
}

std::vector<int> odd_lengths(test::random& random, int rows) {
  int const odd[] = {0, 1, 2, 31, 32, 33, 127, 128, 129, 255, 256, 257, 600};
  std::vector<int> lengths;
  for (int i = 0; i < rows; ++i) lengths.push_back(odd[random.between(0, 12)]);
  return lengths;
}

using usual_pins = any_of<sinks, recent>;

/// What the oracle keeps of each row, by each_row(sequence, heads with scores, pins and positions, keep and floor).
template <class Compressor, class C>
std::vector<oracle::sharing_head> heads_of(Compressor const& c, score_view const& scores, C const& cache, int s) {
  std::int32_t last = -1;
  for (int h = 0; h < cache.kv_heads; ++h)
    if (int const n = cache.length(s, h); n > 0) last = std::max(last, *cache.run(s, h, n - 1).positions);
  std::vector<oracle::sharing_head> heads;
  for (int h = 0; h < cache.kv_heads; ++h) {
    oracle::sharing_head& head = heads.emplace_back();
    head.keep = cache.length(s, h) > 0 ? c.budget.keep({cache.length(s, h)}) : 0;
    for (int t = 0; t < cache.length(s, h); ++t) {
      head.scores.push_back(scores.row(s, h)[t]);
      head.positions.push_back(*cache.run(s, h, t).positions);
      head.pinned.push_back(c.protect.pinned(head.positions.back(), last));
    }
  }
  return heads;
}

}  // namespace gpu_select_test

using namespace gpu_select_test;

TEST_CASE("select on a GPU keeps what the CPU keeps: every head its pinned tokens, then its best") {
  SEEDED(random);
  for (kind what : kinds) {
    CAPTURE(static_cast<int>(what));
    auto const by_head = cache_of<ragged>(random, odd_lengths(random, 6), 3);
    auto const scores = scores_of(random, by_head.view, what);
    pins const protect{random.between(0, 6), random.between(0, 6), 1u << random.between(0, 31)};
    check(random, keeping(ratio{random.between(1, 9), 10}, protect), scores.view, by_head.view);
    auto const equal = cache_of<contiguous>(random, odd_lengths(random, 4), 2);
    auto const others = scores_of(random, equal.view, what);
    check(random, keeping(fixed{random.between(1, 300)}, usual_pins{{2}, {5}}), others.view, equal.view);
  }
}

TEST_CASE("select on a GPU agrees with the oracle") {
  SEEDED(random);
  for (kind what : kinds) {
    auto const cache = cache_of<ragged>(random, odd_lengths(random, 6), 3);
    auto const scores = scores_of(random, cache.view, what);
    auto const alone = keeping(ratio{random.between(1, 9), 10}, usual_pins{{3}, {4}});
    auto const together = keeping(across_heads<ratio>{{random.between(1, 9), 10}}, usual_pins{{3}, {4}});
    rows_of_tokens kept_alone, kept_together;
    for (int s = 0; s < 2; ++s) {
      for (auto const& head : heads_of(alone, scores.view, cache.view, s))
        kept_alone.push_back(oracle::select_head(head.scores, head.pinned, head.keep));
      auto heads = heads_of(together, scores.view, cache.view, s);
      for (auto& head : heads) head.floor = together.budget.floor(head.keep);
      for (auto const& kept : oracle::select_shared(heads)) kept_together.push_back(kept);
    }
    check_with<small_tiles>(random, alone, scores.view, cache.view, kept_alone, {});
    check_with<small_tiles>(random, together, scores.view, cache.view, kept_together, {});
  }
}

TEST_CASE("select on a GPU: heads that share a budget, whatever floor and ties") {
  SEEDED(random);
  for (kind what : kinds)
    for (int numerator : {0, 1, 5}) {
      CAPTURE(static_cast<int>(what));
      auto const cache = cache_of<ragged>(random, odd_lengths(random, 8), 4);
      auto const scores = scores_of(random, cache.view, what);
      for (int t = 0; t < scores.view.tokens; ++t) scores.view.row(0, 1)[t] += 1;  // one head above the others
      across_heads<ratio> const budget{{random.between(1, 9), 10}, numerator, 5};
      pins const protect{random.between(0, 9), random.between(0, 9), numerator == 5 ? 0x00ff00ffu : 0u};
      rows_of_tokens const expected = by_cpu(keeping(budget, protect), scores.view, cache.view, {});
      check_with<small_tiles>(random, keeping(budget, protect), scores.view, cache.view, expected, {});
      if (numerator == 1) check(random, keeping(budget, protect), scores.view, cache.view);
    }
}

TEST_CASE("select on a GPU: more heads than a block has threads share the ties") {
  SEEDED(random);
  std::vector<int> lengths;
  for (int h = 0; h < 150; ++h) lengths.push_back(random.between(0, 9));
  auto const cache = cache_of<ragged>(random, lengths, 150);
  for (kind what : {kind::equal, kind::ties}) {
    auto const scores = scores_of(random, cache.view, what);
    for (int tenths : {1, 4, 8}) {
      across_heads<ratio> const budget{{tenths, 10}, 0, 1};
      check_with<small_tiles>(random, keeping(budget), scores.view, cache.view,
                              by_cpu(keeping(budget), scores.view, cache.view, {}), {});
    }
  }
}

TEST_CASE("select on a GPU: one list for all heads, by the mean of their scores") {
  SEEDED(random);
  for (kind what : kinds) {
    contiguous cache(3, 3, 301, 1, fixtures::order::token_major);
    for (int s = 0; s < 3; ++s)
      for (int t = 0; t < (s == 0 ? 300 : s == 1 ? 0 : 33); ++t)
        for (int h = 0; h < 3; ++h)
          fixtures::push(
              cache.view, s, h, t * 2 + s, [](int) { return 1.0f; }, [](int) { return 1.0f; });
    auto const scores = scores_of(random, cache.view, what);
    check(random, keeping<selection_scope::layer>(ratio{3, 10}, pins{2, 1, 0}), scores.view, cache.view);
    ragged same = cache_of<ragged>(random, {90, 90, 7, 7}, 2);
    for (int s = 0; s < 2; ++s)
      for (int t = 0; t < same.view.length(s, 0); ++t)
        for (int h = 0; h < 2; ++h) *same.view.run(s, h, t).positions = 3 * t;
    auto const others = scores_of(random, same.view, what);
    check_with<small_tiles>(random, keeping<selection_scope::layer>(fixed{20}), others.view, same.view,
                            by_cpu(keeping<selection_scope::layer>(fixed{20}), others.view, same.view, {}), {});
  }
}

TEST_CASE("select on a GPU: what the protect evicts is not kept, whatever the budget, the scores and the pins") {
  SEEDED(random);
  for (kind what : {kind::distinct, kind::ties, kind::special, kind::nan})
    for (int window : {1, 7, 60, 1000}) {
      auto const cache = cache_of<ragged>(random, odd_lengths(random, 6), 3);
      auto const scores = scores_of(random, cache.view, what);
      within_window<pins> const protect{window,
                                        {random.between(0, 40), random.between(0, 6), 1u << random.between(0, 31)}};
      auto const number = keeping(exactly{window == 60 ? INT32_MAX : random.between(1, 40)}, protect);
      auto const shared = keeping(across_heads<ratio>{{random.between(1, 9), 10}}, protect);
      check_with<small_tiles>(random, number, scores.view, cache.view, by_cpu(number, scores.view, cache.view, {}), {});
      check_with<small_tiles>(random, shared, scores.view, cache.view, by_cpu(shared, scores.view, cache.view, {}), {});
    }
}

TEST_CASE("select on a GPU: all pinned, more pinned than the budget") {
  SEEDED(random);
  auto const cache = cache_of<ragged>(random, {300, 40, 0, 129}, 2);
  auto const scores = scores_of(random, cache.view, kind::distinct);
  check(random, keeping(fixed{3}, pins{INT32_MAX, 0, 0}), scores.view, cache.view);
  check(random, keeping(fixed{3}, pins{20, 30, 0x0f0f0f0fu}), scores.view, cache.view);
  across_heads<fixed> const shared{{3}};
  check_with<small_tiles>(random, keeping(shared, pins{20, 30, 0x0f0f0f0fu}), scores.view, cache.view,
                          by_cpu(keeping(shared, pins{20, 30, 0x0f0f0f0fu}), scores.view, cache.view, {}), {});
}

TEST_CASE("select on a GPU: the budget hears of the layer") {
  SEEDED(random);
  auto const cache = cache_of<contiguous>(random, {90, 71}, 1);
  auto const scores = scores_of(random, cache.view, kind::distinct);
  auto const c = keeping(pyramid<ratio>{{1, 3}, 8});
  for (int layer : {0, 3, 8})
    check_with<small_tiles>(random, c, scores.view, cache.view, by_cpu(c, scores.view, cache.view, {layer, 9}),
                            {layer, 9});
}

TEST_CASE("select on a GPU: rows around the sizes of tiles, and long ones") {
  SEEDED(random);
  for (kind what : {kind::distinct, kind::ties}) {
    auto const cache = cache_of<ragged>(random, {1023, 1024, 1025, 5000}, 2);
    auto const scores = scores_of(random, cache.view, what);
    check(random, keeping(ratio{1, 5}, usual_pins{{4}, {32}}), scores.view, cache.view);
    auto const shared = keeping(across_heads<ratio>{{1, 5}}, usual_pins{{4}, {32}});
    check_with<small_tiles>(random, shared, scores.view, cache.view, by_cpu(shared, scores.view, cache.view, {}), {});
  }
  // Several blocks of the tiles that are used, and several tiles of a block.
  auto const cache = cache_of<contiguous>(random, {40000}, 1);
  auto const scores = scores_of(random, cache.view, kind::ties);
  auto const c = keeping(ratio{1, 2}, usual_pins{{4}, {32}});
  check_with<detail::select_tiles>(random, c, scores.view, cache.view, by_cpu(c, scores.view, cache.view, {}), {});
}

TEST_CASE("select on a GPU: empty caches keep nothing, and need no tokens") {
  SEEDED(random);
  for (int capacity : {0, 5}) {
    contiguous const cache(2, 2, capacity, 1);
    fixtures::owned_scores const scores(2, 2, 0);
    check(random, keeping(fixed{5}), scores.view, cache.view);
    check(random, keeping(across_heads<fixed>{{5}}), scores.view, cache.view);
  }
}

TEST_CASE("select on a GPU: a budget below one token leaves a head its pinned ones") {
  SEEDED(random);
  auto const cache = cache_of<ragged>(random, {50, 7}, 2);
  auto const scores = scores_of(random, cache.view, kind::distinct);
  rows_of_tokens pinned(2);
  for (int h = 0; h < 2; ++h)
    for (int t = 0; t < cache.view.length(0, h); ++t)
      if (*cache.view.run(0, h, t).positions < 9) pinned[fixtures::size(h)].push_back(t);
  for (int keep : {0, -3})
    check_with<small_tiles>(random, keeping(exactly{keep}, pins{9, 0, 0}), scores.view, cache.view, pinned, {});
}

TEST_CASE("select on a GPU: a workspace and a capacity that the lengths do not change") {
  SEEDED(random);
  test::gpu_device device(random);
  auto cache = cache_of<ragged>(random, {50, 7}, 2);
  auto const c = keeping(across_heads<fixed>{{5}});
  auto const bytes = select_workspace(device.exec(), c, cache.view);
  auto const capacity = selection_capacity(device.exec(), cache.view);
  CHECK(bytes > 0);
  CHECK(capacity == cache.view.slots);
  CHECK(selection_capacity(device.exec(), cache.view, selection_scope::layer) == cache.view.slots / 2);
  cache.view.set_length(0, 0, 1);
  CHECK(select_workspace(device.exec(), c, cache.view) == bytes);
  CHECK(selection_capacity(device.exec(), cache.view) == capacity);
  cache.view.extents = nullptr;
  CHECK(select_workspace(device.exec(), c, cache.view) == 0);
  CHECK(selection_capacity(device.exec(), cache.view) == 0);
}

TEST_CASE("select on a GPU writes nowhere else when lengths are wrong") {
  SEEDED(random);
  auto cache = cache_of<ragged>(random, {50, 7, 9}, 3);
  auto const scores = scores_of(random, cache.view, kind::distinct);
  auto const c = keeping(fixed{60});
  test::gpu_device device(random);
  fixtures::owned_selection kept(3, selection_capacity(device.exec(), cache.view) + 9);
  kept.view.capacity -= 9;
  fixtures::owned_workspace work(select_workspace(device.exec(), c, cache.view));
  cache.extents[0].length = -5;
  cache.extents[1].begin = cache.view.slots + 40;
  cache.extents[2].length = 1000;
  device.run([&](gpu const& exec) { return select(exec, c, scores.view, cache.view, kept.view, work.view()); });
  CHECK(work.guards_untouched());
  CHECK(kept.view.count(0) == 0);
  CHECK(kept.view.count(1) == 0);
  std::int64_t const total = kept.view.count(2);
  CHECK(total <= cache.extents[2].capacity);
  CHECK(total >= 9);
  for (std::size_t i = fixtures::size(total); i < kept.token.size(); ++i) CHECK(fixtures::is_untouched(kept.token[i]));
}

TEST_CASE("select on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  auto const cache = cache_of<contiguous>(random, {20, 7}, 2);
  auto const scores = scores_of(random, cache.view, kind::distinct);
  test::gpu_device device(random);
  fixtures::owned_selection kept(2, selection_capacity(device.exec(), cache.view));
  fixtures::owned_workspace work(select_workspace(device.exec(), keeping(exactly{1}), cache.view));
  fixtures::snapshot before;
  before.watch(kept.offset);
  before.watch(kept.token);
  auto const code = [&](auto const& change) {
    gpu exec = device.exec();
    auto c = keeping(exactly{1});
    score_view in = scores.view;
    auto from = cache.view;
    selection out = kept.view;
    workspace memory = work.view();
    layer_position layer;
    change(exec, c, in, from, out, memory, layer);
    return device.status_of([&](gpu const&) { return select(exec, c, in, from, out, memory, layer); }).code;
  };
  CHECK(code([](auto& exec, auto&, auto&, auto&, auto&, auto&, auto&) { exec.device = {}; }) ==
        errc::unsupported_device);
  CHECK(code([](auto& exec, auto&, auto&, auto&, auto&, auto&, auto&) { exec.device.major = 7; }) ==
        errc::unsupported_device);
  CHECK(code([](auto&, auto& c, auto&, auto&, auto&, auto&, auto&) { c.budget.tokens = -7; }) == errc::bad_policy);
  CHECK(code([](auto&, auto&, auto& in, auto&, auto&, auto&, auto&) { in.rows = 1; }) == errc::mismatch);
  CHECK(code([](auto&, auto&, auto& in, auto&, auto&, auto&, auto&) { in.data = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto&, auto& from, auto&, auto&, auto&) { from.lengths = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto&, auto& from, auto&, auto&, auto&) { from.kv_heads = 0; }) == errc::bad_shape);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& out, auto&, auto&) { out.rows = 3; }) == errc::mismatch);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& out, auto&, auto&) { out.scope = selection_scope::layer; }) ==
        errc::mismatch);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& out, auto&, auto&) { out.offset = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& out, auto&, auto&) { out.token = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& out, auto&, auto&) { out.capacity = -1; }) == errc::bad_shape);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& out, auto&, auto&) { --out.capacity; }) == errc::capacity_exceeded);
  CHECK(code([](auto&, auto&, auto&, auto&, auto&, auto& memory, auto&) { --memory.bytes; }) ==
        errc::workspace_too_small);
  CHECK(code([](auto&, auto&, auto&, auto&, auto&, auto& memory, auto&) { memory.data = nullptr; }) ==
        errc::workspace_too_small);
  CHECK(code([](auto&, auto&, auto&, auto&, auto&, auto&, auto& layer) { layer = {1, 1}; }) == errc::bad_shape);
  CHECK(before.unchanged());

  ragged_cache<purekv::half> huge = cache_of<ragged>(random, {1}, 1).view;
  huge.slots = std::int64_t{1} << 32;
  CHECK(select_workspace(device.exec(), keeping(exactly{1}), huge) == 0);
  CHECK(select(device.exec(), keeping(exactly{1}), {nullptr, 1, 1}, huge, {kept.view.offset, nullptr, 0, 1}, {}).code ==
        errc::bad_shape);
}

#if defined(__CUDACC__)
TEST_CASE("select on a GPU keeps what a sort by CUB puts first") {
  SEEDED(random);
  auto const cache = cache_of<ragged>(random, {3000, 1, 40000, 257}, 2);
  auto const scores = scores_of(random, cache.view, kind::special);
  fixtures::buffer<std::uint32_t> keys, sorted_keys;
  fixtures::buffer<std::int32_t> tokens, sorted, offset{0};
  for (int r = 0; r < 4; ++r) {
    for (std::int32_t t = 0; t < cache.view.length(r / 2, r % 2); ++t) {
      keys.push_back(detail::rank_key(scores.view.row(r / 2, r % 2)[t]));
      tokens.push_back(t);
    }
    offset.push_back(static_cast<std::int32_t>(keys.size()));
  }
  sorted_keys.resize(keys.size());
  sorted.resize(keys.size());
  test::gpu_device device(random);
  std::size_t bytes = 0;
  fixtures::buffer<unsigned char> scratch;
  for (int pass = 0; pass < 2; ++pass) {
    scratch.resize(bytes + 1);
    REQUIRE(cub::DeviceSegmentedRadixSort::SortPairsDescending(
                pass == 0 ? nullptr : scratch.data(), bytes, keys.data(), sorted_keys.data(), tokens.data(),
                sorted.data(), static_cast<int>(keys.size()), 4, offset.data(), offset.data() + 1, 0, 32,
                device.exec().stream) == cudaSuccess);
  }
  REQUIRE(cudaStreamSynchronize(device.exec().stream) == cudaSuccess);
  rows_of_tokens expected;
  for (std::size_t r = 0; r < 4; ++r) {
    std::int32_t const length = offset[r + 1] - offset[r], keep = ratio{1, 3}.keep({length});
    auto const first = sorted.begin() + offset[r];
    std::sort(first, first + keep);
    expected.emplace_back(first, first + keep);
  }
  check_with<detail::select_tiles>(random, keeping(ratio{1, 3}), scores.view, cache.view, expected, {});
}
#endif
