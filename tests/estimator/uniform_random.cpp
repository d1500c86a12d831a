// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/uniform_random.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

using namespace purekv;

namespace {

/// SplitMix64 (Steele, Lea, Flood 2014), the output that follows the given state.
std::uint64_t split_mix(std::uint64_t state) {
  std::uint64_t z = state + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

TEST_CASE("uniform_random: a hash of seed, head and position") {
  CHECK(split_mix(0) == 0xe220a8397b1dcdafu);  // the published first output
  SEEDED(random);
  std::uint64_t const seed = random();
  test::check_estimator(
      random, uniform_random{seed},
      [&](auto const& l, int, int head, int t) {
        std::uint64_t const counter =
            static_cast<std::uint64_t>(head) * 4294967296u + static_cast<std::uint64_t>(l.position(head, t));
        return std::ldexp(static_cast<double>(split_mix(split_mix(seed) + counter) / (std::uint64_t{1} << 40)), -24);
      },
      0);
}

TEST_CASE("uniform_random: uniform, and different for every seed and head") {
  SEEDED(random);
  int const tokens = 4000;
  fixtures::owned_contiguous<float> cache(1, 2, tokens, 1);
  for (int h = 0; h < 2; ++h)
    for (int t = 0; t < tokens; ++t)
      fixtures::push(
          cache.view, 0, h, t, [](int) { return 0.0f; }, [](int) { return 0.0f; });
  layer_input<contiguous_cache<float>> const in{cache.view, 0, 2};
  std::uint64_t const seed = random();
  std::vector<std::vector<float>> samples = test::scores_of(uniform_random{seed}, in);
  for (auto const& more : test::scores_of(uniform_random{seed + 1}, in)) samples.push_back(more);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    double sum = 0;
    std::vector<int> tenth(10, 0);
    for (float x : samples[i]) {
      REQUIRE((x >= 0 && x < 1));
      sum += static_cast<double>(x);
      ++tenth[static_cast<std::size_t>(x * 10)];
    }
    CHECK(std::abs(sum / tokens - 0.5) < 6 * std::sqrt(1.0 / 12 / tokens));
    for (int count : tenth) CHECK(std::abs(count - tokens / 10) < 6 * std::sqrt(tokens * 0.09));
    for (std::size_t j = 0; j < i; ++j) {
      double product = 0;
      for (std::size_t t = 0; t < samples[i].size(); ++t)
        product += (static_cast<double>(samples[i][t]) - 0.5) * (static_cast<double>(samples[j][t]) - 0.5);
      CHECK(std::abs(product / tokens) < 6.0 / 12 / std::sqrt(tokens));
    }
  }
}
