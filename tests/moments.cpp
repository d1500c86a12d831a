// SPDX-License-Identifier: Apache-2.0
#include <purekv/moments.hpp>
// The header under test comes first.
#include "support/fixtures.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

using namespace purekv;
using namespace fixtures;

namespace {

/// Moments with guards, full of NaN.
struct owned_moments {
  owned_workspace mean, covariance;
  query_moments view;
  owned_moments(int sequences, int heads, int dim)
      : mean(size(sequences * heads * dim) * sizeof(float)),
        covariance(size(sequences * heads * dim * dim) * sizeof(float)),
        view{static_cast<float*>(mean.view().data), static_cast<float*>(covariance.view().data), sequences, heads,
             dim} {}
  snapshot watch() const {
    snapshot before;
    before.watch(view.mean, view.sequences * view.heads * view.dim);
    before.watch(view.covariance, view.sequences * view.heads * view.dim * view.dim);
    return before;
  }
};

template <class T> struct random_queries {
  std::vector<std::int32_t> offset{0}, positions;
  owned_rows<T> rows;
  query_view<T> view;

  random_queries(test::random& r, std::vector<int> const& counts, int heads, int dim)
      : rows(heads, total(counts), dim, r.between(0, 1) == 0 ? order::head_major : order::token_major, 3) {
    for (int n : counts) {
      offset.push_back(offset.back() + n);
      for (int i = 0, p = r.between(0, 3); i < n; ++i, p += r.between(1, 3)) positions.push_back(p);
    }
    for (int h = 0; h < heads; ++h)
      for (int t = 0; t < rows.view.tokens; ++t)
        for (int c = 0; c < dim; ++c)  // a mean beside which the spread is small
          rows.view.row(h, t)[c] = T(static_cast<float>(5 + c % 7) + (t % 2 == 0 ? 1.0f : 0.3f) * r.normal());
    view = {rows.rows(), {static_cast<std::int32_t>(counts.size()), offset.data(), positions.data()}};
  }
  static int total(std::vector<int> const& counts) { return std::accumulate(counts.begin(), counts.end(), 0); }
};

template <class T> void check(test::random& r, std::vector<int> const& counts, int heads, int dim, int skip) {
  CAPTURE(heads);
  CAPTURE(dim);
  CAPTURE(skip);
  random_queries<T> const q(r, counts, heads, dim);
  int const sequences = static_cast<int>(counts.size());
  std::vector<owned_moments> runs;
  runs.reserve(3);
  for (int ranks : {1, 3, 32}) {
    owned_moments const& m = runs.emplace_back(sequences, heads, dim);
    REQUIRE(status_on_ranks(ranks, [&](cpu exec) { return moments(exec, q.view, skip, m.view); }).ok());
    CHECK(m.mean.guards_untouched());
    CHECK(m.covariance.guards_untouched());
    query_moments const& first = runs.front().view;
    CHECK(std::memcmp(first.mean, m.view.mean, size(sequences * heads * dim) * sizeof(float)) == 0);
    CHECK(std::memcmp(first.covariance, m.view.covariance, size(sequences * heads * dim * dim) * sizeof(float)) == 0);
  }
  query_moments const& said = runs.front().view;
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < heads; ++h) {
      int begin = q.view.begin(s);
      while (begin < q.view.end(s) && q.positions[size(begin)] < skip) ++begin;
      oracle::matrix const x = oracle::read_rows(q.view.rows, h, begin, q.view.end(s));
      double const n = static_cast<double>(x.rows());
      oracle::vector mean = oracle::vector::Zero(dim);
      oracle::matrix covariance = oracle::matrix::Zero(dim, dim);
      if (n > 0) mean = x.colwise().sum().transpose() / n;
      for (Eigen::Index t = 0; t < x.rows(); ++t) {
        oracle::vector const from_mean = x.row(t).transpose() - mean;
        covariance += from_mean * from_mean.transpose() / n;
      }
      double const spread = covariance.size() > 0 ? covariance.diagonal().maxCoeff() : 0;
      double mean_error = 0, covariance_error = 0;
      bool symmetric = true;
      for (int i = 0; i < dim; ++i) {
        mean_error = std::max(mean_error, std::abs(said.mean_of(s, h)[i] - mean(i)));
        for (int j = 0; j < dim; ++j) {
          float const* const c = said.covariance_of(s, h);
          covariance_error = std::max(covariance_error, std::abs(c[i * dim + j] - covariance(i, j)));
          symmetric = symmetric && c[i * dim + j] == c[j * dim + i];
        }
      }
      CHECK(mean_error <= 12 * oracle::eps);
      CHECK(covariance_error <= 1e-5 * spread);
      CHECK(symmetric);
    }
}

}  // namespace

