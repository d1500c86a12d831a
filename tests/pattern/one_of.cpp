// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/one_of.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/pattern_checks.hpp"

#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/custom.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>
#include <purekv/plan.hpp>

using namespace purekv;
using namespace fixtures;

namespace {

struct even_sums {
  bool operator()(int, int q, int k) const { return (q + k) % 2 == 0; }
};
struct even_blocks {
  coverage operator()(int, int, int k_first, int) const {
    return k_first % 128 == 0 ? coverage::partial : coverage::empty;
  }
};
struct even_columns {
  bool operator()(int, int q, int k) const { return k / 64 % 2 == 0 && (q + k) % 2 == 0; }
};
struct by_the_head {
  bool operator()(int head, int q, int k) const { return (q + k + head) % 3 != 0; }
};

using asked = custom<even_sums, no_classifier, false>;
using classified = custom<even_columns, even_blocks, false>;
using per_head = custom<by_the_head>;
using heads = by_head<spatial_temporal>;

using causal = one_of<dense, sliding_window, spatial_temporal, classified>;
using with_asked = one_of<dense, asked, sinks_and_window>;
using with_heads = one_of<spatial_temporal, heads, per_head>;
using ahead = one_of<dense, bidirectional<>>;

static_assert(Pattern<causal> && Pattern<with_asked> && Pattern<with_heads> && Pattern<ahead>);
static_assert(!causal::per_head && !with_asked::per_head && with_heads::per_head);
static_assert(detail::has_runs<causal>() && !detail::has_runs_by_head<causal>());
static_assert(detail::has_runs_by_head<with_heads>());
static_assert(!detail::has_runs<one_of<asked, per_head>>());
static_assert(!detail::looks_ahead<causal>() && detail::looks_ahead<ahead>());
static_assert(detail::has_tile_end<causal>() && !detail::has_tile_end<with_asked>());
static_assert(!std::constructible_from<causal, sinks_and_window> && !std::constructible_from<causal, heads>);
static_assert(Pattern<bidirectional<causal>> && Pattern<one_of<causal, asked>>);

segment const segments[] = {segment::text(0, 11), segment::video(11, 5, 4, 6), segment::text(131, 9),
                            segment::video(140, 3, 7, 7), segment::text(287, 15)};
constexpr int tokens = 302;
token_layout const layout{segments, 5};
std::uint8_t const kind_of[] = {0, 0, 1, 1, 1, 0, 1, 0};

spatial_temporal near_places() {
  spatial_temporal p{layout, 2};
  p.spatial_radius = 1;
  p.temporal_radius = 1;
  p.temporal_stride = 2;
  return p;
}

heads spatial_and_temporal(int count) {
  heads p{{{layout}, {layout}}, kind_of, count};
  p.kinds[0].temporal_frames = 0;
  p.kinds[1].spatial_radius = 0;
  return p;
}

/// A plan and the memory it lies in.
struct made_plan {
  owned_workspace memory;
  tile_plan plan{};

