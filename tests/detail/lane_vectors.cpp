// SPDX-License-Identifier: Apache-2.0
#include <purekv/detail/lane_vectors.hpp>
// The header under test comes first.
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

using namespace purekv;
using detail::block_lanes;

namespace lane_vectors_test {

/// `count` vectors of `dim` elements, each `stride` from the next with NaN between them.
template <class T> struct vectors {
  int dim, stride;
  std::vector<T> data;

  vectors(test::random& random, int count, int dim_)
      : dim(dim_),
        stride(dim_ + random.between(0, 3)),
        data(static_cast<std::size_t>(count * stride), T(std::numeric_limits<float>::quiet_NaN())) {
    for (int i = 0; i < count; ++i)
      for (int d = 0; d < dim; ++d) row(i)[d] = T(random.normal());
  }
  T* row(int i) { return data.data() + i * stride; }
  double at(int i, int d) { return double{static_cast<float>(row(i)[d])}; }
};

template <class X, class W> void check_norms(test::random& random, int count, int dim, int rows) {
  CAPTURE(count);
  CAPTURE(dim);
  CAPTURE(rows);
  vectors<X> x(random, count, dim);
  vectors<W> w(random, rows, dim);
  double sum[detail::lane_vectors];
  for (double& s : sum) s = 3;
  detail::add_projected_norms(
      count, dim, [&](int i) { return x.row(i); }, rows, [&](int r) { return w.row(r); }, sum);
  for (int i = 0; i < count; ++i) {
    double exact = 3;
    for (int r = 0; r < rows; ++r) {
      double product = 0;
      for (int d = 0; d < dim; ++d) product += w.at(r, d) * x.at(i, d);
      exact += std::abs(product);
    }
    CHECK(std::abs(sum[i] - exact) <= 2e-6 * exact);
  }
  for (int i = count; i < detail::lane_vectors; ++i) CHECK(sum[i] == 3);
}

template <class X> void check_forms(test::random& random, int count, int dim) {
  CAPTURE(count);
  CAPTURE(dim);
  vectors<X> x(random, count, dim);
  std::vector<float> c(static_cast<std::size_t>(dim * dim));
  for (int a = 0; a < dim; ++a)  // what lies below the diagonal is not read
    for (int b = 0; b < dim; ++b)
      c[static_cast<std::size_t>(a * dim + b)] = a <= b ? random.normal() : std::numeric_limits<float>::quiet_NaN();
  float forms[block_lanes];
  detail::quadratic_forms(
      count, dim, [&](int i) { return x.row(i); }, c.data(), forms);
  for (int i = 0; i < count; ++i) {
    double exact = 0, size = 0;
    for (int a = 0; a < dim; ++a)
      for (int b = 0; b < dim; ++b) {
        double const term =
            x.at(i, a) * double{c[static_cast<std::size_t>(std::min(a, b) * dim + std::max(a, b))]} * x.at(i, b);
        exact += term;
        size += std::abs(term);
      }
    CHECK(std::abs(double{forms[i]} - exact) <= 1e-6 * size);
  }
}

}  // namespace lane_vectors_test
using namespace lane_vectors_test;

TEST_CASE("lane_vectors: norms of what a matrix makes of them") {
  SEEDED(random);
  for (int dim : {1, 5, 15, 16, 17, 64, 100, 128, 129, 256})
    for (int count : {1, 2, block_lanes - 1, block_lanes, 33, 63, 64}) {
      if (count > 2 && dim > 128 && count != 63) continue;
      check_norms<float, float>(random, count, dim, random.between(0, 9));
      check_norms<half, bfloat16>(random, count, dim, random.between(1, 40));
      check_norms<bfloat16, half>(random, count, dim, 64);
    }
}

TEST_CASE("lane_vectors: quadratic forms") {
  SEEDED(random);
  for (int dim : {1, 2, 5, 6, 7, 12, 13, 15, 16, 17, 33, 64, 100, 129, 256})
    for (int count : {1, 3, block_lanes / 2, block_lanes - 1, block_lanes}) {
      if (dim > 200 && count < block_lanes) continue;
      check_forms<float>(random, count, dim);
      check_forms<half>(random, count, dim);
      check_forms<bfloat16>(random, count, dim);
    }
}

TEST_CASE("lane_vectors: what is no number stays with its vector") {
  SEEDED(random);
  int const dim = 37, bad = random.between(0, block_lanes - 1);
  vectors<float> x(random, block_lanes, dim), w(random, 11, dim);
  x.row(bad)[random.between(0, dim - 1)] =
      random.between(0, 1) == 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  double sum[block_lanes] = {};
  detail::add_projected_norms(
      block_lanes, dim, [&](int i) { return x.row(i); }, 11, [&](int r) { return w.row(r); }, sum);
  std::vector<float> c(static_cast<std::size_t>(dim * dim), 1.0f);
  float forms[block_lanes];
  detail::quadratic_forms(
      block_lanes, dim, [&](int i) { return x.row(i); }, c.data(), forms);
  for (int i = 0; i < block_lanes; ++i) {
    CHECK(std::isfinite(sum[i]) == (i != bad));
    CHECK(std::isfinite(forms[i]) == (i != bad));
  }
}
