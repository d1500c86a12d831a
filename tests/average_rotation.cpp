// SPDX-License-Identifier: Apache-2.0
#include <purekv/average_rotation.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/npy.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

using namespace purekv;
using namespace fixtures;

namespace {

struct filled_moments {
  std::vector<float> mean, covariance;
  query_moments view;
  filled_moments(test::random& r, int sequences, int heads, int dim)
      : mean(size(sequences * heads * dim)), covariance(size(sequences * heads * dim * dim)) {
    r.fill_normal(mean);
    r.fill_normal(covariance);  // nothing says that it must be symmetric
    view = {mean.data(), covariance.data(), sequences, heads, dim};
  }
};

/// The average of the rotation matrices, each from the definition.
oracle::matrix rotation(rotary const& r, int dim, int first, int count) {
  oracle::matrix average = oracle::matrix::Zero(dim, dim);
  for (int p = first; p < first + count; ++p) {
    oracle::matrix one = oracle::matrix::Identity(dim, dim);
    for (int i = 0; i < r.pairs; ++i) {
      int const x = r.layout == rotary_pairs::halves ? i : 2 * i;
      int const y = r.layout == rotary_pairs::halves ? i + r.pairs : 2 * i + 1;
      double const a = p * oracle::exact(r.frequency[i]), m = r.magnitude;
      one(x, x) = m * std::cos(a);
      one(x, y) = -m * std::sin(a);
      one(y, x) = m * std::sin(a);
      one(y, y) = m * std::cos(a);
    }
    average += one / count;
  }
  return average;
}

}  // namespace

TEST_CASE("average_rotation: R m and R C R^T, for both kinds of pairs, part of the dims and every number of ranks") {
  SEEDED(random);
  for (rotary_pairs const layout : {rotary_pairs::halves, rotary_pairs::adjacent})
    for (int const dim : {1, 2, 7, 16, 40})
      for (int const pairs : {0, dim / 4, dim / 2}) {
        int const sequences = 2, heads = 3, count = random.between(1, 60);
        std::vector<float> frequency(size(pairs));
        for (float& f : frequency) f = std::pow(10.0f, random.uniform(-4, 0.5f));
        if (pairs > 0) frequency[0] = 0;
        std::vector<std::int32_t> const first{random.between(0, 100000), 0};
        rotary const r{frequency.data(), pairs, layout, random.uniform(0.5f, 2)};
        filled_moments const given(random, sequences, heads, dim);
        filled_moments first_result = given;
        for (int ranks : {1, 3, 32}) {
          filled_moments m = given;
          m.view.mean = m.mean.data();
          m.view.covariance = m.covariance.data();
          REQUIRE(status_on_ranks(ranks, [&](cpu exec) {
                    return average_rotation(exec, r, first.data(), count, m.view);
                  }).ok());
          if (ranks == 1) first_result = m;
          CHECK(m.mean == first_result.mean);
          CHECK(m.covariance == first_result.covariance);
        }
        double error = 0;
        for (int s = 0; s < sequences; ++s) {
          oracle::matrix const turn = rotation(r, dim, first[size(s)], count);
          for (int h = 0; h < heads; ++h) {
            std::size_t const at = size((s * heads + h) * dim);
            oracle::vector mean(dim);
            oracle::matrix covariance(dim, dim);
            for (int i = 0; i < dim; ++i) mean(i) = given.mean[at + size(i)];
            for (int i = 0; i < dim; ++i)
              for (int j = 0; j < dim; ++j) covariance(i, j) = given.covariance[(at + size(i)) * size(dim) + size(j)];
            mean = turn * mean;
            covariance = turn * covariance * turn.transpose();
            for (int i = 0; i < dim; ++i) error = std::max(error, std::abs(first_result.mean[at + size(i)] - mean(i)));
            for (int i = 0; i < dim; ++i)
              for (int j = 0; j < dim; ++j)
                error = std::max(
                    error, std::abs(first_result.covariance[(at + size(i)) * size(dim) + size(j)] - covariance(i, j)));
          }
        }
        CAPTURE(dim);
        CAPTURE(pairs);
        CHECK(error < 2e-5);
      }
}

TEST_CASE("average_rotation: a single position is the model's own rotation, of halves") {
  test::npy<float> const q = test::read_npy<float>("in_q_pre"), turned = test::read_npy<float>("in_q_rope");
  test::npy<float> const frequency = test::read_npy<float>("in_inv_freq");
  int const dim = q.size(3);
  for (int t = 0; t < q.size(2); t += 5) {
    std::vector<float> row;
    for (int c = 0; c < dim; ++c) row.push_back(q(1, 2, t, c));
    REQUIRE(average_rotation(cpu{}, {frequency.data.data(), dim / 2}, &t, 1, {row.data(), nullptr, 1, 1, dim}).ok());
    for (int c = 0; c < dim; ++c) CHECK(row[size(c)] == doctest::Approx(turned(1, 2, t, c)).epsilon(1e-4));
  }
}

TEST_CASE("average_rotation: bad input leaves the moments as they were") {
  SEEDED(random);
  filled_moments m(random, 2, 2, 6);
  snapshot before;
  before.watch(m.mean);
  before.watch(m.covariance);
  std::vector<float> frequency{1, 0.1f, 0.01f, 0.001f};
  std::vector<std::int32_t> first{3, 4};
  rotary const good{frequency.data(), 3};
  auto const says = [&](errc code, rotary const& r, std::int32_t const* from, int count, query_moments const& view) {
    CHECK(average_rotation(cpu{}, r, from, count, view).code == code);
    CHECK(before.unchanged());
  };
  says(errc::bad_shape, {frequency.data(), 4}, first.data(), 5, m.view);
  says(errc::bad_shape, {frequency.data(), -1}, first.data(), 5, m.view);
  says(errc::null_data, {nullptr, 3}, first.data(), 5, m.view);
  says(errc::null_data, good, nullptr, 5, m.view);
  says(errc::bad_shape, good, first.data(), 0, m.view);
  query_moments view = m.view;
  view.mean = nullptr;
  says(errc::null_data, good, first.data(), 5, view);
  view = m.view;
  view.heads = 0;
  says(errc::bad_shape, good, first.data(), 5, view);
  first[1] = -1;
  says(errc::bad_positions, good, first.data(), 5, m.view);
  first[1] = 4;
  says(errc::bad_shape, {frequency.data(), 3, rotary_pairs::halves, INFINITY}, first.data(), 5, m.view);
  frequency[2] = NAN;
  says(errc::bad_shape, good, first.data(), 5, m.view);
}
