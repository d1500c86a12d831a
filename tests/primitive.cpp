// SPDX-License-Identifier: Apache-2.0
#include <purekv/primitive.hpp>

#include "support/random.hpp"

#include <cmath>
#include <limits>

using purekv::bfloat16;
using purekv::half;

namespace {

constexpr double eps = std::numeric_limits<float>::epsilon();

template <class A, class B> void check(test::random& random, int n) {
  std::vector<A> a(static_cast<std::size_t>(n));
  std::vector<B> b(static_cast<std::size_t>(n));
  random.fill_normal(a);
  random.fill_normal(b);
  double dot = 0, magnitude = 0, squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double const x = static_cast<double>(static_cast<float>(a[i])), y = static_cast<double>(static_cast<float>(b[i]));
    dot += x * y;
    magnitude += std::abs(x * y);
    squares += x * x;
  }
  double const steps = 4 + n / 16.0;
  CAPTURE(n);
  CHECK(std::abs(purekv::dot(a.data(), b.data(), n) - dot) <= eps * steps * magnitude);
  CHECK(std::abs(purekv::squared_norm(a.data(), n) - squares) <= eps * steps * squares);
  CHECK(std::abs(purekv::norm(a.data(), n) - std::sqrt(squares)) <= eps * steps * std::sqrt(squares));
}

}  // namespace

TEST_CASE("dot and norm: every mixture of types, every length") {
  SEEDED(random);
  for (int n = 0; n < 150; ++n) {
    check<float, float>(random, n);
    check<half, half>(random, n);
    check<bfloat16, bfloat16>(random, n);
    check<float, half>(random, n);
    check<bfloat16, float>(random, n);
  }
  check<float, float>(random, 10000);
}

TEST_CASE("dot and norm: nothing is exactly nothing, and what is not a number shows") {
  float const nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  CHECK(purekv::norm(static_cast<float const*>(nullptr), 0) == 0);
  for (int n : {3, 16, 65}) {
    std::vector<float> ones(static_cast<std::size_t>(n), 1.0f), bad = ones;
    CHECK(purekv::dot(ones.data(), ones.data(), n) == static_cast<float>(n));
    bad.back() = nan;
    CHECK(std::isnan(purekv::norm(bad.data(), n)));
    bad.back() = inf;
    CHECK(purekv::dot(bad.data(), ones.data(), n) == inf);
  }
}
