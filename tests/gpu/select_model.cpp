// SPDX-License-Identifier: Apache-2.0
#include <purekv/select_model.cuh>
// The header under test comes first.
#include "support/gpu.hpp"
#include "support/unscored.hpp"

#include <purekv/budget/across_model.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/protect/any_of.hpp>
#include <purekv/protect/none.hpp>
#include <purekv/protect/recent.hpp>
#include <purekv/protect/sinks.hpp>
#include <purekv/protect/within_window.hpp>

#include <deque>

using namespace purekv;

namespace gpu_select_model_test {

using test::unscored;

float const inf = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();

/// Every other layer keeps twice as much.
struct by_layer {
  std::int32_t share = 0;
  PUREKV_HD std::int32_t keep(budget_input in) const {
    std::int32_t const wanted = in.tokens * share * (1 + in.layer % 2) / 100;
    return wanted < 1 ? 1 : wanted < in.tokens ? wanted : in.tokens;
  }
  PUREKV_HD status check() const { return share < 0 ? status{errc::bad_policy, "by_layer: negative"} : status{}; }
};

template <class B, class P = none> using keeping = compressor<unscored, across_model<B>, P>;
using usual_pins = any_of<sinks, recent>;

struct small_tiles {
  static constexpr std::int32_t threads = 64, packs = 2, keys_per_block = 128;
};

enum class kind { distinct, ties, special, equal };
constexpr kind kinds[] = {kind::distinct, kind::ties, kind::special, kind::equal};

struct sizes {
  int layers, sequences, kv_heads, longest;
};

/// A model whose heads hold tokens at odd positions; in a contiguous one layers differ in capacity as well.
template <class Owned> struct owned_model {
  using cache_type = decltype(Owned::view);
  sizes n;
  std::deque<Owned> caches;
  std::deque<fixtures::owned_scores> scores;
  std::vector<scored_layer<cache_type>> view;

  owned_model(test::random& random, sizes const& of, kind what) : n(of) {
    float const odd[] = {not_a_number, -not_a_number, inf, -inf, 0.0f, -0.0f, 1e-42f, -3e38f, 1.0f};
    for (int l = 0; l < n.layers; ++l) {
      std::vector<std::int32_t> lengths, capacities;
      for (int r = 0; r < n.sequences * n.kv_heads; ++r) {
        lengths.push_back(random.between(0, 3) == 0 ? random.between(0, n.longest) : n.longest);
        capacities.push_back(lengths.back() + random.between(0, 2));
      }
      if constexpr (requires(Owned & o) { o.lengths; })
        caches.emplace_back(n.sequences, n.kv_heads, n.longest + random.between(0, 5), 1);
      else
        caches.emplace_back(n.sequences, n.kv_heads, capacities, 1, 0, 1);
      cache_type const& cache = caches.back().view;
      for (int r = 0; r < n.sequences * n.kv_heads; ++r)
        for (int t = 0, position = -1; t < lengths[fixtures::size(r)]; ++t) {
          position += random.between(1, 2);
          fixtures::push(
              cache, r / n.kv_heads, r % n.kv_heads, position, [](int) { return 1.0f; }, [](int) { return 1.0f; });
        }
      scores.emplace_back(n.sequences, n.kv_heads, n.longest, random.between(0, 3));
      for (float& x : scores.back().memory) {
        if (what == kind::distinct) x = random.normal() + static_cast<float>(l % 5);
        if (what == kind::ties) x = static_cast<float>(random.between(-1, 1));
        if (what == kind::special) x = odd[random.between(0, 8)];
        if (what == kind::equal) x = -0.5f;
      }
      view.push_back({cache, scores.back().view});
    }
  }
  int rows() const { return n.layers * n.sequences * n.kv_heads; }
};

using rows_of_tokens = std::vector<std::vector<std::int32_t>>;

rows_of_tokens rows_of(fixtures::owned_selection const& kept) {
  rows_of_tokens rows;
  for (int r = 0; r < kept.view.rows; ++r) rows.push_back(kept.row(r));
  return rows;
}

template <class C, class Model> rows_of_tokens by_cpu(C const& c, Model const& m) {
  fixtures::owned_selection kept(m.rows(), selection_capacity(m.view.data(), m.n.layers));
  fixtures::owned_workspace work(select_workspace(cpu{}, c, m.view.data(), m.n.layers));
  status const s = select(cpu{}, c, m.view.data(), m.n.layers, kept.view, work.view());
  REQUIRE_MESSAGE(s.ok(), s.message);
  return rows_of(kept);
}

/// As the oracle chooses them.
template <class C, class Model> rows_of_tokens by_oracle(C const& c, Model const& m) {
  rows_of_tokens rows(fixtures::size(m.rows()));
  for (int s = 0; s < m.n.sequences; ++s) {
    std::vector<oracle::sharing_head> heads;
    for (int l = 0; l < m.n.layers; ++l) {
      auto const& cache = m.view[fixtures::size(l)].cache;
      std::int32_t last = -1;
      for (int h = 0; h < m.n.kv_heads; ++h)
        if (int const n = cache.length(s, h); n > 0) last = std::max(last, *cache.run(s, h, n - 1).positions);
      for (int h = 0; h < m.n.kv_heads; ++h) {
        oracle::sharing_head& head = heads.emplace_back();
        for (int t = 0; t < cache.length(s, h); ++t) {
          head.scores.push_back(m.view[fixtures::size(l)].scores.row(s, h)[t]);
          head.positions.push_back(*cache.run(s, h, t).positions);
          head.pinned.push_back(c.protect.pinned(head.positions.back(), last));
        }
        head.keep = cache.length(s, h) > 0 ? c.budget.keep({cache.length(s, h), l, m.n.layers}) : 0;
        head.floor = c.budget.floor(head.keep);
      }
    }
    auto const kept = oracle::select_shared(heads, oracle::tie::earlier_head_then_token);
    for (int l = 0; l < m.n.layers; ++l)
      for (int h = 0; h < m.n.kv_heads; ++h)
        rows[fixtures::size((l * m.n.sequences + s) * m.n.kv_heads + h)] = kept[fixtures::size(l * m.n.kv_heads + h)];
  }
  return rows;
}

template <class Tiles, class C, class Model>
void check_with(test::random& random, C const& c, Model const& m, rows_of_tokens const& expected) {
  test::gpu_device device(random);
  gpu exec = device.exec();
  if (std::is_same_v<Tiles, small_tiles>) exec.device.multiprocessors = random.between(1, 40);  // more blocks for a row
  std::int64_t const capacity = selection_capacity(exec, m.view.data(), m.n.layers);
  fixtures::owned_selection kept(m.rows(), capacity);
  fixtures::owned_workspace work(detail::select_workspace_with<Tiles>(exec, c, m.view.data(), m.n.layers));
  auto const run = [&](workspace const& memory) {
    return [&, memory](gpu const&) {
      return detail::select_with<Tiles>(exec, c, m.view.data(), m.n.layers, kept.view, memory);
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

using ragged = fixtures::owned_ragged<half>;
using contiguous = fixtures::owned_contiguous<half>;

}  // namespace gpu_select_model_test

using namespace gpu_select_model_test;

TEST_CASE("select over a model on a GPU keeps what the CPU and the oracle keep") {
  SEEDED(random);
  for (kind what : kinds)
    for (int floor : {0, 1, 4}) {
      CAPTURE(static_cast<int>(what));
      CAPTURE(floor);
      owned_model<ragged> const m(
          random, {random.between(1, 5), random.between(1, 3), random.between(1, 4), random.between(1, 130)}, what);
      keeping<by_layer, usual_pins> const c{.budget = {{random.between(1, 60)}, floor, 4},
                                            .protect = {sinks{random.between(0, 4)}, recent{random.between(0, 6)}}};
      auto const expected = by_cpu(c, m);
      CHECK(expected == by_oracle(c, m));
      check_with<small_tiles>(random, c, m, expected);
      if (floor == 1) check_with<detail::select_tiles>(random, c, m, expected);
    }
}

TEST_CASE("select over a model on a GPU: several blocks for a row, layers of other capacities") {
  SEEDED(random);
  for (kind what : kinds) {
    owned_model<contiguous> const m(random, {2, 1, 1, 700}, what);
    for (int floor : {0, 2}) {
      keeping<ratio> const c{.budget = {{1, 3}, floor, 4}};
      check_with<small_tiles>(random, c, m, by_cpu(c, m));
    }
  }
}

TEST_CASE("select over a model on a GPU: more layers than a launch takes, more rows than a block has threads") {
  SEEDED(random);
  for (int layers : {16, 17, 40}) {
    owned_model<ragged> const m(random, {layers, 2, 4, 9}, kind::ties);
    keeping<by_layer, within_window<usual_pins>> const c{.budget = {{30}, 1, 4}, .protect = {8, {sinks{1}, recent{2}}}};
    check_with<small_tiles>(random, c, m, by_cpu(c, m));
  }
}

TEST_CASE("select over a model on a GPU: more pinned than the budget, and empty caches") {
  SEEDED(random);
  owned_model<ragged> const m(random, {4, 2, 2, 30}, kind::distinct);
  keeping<ratio, usual_pins> const c{.budget = {{1, 30}}, .protect = {sinks{20}, recent{20}}};
  check_with<small_tiles>(random, c, m, by_cpu(c, m));
  owned_model<ragged> const none_cached(random, {3, 1, 2, 0}, kind::distinct);
  check_with<small_tiles>(random, c, none_cached, by_cpu(c, none_cached));
}

TEST_CASE("select over a model on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  owned_model<ragged> const m(random, {3, 1, 2, 20}, kind::distinct);
  keeping<by_layer> const c{.budget = {{30}, 1, 4}};
  test::gpu_device device(random);
  fixtures::owned_selection kept(6, selection_capacity(device.exec(), m.view.data(), 3));
  fixtures::owned_workspace work(select_workspace(device.exec(), c, m.view.data(), 3));
  fixtures::snapshot before;
  before.watch(kept.offset);
  before.watch(kept.token);
  struct call {
    gpu exec;
    keeping<by_layer> c;
    std::vector<scored_layer<ragged_cache<half>>> model;
    int layers;
    selection out;
    workspace work;
  };
  auto const code = [&](auto const& change) {
    call with{device.exec(), c, m.view, 3, kept.view, work.view()};
    change(with);
    return device
        .status_of(
            [&](gpu const&) { return select(with.exec, with.c, with.model.data(), with.layers, with.out, with.work); })
        .code;
  };
  CHECK(code([](call& with) { with.exec.device = {}; }) == errc::unsupported_device);
  CHECK(code([](call& with) { with.layers = 0; }) == errc::bad_shape);
  CHECK(code([](call& with) { with.model = decltype(with.model)(); }) == errc::null_data);
  CHECK(code([](call& with) { with.c.budget.budget.share = -1; }) == errc::bad_policy);
  CHECK(code([](call& with) { with.c.budget.floor_numerator = 5; }) == errc::bad_policy);
  CHECK(code([](call& with) { with.out.rows = 5; }) == errc::mismatch);
  CHECK(code([](call& with) { with.out.scope = selection_scope::layer; }) == errc::mismatch);
  CHECK(code([](call& with) { with.out.offset = nullptr; }) == errc::null_data);
  CHECK(code([](call& with) { with.out.token = nullptr; }) == errc::null_data);
  CHECK(code([](call& with) { --with.out.capacity; }) == errc::capacity_exceeded);
  CHECK(code([](call& with) { with.model[1].cache.kv_heads = 1; }) == errc::mismatch);
  CHECK(code([](call& with) { with.model[2].cache.extents = nullptr; }) == errc::null_data);
  CHECK(code([](call& with) { with.model[2].cache.slots = std::int64_t{1} << 32; }) == errc::bad_shape);
  CHECK(code([](call& with) { with.model[2].scores.data = nullptr; }) == errc::null_data);
  CHECK(code([](call& with) { with.model[1].scores.rows = 1; }) == errc::mismatch);
  CHECK(code([](call& with) { --with.work.bytes; }) == errc::workspace_too_small);
  CHECK(before.unchanged());
  CHECK(select_workspace(device.exec(), c, m.view.data(), 0) == 0);
  auto huge = m.view;
  huge[0].cache.slots = UINT32_MAX;
  CHECK(select_workspace(device.exec(), c, huge.data(), 3) == 0);
}
