// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/pyramid.hpp>
// The header under test comes first.
#include "support/npy.hpp"
#include "support/random.hpp"

#include <purekv/budget/across_heads.hpp>
#include <purekv/budget/fixed.hpp>
#include <purekv/budget/ratio.hpp>

#include <algorithm>
#include <cmath>

using namespace purekv;

namespace {

template <class B> std::vector<int> layers_of(pyramid<B> const& b, int tokens, int layers) {
  std::vector<int> keeps;
  for (int l = 0; l < layers; ++l) keeps.push_back(b.keep({tokens, l, layers}));
  return keeps;
}

}  // namespace

TEST_CASE("pyramid: falls from 2 K - K / steepness to K / steepness") {
  static_assert(Budget<pyramid<ratio>>);
  CHECK(layers_of(pyramid<fixed>{{100}, 20}, 1000, 3) == std::vector<int>{195, 100, 5});
  CHECK(layers_of(pyramid<fixed>{{100}, 20}, 1000, 1) == std::vector<int>{100});
  CHECK(layers_of(pyramid<fixed>{{100}, 20}, 1000, 2) == std::vector<int>{195, 5});
  CHECK(layers_of(pyramid<fixed>{{100}, 1}, 1000, 3) == std::vector<int>{100, 100, 100});
  CHECK(layers_of(pyramid<fixed>{{100}, 20, 30}, 1000, 3) == std::vector<int>{170, 100, 30});
  CHECK(layers_of(pyramid<fixed>{{100}, 20, 300}, 1000, 3) == std::vector<int>{100, 100, 100});
  CHECK(layers_of(pyramid<fixed>{{100}}, 120, 3) == std::vector<int>{120, 100, 80});  // no layer has more than 120
  CHECK(layers_of(pyramid<fixed>{{100}}, 90, 3) == std::vector<int>{90, 90, 90});
  CHECK(layers_of(pyramid<fixed>{{7}}, 0, 3) == std::vector<int>{0, 0, 0});
  CHECK(layers_of(pyramid<fixed>{{7}}, 1, 3) == std::vector<int>{1, 1, 1});
}

TEST_CASE("pyramid: the total is exact, layers never grow with depth, and the ends follow the formula") {
  SEEDED(random);
  for (int trial = 0; trial < 2000; ++trial) {
    int const tokens = random.between(1, random.between(0, 3) == 0 ? INT32_MAX : 3000);
    int const layers = random.between(1, 90), denominator = random.between(1, 40);
    pyramid<ratio> const b{{1, denominator}, random.between(1, 40), random.between(1, 100)};
    std::vector<int> const keeps = layers_of(b, tokens, layers);
    CAPTURE(tokens);
    CAPTURE(layers);
    CAPTURE(denominator);
    CAPTURE(b.steepness);
    CAPTURE(b.least);
    std::int64_t const mean = b.budget.keep({tokens});
    std::int64_t total = 0;
    for (int keep : keeps) total += keep;
    CHECK(total == mean * layers);
    CHECK(std::is_sorted(keeps.rbegin(), keeps.rend()));
    CHECK((keeps.back() >= 1 && keeps.front() <= tokens));
    if (layers == 1) continue;
    std::int64_t const low =
        std::max(std::min(mean, std::max<std::int64_t>(mean / b.steepness, b.least)), 2 * mean - tokens);
    CHECK(keeps.back() == low);
    for (int l = 0; l < layers; ++l) {
      double const ideal = static_cast<double>(2 * mean - low) -
                           static_cast<double>(l) * static_cast<double>(2 * (mean - low)) / (layers - 1);
      CHECK(std::abs(keeps[static_cast<std::size_t>(l)] - ideal) <= 0.5 + 1e-6);
    }
  }
}

TEST_CASE("pyramid: kvpress's budgets") {
  // 96 tokens, half of them kept, a window of 8: `least` is what kvpress keeps of the window in every layer.
  test::npy<std::int64_t> const theirs = test::read_npy<std::int64_t>("budget_pyramid_w8_r05_L4");
  for (int l = 0; l < 4; ++l) CHECK(pyramid<ratio>{{1, 2}, 20, 8}.keep({96, l, 4}) == theirs(l));
}

TEST_CASE("pyramid: where kvpress becomes uniform it becomes flatter") {
  // kvpress: K / 20 = 25 is less than the window of 64, so each of 32 layers gets 500.
  std::vector<int> const keeps = layers_of(pyramid<fixed>{{500}, 20, 64}, 5000, 32);
  CHECK(keeps.front() == 936);
  CHECK(keeps.back() == 64);
}

TEST_CASE("pyramid: across_heads goes around it") {
  across_heads<pyramid<ratio>> const b{{{1, 10}}};
  static_assert(Budget<across_heads<pyramid<ratio>>>);
  CHECK(b.keep({1000, 0, 3}) == 195);
  CHECK(b.keep({1000, 2, 3}) == 5);
}

TEST_CASE("pyramid: policies that make no sense are refused") {
  CHECK(pyramid<ratio>{{1, 5}}.check().ok());
  CHECK(pyramid<ratio>{{1, 5}, 0}.check().code == errc::bad_policy);
  CHECK(pyramid<ratio>{{1, 5}, 20, 0}.check().code == errc::bad_policy);
  CHECK(pyramid<ratio>{{0, 5}}.check().code == errc::bad_policy);
}