  template <class P, class Input>
  made_plan(P const& pattern, Input const& in) : memory(plan_workspace(pattern, in.queries, in.cache.view)) {
    REQUIRE(purekv::plan(cpu{}, pattern, in.queries, in.cache.view, memory.view(), plan).ok());
  }
};

/// Tile for tile, run for run and mask for mask, as every KV head sees them.
template <class Input> void check_same_plan(Input const& in, tile_plan const& a, tile_plan const& b, bool masks) {
  REQUIRE(a.tiles_per_head == b.tiles_per_head);
  CHECK(a.tile_queries == b.tile_queries);
  for (int h = 0; h < in.cache.view.kv_heads; ++h)
    for (int t = 0; t < a.tiles_per_head; ++t) {
      query_tile const &x = a.tile(h, t), &y = b.tile(h, t);
      REQUIRE((x.sequence == y.sequence && x.first == y.first && x.count == y.count));
      REQUIRE(x.runs == y.runs);
      for (int r = 0; r < x.runs; ++r) {
        key_run const &u = a.runs[x.runs_begin + r], &v = b.runs[y.runs_begin + r];
        REQUIRE((u.begin == v.begin && u.count == v.count && u.full == v.full));
        if (!masks) continue;
        REQUIRE((u.masks >= 0) == (v.masks >= 0));
        for (int i = 0; u.masks >= 0 && i < x.count; ++i)
          for (int k = 0; k < u.count; k += 64)
            REQUIRE(a.seen(u, i, k, std::min(64, u.count - k)) == b.seen(v, i, k, std::min(64, u.count - k)));
      }
    }
}

template <class P> std::vector<float> attended(P const& pattern, shape const& s, auto const& in) {
  owned_workspace work(attend_workspace(cpu{}, pattern, in.queries, in.cache.view));
  owned_rows<float> out(s.heads, in.queries.rows.tokens, s.out_dim());
  status const done = attend(cpu{}, pattern, in.queries, in.cache.view, out.view, attend_taps{}, work.view());
  REQUIRE_MESSAGE(done.ok(), done.message);
  return out.memory;
}

bool same_bits(std::vector<float> const& a, std::vector<float> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_close(std::vector<float> const& a, std::vector<float> const& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(double{a[i]} - b[i]));
  CHECK(worst < 1e-5);
}

enum class agreement { plan, but_for_masks, results };

/// `one`, which holds `own`, plans and attends as `own` does: over whole and pruned caches, of any group.
template <class One, class P> void check_alike(generator& random, P const& own, agreement alike = agreement::plan) {
  One const one = own;
  for (int const group : {1, 4})
    for (int const keep : {100, 40}) {
      shape s = square(2 * group, 2, 8, tokens);
      s.keep_percent = keep;
      s.queries = {keep == 100 ? tokens : 131};
      attention_input<float, owned_ragged<float>> const in(random, s);
      CAPTURE(group);
      CAPTURE(keep);
      if (alike != agreement::results) {
        made_plan const expected(own, in), seen(one, in);
        check_same_plan(in, expected.plan, seen.plan, alike == agreement::plan);
        CHECK(executed_density(one, seen.plan, in.queries, in.cache.view) ==
              executed_density(own, expected.plan, in.queries, in.cache.view));
      }
      if (alike == agreement::plan)
        CHECK(same_bits(attended(one, s, in), attended(own, s, in)));
      else
        check_close(attended(one, s, in), attended(own, s, in));
    }
}

}  // namespace

TEST_CASE("one_of: every pair, range and tile end is the alternative's") {
  SEEDED(random);
  auto const check = [&](auto const& one, auto const& own) {
    for (int q = 0; q < tokens; ++q) {
      for (int h = 0; h < 8; ++h)
        for (int k = 0; k <= test::horizon(own, q); ++k) REQUIRE(one.visible(h, q, k) == own.visible(h, q, k));
      REQUIRE(test::horizon(one, q) == test::horizon(own, q));
      if constexpr (requires { one.tile_end(q); }) {
        if constexpr (requires { own.tile_end(q); })
          REQUIRE(one.tile_end(q) == own.tile_end(q));
        else
          REQUIRE(one.tile_end(q) == INT32_MAX);
      }
    }
    if constexpr (requires { test::ranges_of(one, 0, 0); }) {
      test::check_all_ranges(random, one, tokens, 40, 50);
      test::check_all_ranges(random, one, tokens, tokens, 5);
    }
  };
  check(causal{dense{}}, dense{});
  check(causal{sliding_window{17}}, sliding_window{17});
  check(causal{near_places()}, near_places());
  check(causal{classified{}}, classified{});
  check(with_asked{asked{}}, asked{});
  check(with_asked{sinks_and_window{3, 9}}, sinks_and_window{3, 9});
  check(with_heads{near_places()}, near_places());
  check(with_heads{spatial_and_temporal(8)}, spatial_and_temporal(8));
  check(with_heads{per_head{}}, per_head{});
  check(ahead{dense{}}, dense{});
  check(ahead{bidirectional<>{layout}}, bidirectional<>{layout});
  check(one_of<causal, asked>{causal{near_places()}}, near_places());
}

