// SPDX-License-Identifier: Apache-2.0
#include "../patterns.hpp"

#include "../../engine/error.hpp"
#include "../prompt.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>

namespace video {

namespace {

constexpr video_shape shape{6, 4, 5};
constexpr int tokens = 2 + 6 * 4 * 5 + 3;

struct at {
  int t, y, x;
};

at place_of(int position) {
  int const patch = position - prompt::first_patch;
  return {patch / 20, patch % 20 / 5, patch % 5};
}

}  // namespace

TEST_CASE("patterns show what their names say, and text everything") {
  video_layout const layout(shape);
  auto const check = [&](std::string const& name, std::function<bool(at, at)> const& shows) {
    CAPTURE(name);
    engine::pattern const pattern = make_pattern(name, layout.view());
    REQUIRE(pattern.check(tokens - 1).ok());
    for (int q = 0; q < tokens; ++q)
      for (int k = 0; k <= q; ++k) {
        bool const text = k < 4 || q == 0 || q > shape.tokens() || k > shape.tokens();
        REQUIRE(pattern.visible(0, q, k) == (text || shows(place_of(q), place_of(k))));
      }
  };
  auto const back = [](at q, at k) { return q.t - k.t; };
  auto const same = [](at q, at k) { return q.y == k.y && q.x == k.x; };
  auto const beside = [](at q, at k) { return std::abs(q.y - k.y) <= 1 && std::abs(q.x - k.x) <= 1; };
  check("dense", [](at, at) { return true; });
  check("st", [&](at q, at k) { return back(q, k) == 0 || same(q, k); });
  check("st_previous", [&](at q, at k) { return back(q, k) <= 1 || same(q, k); });
  check("st_previous2", [&](at q, at k) { return back(q, k) <= 2 || same(q, k); });
  check("st_first", [&](at q, at k) { return back(q, k) == 0 || k.t == 0 || same(q, k); });
  check("st_near", [&](at q, at k) { return back(q, k) == 0 || beside(q, k); });
  check("st_near4", [&](at q, at k) { return back(q, k) == 0 || (back(q, k) <= 4 && beside(q, k)); });
  check("st_near_previous", [&](at q, at k) { return back(q, k) <= 1 || beside(q, k); });
  check("st_stride2", [&](at q, at k) { return back(q, k) == 0 || (back(q, k) % 2 == 0 && same(q, k)); });
  check("spatial", [&](at q, at k) { return back(q, k) == 0; });
  check("temporal", [&](at q, at k) { return same(q, k); });
  check("frames4", [&](at q, at k) { return back(q, k) <= 3; });
}

TEST_CASE("patterns with a number") {
  video_layout const layout(shape);
  engine::pattern const window = make_pattern("window:25", layout.view());
  for (int q = 1; q <= shape.tokens(); ++q)
    for (int k = 1; k <= q; ++k) REQUIRE(window.visible(0, q, k) == (q - k < 25));
  CHECK(window.visible(0, 100, 0));
  CHECK(window.visible(0, tokens - 1, 1));
  CHECK(make_pattern("window:1", layout.view()).visible(0, 50, 50));

  engine::pattern const some = make_pattern("random:12.5", layout.view()),
                        again = make_pattern("random:12.5", layout.view());
  int seen = 0, pairs = 0;
  for (int q = 1; q <= shape.tokens(); ++q) {
    CHECK(some.visible(0, q, q));
    for (int k = 1; k < q; ++k, ++pairs) {
      seen += some.visible(0, q, k);
      REQUIRE(some.visible(0, q, k) == again.visible(0, q, k));
    }
  }
  CHECK(std::abs(double(seen) / pairs - 0.125) < 0.02);
  for (int k = 1; k < 100; ++k) {
    CHECK(!make_pattern("random:0", layout.view()).visible(0, 100, k));
    CHECK(make_pattern("random:100", layout.view()).visible(0, 100, k));
  }
}

TEST_CASE("names that are no patterns") {
  video_layout const layout(shape);
  using engine::bad_input;
  for (char const* const name : {"", "st_", "ST", "window", "st:4"})
    CHECK_THROWS_WITH_AS(make_pattern(name, layout.view()), doctest::Contains("st_near_previous, st_stride2"),
                         bad_input);
  for (char const* const name : {"window:", "window:0", "window:-3", "window:4x", "window:99999999999"})
    CHECK_THROWS_WITH_AS(make_pattern(name, layout.view()), doctest::Contains("number of tokens"), bad_input);
  for (char const* const name : {"random:", "random:-1", "random:101", "random:nan", "random:5%"})
    CHECK_THROWS_WITH_AS(make_pattern(name, layout.view()), doctest::Contains("percentage"), bad_input);
  for (std::string const& name : pattern_names())
    if (name.find(':') == std::string::npos) CHECK_NOTHROW(make_pattern(name, layout.view()));
}

TEST_CASE("densities: what is visible, and what is computed for it") {
  video_shape const real;
  video_layout const layout(real);
  int const all = real.tokens() + 2;
  auto const of = [&](std::string const& name) { return density_of(make_pattern(name, layout.view()), all, 2); };
  CHECK(of("dense").visible == 1);
  CHECK(of("dense").executed >= 1);
  CHECK(of("dense").executed < 1.25);  // of a last block of rows that is hardly filled
  // By hand: in a frame n (n + 1) / 2 pairs, of a place its frame number; 4 sinks, which hold text and 3 patches; and
  // the closing mark sees everything.
  auto const counted = [&](auto const& shows) {
    double seen = 0;
    for (int q = 0; q < all; ++q)
      for (int k = 0; k <= q; ++k) {
        int const a = q - 1, b = k - 1;
        seen += k < 4 || q > real.tokens() || a / 36 == b / 36 || shows(a, b);
      }
    return seen / (all * (all + 1.0) / 2);
  };
  CHECK(of("spatial").visible == doctest::Approx(counted([](int, int) { return false; })));
  CHECK(of("st").visible == doctest::Approx(counted([](int a, int b) { return a % 36 == b % 36; })));
  struct {
    std::string name;
    double most;
  } const limits[] = {{"spatial", 0.5}, {"window:72", 0.8}, {"frames4", 0.9}, {"st", 0.5}};
  for (auto const& limit : limits) {
    std::string const& name = limit.name;
    CAPTURE(name);
    density const d = of(name);
    MESSAGE(name, ": visible ", d.visible, ", executed ", d.executed);
    CHECK(d.executed >= d.visible);
    CHECK(d.executed <= limit.most);
  }
  CHECK(of("random:20").visible < 0.25);
  CHECK(of("random:20").executed < 0.25);  // pairs that lie anywhere are computed by themselves
}

}  // namespace video
