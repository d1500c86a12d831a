// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/key_norm.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"
#include "support/kvpress.hpp"

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
  test::kvpress_layer const layer(test::rotation::after);
  layer.compare(layer.scores(key_norm{}), "score_knorm");
}