TEST_CASE("one_of: plans, and attends to the bit, as the alternative does") {
  SEEDED(random);
  check_alike<causal>(random, dense{});
  check_alike<causal>(random, sliding_window{17});
  check_alike<causal>(random, spatial_temporal{layout});
  check_alike<causal>(random, near_places());
  check_alike<causal>(random, classified{});
  check_alike<ahead>(random, dense{});
  check_alike<ahead>(random, bidirectional<>{layout});
  check_alike<with_asked>(random, sinks_and_window{3, 9});
  check_alike<one_of<asked>>(random, asked{});
  check_alike<one_of<causal, asked>>(random, causal{near_places()});
}

TEST_CASE("one_of: beside alternatives that look at heads, the same runs for every KV head") {
  SEEDED(random);
  check_alike<with_heads>(random, near_places(), agreement::but_for_masks);
}

TEST_CASE("one_of: an alternative without ranges beside others is asked pair by pair") {
  SEEDED(random);
  CHECK(test::ranges_of(with_asked{asked{}}, 5, 9).size() == 1);
  check_alike<with_asked>(random, asked{}, agreement::results);
  check_alike<with_heads>(random, per_head{}, agreement::results);
}

TEST_CASE("one_of: heads that differ, in the number of heads that their table has") {
  SEEDED(random);
  shape const s = square(8, 2, 8, tokens);
  attention_input<float, owned_contiguous<float>> const in(random, s);
  heads const own = spatial_and_temporal(8);
  with_heads const one = own;
  made_plan const expected(own, in), seen(one, in);
  check_same_plan(in, expected.plan, seen.plan, true);
  CHECK(same_bits(attended(one, s, in), attended(own, s, in)));
}

TEST_CASE("one_of: what it holds, and that it can be replaced") {
  causal p;
  auto const index = [](causal const& c) {
    return c.visit([]<class P>(P const&) {
      return std::same_as<P, dense>              ? 0
             : std::same_as<P, sliding_window>   ? 1
             : std::same_as<P, spatial_temporal> ? 2
                                                 : 3;
    });
  };
  CHECK(index(p) == 0);
  CHECK(p.visible(0, 100, 0));
  p = sliding_window{5};
  CHECK(index(p) == 1);
  CHECK(p.visible(0, 100, 96));
  CHECK(!p.visible(0, 100, 95));
  causal const copy = p;
  p = near_places();
  CHECK(index(p) == 2);
  CHECK(index(copy) == 1);
  CHECK(index(causal{classified{}}) == 3);
  int seven = 7;
  custom const captured{[seven](int, int q, int k) { return q - k < seven; }};
  CHECK(!one_of<dense, std::remove_const_t<decltype(captured)>>{captured}.visible(0, 9, 2));
}

TEST_CASE("one_of: refuses what its alternative refuses") {
  std::vector<causal> const anything(1);  // on the heap: g++ 12 sees an unread window in a constant under sanitizers
  CHECK(anything[0].check(tokens).ok());
  CHECK(causal{sliding_window{0}}.check(10).code == errc::bad_policy);
  CHECK(causal{spatial_temporal{layout}}.check(tokens - 1).ok());
  CHECK(causal{spatial_temporal{layout}}.check(tokens).code == errc::bad_positions);
  CHECK(causal{classified{}}.check_heads(3).ok());
  CHECK(with_heads{spatial_and_temporal(8)}.check_heads(8).ok());
  CHECK(with_heads{spatial_and_temporal(8)}.check_heads(4).code == errc::mismatch);
  CHECK(with_heads{near_places()}.check_heads(4).ok());
}
