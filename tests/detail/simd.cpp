// SPDX-License-Identifier: Apache-2.0
#include <purekv/detail/simd.hpp>

#include "support/random.hpp"

#include <cmath>
#include <limits>

using namespace purekv::detail;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();

float one(vec x) {
  for (int i = 1; i < lanes; ++i) CHECK(__builtin_bit_cast(int, float{x[i]}) == __builtin_bit_cast(int, float{x[0]}));
  return x[0];
}

}  // namespace

TEST_CASE("exp2: 2e-7 of the result, exact at whole numbers, nothing for what is hidden, NaN for NaN") {
  SEEDED(random);
  for (int i = 0; i < 100000; ++i) {
    float const x = random.uniform(-126, 128);
    double const right = std::exp2(double{x});
    CAPTURE(x);
    REQUIRE(std::abs(double{exp2(splat(x))[0]} - right) <= 2e-7 * right);
  }
  for (int x = -126; x < 128; ++x) CHECK(one(exp2(splat(static_cast<float>(x)))) == std::ldexp(1.0f, x));
  for (float x : {-inf, -std::numeric_limits<float>::max(), -1e9f, -200.0f}) CHECK(one(exp2(splat(x))) == 0);
  for (float x : {-126.001f, -126.9f, -127.0f, -127.5f, -140.0f}) {  // 0, or the subnormal that it is
    float const y = one(exp2(splat(x)));
    CAPTURE(x);
    CHECK((y == 0 || std::abs(double{y} - std::exp2(double{x})) <= 2e-7 * std::exp2(double{x}) + 0x1p-149));
  }
  CHECK(std::isnan(exp2(splat(not_a_number))[0]));
}

TEST_CASE("floor, max and any") {
  SEEDED(random);
  for (float x : {0.0f, 0.5f, -0.5f, 1.0f, -1.0f, 8388607.5f, -8388607.5f, 3e9f, -3e9f, random.uniform(-1e6f, 1e6f)}) {
    CAPTURE(x);
    CHECK(one(floor(splat(x))) == std::floor(x));
  }
  CHECK(one(max(splat(1.0f), splat(2.0f))) == 2);
  CHECK(one(max(splat(2.0f), splat(1.0f))) == 2);
  CHECK(one(max(splat(not_a_number), splat(1.0f))) == 1);
  CHECK(std::isnan(max(splat(1.0f), splat(not_a_number))[0]));
  for (int lane = 0; lane < lanes; ++lane) {
    ivec mask{};
    CHECK_FALSE(any(mask));
    mask[lane] = -1;
    CHECK(any(mask));
  }
}

TEST_CASE("transpose, total and largest") {
  vec rows[lanes];
  for (int i = 0; i < lanes; ++i)
    for (int j = 0; j < lanes; ++j) rows[i][j] = static_cast<float>(100 * i + j);
  transpose(rows);
  for (int i = 0; i < lanes; ++i)
    for (int j = 0; j < lanes; ++j) CHECK(float{rows[i][j]} == static_cast<float>(100 * j + i));
  CHECK(total(rows[0]) == static_cast<float>(50 * lanes * (lanes - 1)));
  CHECK(largest(rows[0]) == static_cast<float>(100 * (lanes - 1)));
}