TEST_CASE("moments: mean and population covariance of the queries from a position on") {
  SEEDED(random);
  check<float>(random, {37}, 3, 33, 0);
  check<float>(random, {0, 1, 50}, 4, 64, 4);
  check<half>(random, {5, 90}, 2, 70, 4);
  check<bfloat16>(random, {33}, 7, 130, 10);
  check<float>(random, {3}, 1, 1, 1000);
  check<float>(random, {400}, 1, 19, 0);
}

TEST_CASE("moments: without a covariance") {
  SEEDED(random);
  random_queries<float> const q(random, {20}, 2, 5);
  owned_moments with(1, 2, 5), without(1, 2, 5);
  REQUIRE(moments(cpu{}, q.view, 0, with.view).ok());
  query_moments mean_only = without.view;
  mean_only.covariance = nullptr;
  REQUIRE(moments(cpu{}, q.view, 0, mean_only).ok());
  CHECK(std::memcmp(with.view.mean, without.view.mean, 10 * sizeof(float)) == 0);
}

TEST_CASE("moments: a NaN query spoils its head and no other") {
  SEEDED(random);
  random_queries<float> q(random, {20, 20}, 2, 5);
  q.rows.view.row(1, 7)[3] = std::numeric_limits<float>::quiet_NaN();
  owned_moments m(2, 2, 5);
  REQUIRE(moments(cpu{}, q.view, 0, m.view).ok());
  for (int s = 0; s < 2; ++s)
    for (int h = 0; h < 2; ++h) {
      bool nan = false;
      for (int i = 0; i < 5; ++i) nan = nan || std::isnan(m.view.mean_of(s, h)[i]);
      for (int i = 0; i < 25; ++i) nan = nan || std::isnan(m.view.covariance_of(s, h)[i]);
      CHECK(nan == (s == 0 && h == 1));
    }
}

TEST_CASE("moments: bad input leaves everything as it was") {
  SEEDED(random);
  random_queries<float> q(random, {6, 5}, 2, 5);
  owned_moments m(2, 2, 5);
  snapshot const before = m.watch();
  auto const says = [&](errc code, query_view<float> view, int skip, query_moments out) {
    status const s = moments(cpu{}, view, skip, out);
    CHECK(s.code == code);
    CHECK(before.unchanged());
  };
  says(errc::bad_shape, q.view, -1, m.view);
  query_moments out = m.view;
  out.mean = nullptr;
  says(errc::null_data, q.view, 0, out);
  out = m.view;
  out.heads = 1;
  says(errc::mismatch, q.view, 0, out);
  out = m.view;
  out.dim = 4;
  says(errc::mismatch, q.view, 0, out);
  out.dim = 0;
  says(errc::bad_shape, q.view, 0, out);
  out = m.view;
  out.sequences = 1;
  says(errc::mismatch, q.view, 0, out);
  out = {m.view.mean, nullptr, INT32_MAX, INT32_MAX, INT32_MAX};
  says(errc::bad_shape, q.view, 0, out);
  query_view<float> view = q.view;
  view.rows.data = nullptr;
  says(errc::null_data, view, 0, m.view);
  view = q.view;
  view.rows.token_stride = 1;
  view.rows.head_stride = 1;
  says(errc::bad_shape, view, 0, m.view);
  view = q.view;
  view.rows.dim = 0;
  says(errc::bad_shape, view, 0, m.view);
  q.positions[1] = q.positions[0];
  says(errc::bad_positions, q.view, 0, m.view);
}
