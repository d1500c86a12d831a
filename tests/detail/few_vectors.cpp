// SPDX-License-Identifier: Apache-2.0
#include <purekv/detail/few_vectors.hpp>
// The header under test comes first.
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace purekv;
using detail::few;

namespace few_vectors_test {

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
  double sum[few];
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
  for (int i = count; i < few; ++i) CHECK(sum[i] == 3);
}

template <class X> void check_forms(test::random& random, int count, int dim) {
  CAPTURE(count);
  CAPTURE(dim);
  vectors<X> x(random, count, dim);
  std::vector<float> c(static_cast<std::size_t>(dim * dim));
  for (float& e : c) e = random.normal();
  float forms[few];
  detail::quadratic_forms(
      count, dim, [&](int i) { return x.row(i); }, c.data(), forms);
  for (int i = 0; i < count; ++i) {
    double exact = 0, size = 0;
    for (int a = 0; a < dim; ++a)
      for (int b = 0; b < dim; ++b) {
        double const term = x.at(i, a) * double{c[static_cast<std::size_t>(a * dim + b)]} * x.at(i, b);
        exact += term;
        size += std::abs(term);
      }
    CHECK(std::abs(double{forms[i]} - exact) <= 1e-6 * size);
  }
}

}  // namespace few_vectors_test
using namespace few_vectors_test;

TEST_CASE("few_vectors: norms of what a matrix makes of them") {
  SEEDED(random);
  for (int dim : {1, 5, 15, 16, 17, 64, 100, 128, 129, 512})
    for (int count = 1; count <= few; ++count) {
      check_norms<float, float>(random, count, dim, random.between(0, 9));
      check_norms<half, bfloat16>(random, count, dim, random.between(1, 40));
      check_norms<bfloat16, half>(random, count, dim, 64);
    }
}

TEST_CASE("few_vectors: quadratic forms") {
  SEEDED(random);
  for (int dim : {1, 5, 15, 16, 17, 33, 64, 100, 129, 512})
    for (int count : {1, 3, few - 1, few}) {
      if (dim > 200 && count < few) continue;
      check_forms<float>(random, count, dim);
      check_forms<half>(random, count, dim);
      check_forms<bfloat16>(random, count, dim);
    }
}

TEST_CASE("few_vectors: what is no number stays with its vector") {
  SEEDED(random);
  int const dim = 37, bad = random.between(0, few - 1);
  vectors<float> x(random, few, dim), w(random, 11, dim);
  x.row(bad)[random.between(0, dim - 1)] =
      random.between(0, 1) == 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  double sum[few] = {};
  detail::add_projected_norms(
      few, dim, [&](int i) { return x.row(i); }, 11, [&](int r) { return w.row(r); }, sum);
  std::vector<float> c(static_cast<std::size_t>(dim * dim), 1.0f);
  float forms[few];
  detail::quadratic_forms(
      few, dim, [&](int i) { return x.row(i); }, c.data(), forms);
  for (int i = 0; i < few; ++i) {
    CHECK(std::isfinite(sum[i]) == (i != bad));
    CHECK(std::isfinite(forms[i]) == (i != bad));
  }
}
