// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/by_head.hpp>
// The header under test comes first.
#include "support/pattern_checks.hpp"

#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

using namespace purekv;

namespace {

/// A by_head as one head, or one range of heads, sees it.
template <class P> struct seen_by {
  P const& pattern;
  int first, last;

  bool visible(int head, int q, int k) const { return pattern.visible(first + head % (last - first + 1), q, k); }
  template <class F> void runs(int q_first, int q_last, F const& emit) const {
    pattern.runs(first, last, q_first, q_last, emit);
  }
};

struct predicate_only {
  bool visible(int, int q, int k) const { return (q + k) % 3 != 1; }
};

}  // namespace

TEST_CASE("by_head: every head sees what its kind shows") {
  segment const segments[] = {segment::text(0, 5), segment::video(5, 4, 3, 4), segment::text(53, 7)};
  spatial_temporal const both{{segments, 3}, 2};
  by_head<spatial_temporal> heads{{both, both}};
  heads.kinds[0].temporal_frames = 0;
  heads.kinds[1].spatial_radius = 0;
  std::uint8_t const kind_of[] = {0, 0, 1, 1, 1, 0};
  heads.kind_of = kind_of;
  heads.heads = 6;
  REQUIRE(heads.check(59).ok());
  for (int h = 0; h < 6; ++h)
    for (int q = 0; q < 60; ++q)
      for (int k = 0; k <= q; ++k) CHECK(heads.visible(h, q, k) == heads.kinds[kind_of[h]].visible(h, q, k));
  CHECK(heads.visible(0, 17, 20));
  CHECK(!heads.visible(0, 17, 5));
  CHECK(heads.visible(2, 17, 5));
  CHECK(!heads.visible(2, 18, 17));
  CHECK(heads.tile_end(6) == 17);
  static_assert(by_head<spatial_temporal>::per_head);
}

TEST_CASE("by_head: ranges agree with visible, of one kind and of several") {
  SEEDED(random);
  for (int trial = 0; trial < 10; ++trial) {
    std::vector<segment> const segments = test::random_segments(random, random.between(1, 7));
    spatial_temporal const both{{segments.data(), static_cast<int>(segments.size())}, random.between(0, 5)};
    by_head<spatial_temporal, 3> heads{{both, both, both}};
    heads.kinds[0].temporal_frames = 0;
    heads.kinds[1].spatial_radius = 0;
    std::vector<std::uint8_t> kind_of;
    for (int h = 0; h < 8; ++h) kind_of.push_back(static_cast<std::uint8_t>(random.between(0, 2)));
    heads.kind_of = kind_of.data();
    heads.heads = 8;
    int const n = both.layout.tokens();
    for (int h = 0; h < 8; ++h)
      test::check_all_ranges(random, seen_by<by_head<spatial_temporal, 3>>{heads, h, h}, n, 12, 10);
    int const first = random.between(0, 6);
    test::check_all_ranges(random, seen_by<by_head<spatial_temporal, 3>>{heads, first, first + 1}, n, 12, 10);
    for (int q = 0; q < n; q = both.tile_end(q)) {
      CHECK(heads.tile_end(q) == both.tile_end(q));
      std::vector<test::key_range> const own = test::ranges_of(heads.kinds[kind_of[3]], q, both.tile_end(q) - 1);
      std::vector<test::key_range> const given =
          test::ranges_of(seen_by<by_head<spatial_temporal, 3>>{heads, 3, 3}, q, both.tile_end(q) - 1);
      REQUIRE(own.size() == given.size());
      for (std::size_t i = 0; i < own.size(); ++i)
        CHECK((own[i].first == given[i].first && own[i].last == given[i].last && own[i].full == given[i].full));
    }
    for (test::key_range const& r : test::ranges_of(heads, 0, n - 1)) CHECK(r.last < n);
    test::check_all_ranges(random, heads, n, n, 5);
  }
}

TEST_CASE("by_head: kinds without ranges stay without") {
  std::uint8_t const kind_of[] = {0, 0};
  by_head<predicate_only, 1> const heads{{{}}, kind_of, 2};
  static_assert(!detail::has_runs<by_head<predicate_only, 1>>());
  static_assert(detail::has_runs<by_head<sliding_window>>());
  CHECK(heads.check(100).ok());
  CHECK(heads.tile_end(5) == INT32_MAX);
  CHECK(!heads.visible(1, 2, 2));
  static_assert(Pattern<by_head<predicate_only, 1>>);
}

TEST_CASE("by_head: tables that name no kind, and kinds that make no sense, are refused") {
  std::uint8_t kind_of[] = {0, 1};
  by_head<sliding_window> heads{{{4}, {9}}, kind_of, 2};
  CHECK(heads.check(10).ok());
  CHECK(heads.check_heads(2).ok());
  CHECK(heads.check_heads(4).code == errc::mismatch);
  CHECK(heads.check_heads(1).code == errc::mismatch);
  CHECK(bidirectional<by_head<sliding_window>>{{}, heads}.check_heads(4).code == errc::mismatch);
  heads.heads = 0;
  CHECK(heads.check(10).code == errc::bad_policy);
  heads.heads = 2;
  heads.kind_of = nullptr;
  CHECK(heads.check(10).code == errc::null_data);
  heads.kind_of = kind_of;
  kind_of[1] = 2;
  CHECK(heads.check(10).code == errc::bad_policy);
  kind_of[1] = 1;
  heads.kinds[1].window = 0;
  CHECK(heads.check(10).code == errc::bad_policy);
}
