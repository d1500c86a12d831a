// SPDX-License-Identifier: Apache-2.0
#include <purekv/estimator/pooled.hpp>
// The header under test comes first.
#include "support/estimator_checks.hpp"

#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/group_max.hpp>
#include <purekv/estimator/recency.hpp>

using namespace purekv;

namespace {

template <int Width, int Following = Width / 2> double average(auto const& l, int row, int head, int t) {
  double sum = 0;
  for (int u = t - Following; u < t - Following + Width; ++u)
    if (u >= 0 && u < l.length(head)) sum += l.mass_of(row, u);
  return sum / Width;
}

template <int Width, int Following = Width / 2> double maximum(auto const& l, int row, int head, int t) {
  double most = -oracle::infinity;
  for (int u = t - Following; u < t - Following + Width; ++u)
    if (u >= 0 && u < l.length(head)) most = std::max(most, l.mass_of(row, u));
  return most;
}

}  // namespace

TEST_CASE("pooled: the average over neighbours, absent ones counting as 0") {
  SEEDED(random);
  using E = accumulated_attention;
  test::check_estimator(random, pooled<E, 1>{}, [](auto const&... x) { return average<1>(x...); });
  test::check_estimator(random, pooled<E, 3>{}, [](auto const&... x) { return average<3>(x...); });
  test::check_estimator(random, pooled<E, 7, pooling::average>{}, [](auto const&... x) { return average<7>(x...); });
}

TEST_CASE("pooled: the maximum over neighbours") {
  SEEDED(random);
  using E = accumulated_attention;
  test::check_estimator(
      random, pooled<E, 1, pooling::maximum>{}, [](auto const&... x) { return maximum<1>(x...); }, 0);
  test::check_estimator(
      random, pooled<E, 15, pooling::maximum>{}, [](auto const&... x) { return maximum<15>(x...); }, 0);
  test::check_estimator(
      random, pooled<E, 1001, pooling::maximum>{}, [](auto const&... x) { return maximum<1001>(x...); }, 0);
}

TEST_CASE("pooled: a peak lends its score to more tokens after it than before it, or the other way round") {
  SEEDED(random);
  using E = accumulated_attention;
  test::check_estimator(
      random, pooled<E, 15, pooling::maximum, 11>{}, [](auto const&... x) { return maximum<15, 11>(x...); }, 0);
  test::check_estimator(
      random, pooled<E, 5, pooling::maximum, 0>{}, [](auto const&... x) { return maximum<5, 0>(x...); }, 0);
  test::check_estimator(random, pooled<E, 5, pooling::average, 4>{},
                        [](auto const&... x) { return average<5, 4>(x...); });

  test::layer<fixtures::owned_ragged<float>> l(random, {1, 1, 4, {9}});
  for (int t = 0; t < 9; ++t) l.mass_at(0, t) = t == 4 ? 1.0f : 0.0f;
  std::vector<float> const said = test::scores_of(pooled<E, 5, pooling::maximum, 3>{}, l.input())[0];
  CHECK(said == std::vector<float>{0, 0, 0, 1, 1, 1, 1, 1, 0});
}

TEST_CASE("pooled: takes over what it wraps says of itself") {
  static_assert(pooled<accumulated_attention, 7>::rows == score_rows::heads);
  static_assert(pooled<accumulated_attention, 7>::mass_queries == all_queries);
  static_assert(pooled<group_max<accumulated_attention>, 7>::rows == score_rows::kv_heads);
  static_assert(pooled<recency, 7>::mass_queries == 0);
  SEEDED(random);
  test::check_estimator(random, pooled<pooled<recency, 1>, 3>{}, [](auto const& l, int, int head, int t) {
    double sum = 0;
    for (int u = t - 1; u <= t + 1; ++u)
      if (u >= 0 && u < l.length(head)) sum += l.position(head, u);
    return sum / 3;
  });
}

TEST_CASE("pooled: a NaN spreads through an average and loses a maximum") {
  SEEDED(random);
  test::layer<fixtures::owned_ragged<float>> l(random, {1, 1, 4, {9}});
  for (int t = 0; t < 9; ++t) l.mass_at(0, t) = t == 4 || t > 6 ? test::nan : 1.0f + static_cast<float>(t);
  std::vector<float> const mean = test::scores_of(pooled<accumulated_attention, 3>{}, l.input())[0];
  for (std::size_t t = 0; t < 9; ++t) CHECK(std::isnan(mean[t]) == (t >= 3));
  std::vector<float> const most = test::scores_of(pooled<accumulated_attention, 3, pooling::maximum>{}, l.input())[0];
  std::vector<float> const expected{2, 3, 4, 4, 6, 7, 7, 7};
  for (std::size_t t = 0; t < 8; ++t) CHECK(most[t] == expected[t]);
  CHECK(std::isnan(most[8]));  // nothing but NaN in reach
}
