// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/key_norm.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"
#include "support/npy.hpp"

using namespace purekv;

TEST_CASE("key_norm: minus the norm of the key") {
  SEEDED(random);
  static_assert(has_signed_scores<key_norm>());
  static_assert(key_norm::rows == score_rows::kv_heads);
  test::check_estimator(random, key_norm{}, [](auto const& l, int, int head, int t) {
    double sum = 0;
    for (int i = 0; i < l.shape.dim; ++i) sum += l.key_of(head, t, i) * l.key_of(head, t, i);
    return -std::sqrt(sum);
  });
}

TEST_CASE("key_norm: NaN and inf in keys stay with their token") {
  SEEDED(random);
  test::layer<fixtures::owned_contiguous<bfloat16>> l(random, {2, 3, 70, {9, 9}});
  l.cache.view.run(1, 0, 3).keys[69] = bfloat16(test::nan);
  l.cache.view.run(1, 1, 4).keys[1] = bfloat16(-test::infinity);
  auto const said = test::scores_of(key_norm{}, l.input());
  for (std::size_t h = 0; h < 2; ++h)
    for (std::size_t t = 0; t < 9; ++t) {
      CHECK(std::isnan(said[h][t]) == (h == 0 && t == 3));
      CHECK(std::isinf(said[h][t]) == (h == 1 && t == 4));
    }
  CHECK(said[1][4] < 0);
}

TEST_CASE("key_norm: kvpress's scores") {
  test::npy<float> const keys = test::read_npy<float>("in_keys"), theirs = test::read_npy<float>("score_knorm");
  int const heads = keys.size(1), tokens = keys.size(2), dim = keys.size(3);
  for (int s = 0; s < keys.size(0); ++s) {
    fixtures::owned_contiguous<float> cache(1, heads, tokens, dim);
    for (int h = 0; h < heads; ++h)
      for (int t = 0; t < tokens; ++t)
        fixtures::push(
            cache.view, 0, h, t, [&](int c) { return keys(s, h, t, c); }, [](int) { return 0.0f; });
    auto const said = test::scores_of(key_norm{}, layer_input<contiguous_cache<float>>{cache.view, 0, heads});
    for (int h = 0; h < heads; ++h)
      for (int t = 0; t < tokens; ++t)
        CHECK(said[fixtures::size(h)][fixtures::size(t)] == doctest::Approx(theirs(s, h, t)).epsilon(1e-6));
  }
}
