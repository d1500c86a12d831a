// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/math.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/simt/thread.hpp>

#include <cmath>

using namespace purekv;

namespace math_test {

struct exponentials {
  static constexpr std::int32_t threads = 128;
  float const* x;
  float* y;
  std::int32_t n;

  PUREKV_DEVICE void operator()() const {
    for (std::int32_t i = simt::thread_index(); i < n; i += threads) y[i] = simt::exp2(x[i]);
  }
};

struct logarithms {
  static constexpr std::int32_t threads = 128;
  float const* x;
  float* y;
  std::int32_t n;

  PUREKV_DEVICE void operator()() const {
    for (std::int32_t i = simt::thread_index(); i < n; i += threads) y[i] = simt::log2(x[i]);
  }
};

template <class T> struct pairs {
  static constexpr std::int32_t threads = 128;
  float const* x;  // [2 n]
  std::uint32_t* packed;
  float* unpacked;  // [2 n]
  std::int32_t n;

  PUREKV_DEVICE void operator()() const {
    for (std::int32_t i = simt::thread_index(); i < n; i += threads) {
      packed[i] = simt::pack2<T>(x[2 * i], x[2 * i + 1]);
      simt::float_pair const both = simt::unpack2<T>(packed[i]);
      unpacked[2 * i] = both.low;
      unpacked[2 * i + 1] = both.high;
    }
  }
};

/// sign, exponent bits and fraction bits of a 16-bit number, in double.
double value_of(std::uint32_t bits, int fraction) {
  int const exponent_bits = 15 - fraction, bias = (1 << (exponent_bits - 1)) - 1;
  int const exponent = static_cast<int>(bits >> fraction) & ((1 << exponent_bits) - 1);
  double const significand = static_cast<double>(bits & ((1u << fraction) - 1u)) / (1 << fraction);
  double const sign = (bits & 0x8000u) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return significand == 0 ? sign * HUGE_VAL : std::nan("");
  if (exponent == 0) return sign * std::ldexp(significand, 1 - bias);
  return sign * std::ldexp(1 + significand, exponent - bias);
}

template <class T> void check_pairs(test::random& random, int fraction) {
  std::vector<float> x;
  // Every value there is, what lies halfway to the next one, and its neighbours.
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    double const here = value_of(bits, fraction), next = value_of(bits + 1, fraction);
    if (std::isnan(here) && bits % 61 != 0) continue;
    x.push_back(static_cast<float>(here));
    if (!std::isfinite(here) || !std::isfinite(next)) continue;
    float const halfway = static_cast<float>((here + next) / 2);
    x.insert(x.end(), {halfway, std::nextafterf(halfway, HUGE_VALF), std::nextafterf(halfway, -HUGE_VALF)});
  }
  for (int i = 0; i < 1000; ++i) x.push_back(__builtin_bit_cast(float, static_cast<std::uint32_t>(random())));
  if (x.size() % 2 != 0) x.push_back(0);
  std::int32_t const n = static_cast<std::int32_t>(x.size() / 2);
  test::array<float> in(x), back(x.size());
  test::array<std::uint32_t> packed(x.size() / 2);
  test::run({}, 0, pairs<T>{in.data(), packed.data(), back.data(), n});
  double const largest = value_of(T(HUGE_VALF).bits - 1u, fraction);
  double const beyond = std::ldexp(largest, -fraction - 1) / (2 - std::ldexp(1.0, -fraction)) + largest;
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::uint32_t const bits = packed[i / 2] >> (i % 2 * 16) & 0xffffu;
    CAPTURE(x[i]);
    CAPTURE(bits);
    double const given = static_cast<double>(x[i]), got = value_of(bits, fraction);
    if (std::isnan(given)) {
      REQUIRE(bits == 0x7fffu);
      REQUIRE(std::isnan(back[i]));
      continue;
    }
    REQUIRE(static_cast<double>(back[i]) == got);
    REQUIRE(((bits & 0x8000u) != 0) == std::signbit(x[i]));
    if (std::abs(given) >= beyond) {
      REQUIRE(std::isinf(got));
      continue;
    }
    // Nearest, and of two the even one.
    REQUIRE(std::isfinite(got));
    double const below = value_of((bits & 0x7fffu) == 0 ? bits ^ 0x8001u : bits - 1u, fraction);
    double const above = (bits & 0x7fffu) + 1u == (T(HUGE_VALF).bits & 0x7fffu)
                             ? std::copysign(2 * beyond - largest, got)
                             : value_of(bits + 1u, fraction);
    for (double neighbour : {below, above}) {
      REQUIRE(std::abs(given - got) <= std::abs(given - neighbour));
      if (std::abs(given - got) == std::abs(given - neighbour)) REQUIRE(bits % 2 == 0);
    }
  }
}

}  // namespace math_test

TEST_CASE("exp2: within 2 units in the last place, no subnormals") {
  SEEDED(random);
  std::vector<float> x = {0,    -0.0f,       HUGE_VALF, -HUGE_VALF, std::nanf(""), 127,    128,   127.99999f,
                          -126, -126.00001f, -149,      -150,       1e30f,         -1e30f, 1e-40f};
  for (int i = -140; i <= 130; ++i) x.push_back(static_cast<float>(i));
  for (int i = 0; i < 4000; ++i) x.push_back(random.uniform(-130, 130));
  test::array<float> in(x), out(x.size(), -1);
  test::run({}, 0, math_test::exponentials{in.data(), out.data(), static_cast<std::int32_t>(x.size())});
  for (std::size_t i = 0; i < x.size(); ++i) {
    CAPTURE(x[i]);
    double const expected = std::exp2(static_cast<double>(x[i])), got = static_cast<double>(out[i]);
    CAPTURE(got);
    if (std::isnan(expected)) {
      CHECK(std::isnan(got));
    } else if (x[i] < -126) {
      CHECK((got == 0 || (x[i] > -126.0001f && got <= 0x1.00001p-126)));
    } else if (x[i] >= 128) {
      CHECK(std::isinf(got));
    } else {
      CHECK(std::abs(got - expected) <= 2 * std::ldexp(1.0, std::ilogb(expected) - 23));
    }
  }
}

TEST_CASE("log2: within 1 unit in the last place") {
  SEEDED(random);
  std::vector<float> x = {1, 2, 0x1p-126f, 0x1.fffffep127f, 0.99999994f, 1.0000001f};
  for (int i = 0; i < 4000; ++i) x.push_back(std::exp2(random.uniform(-126, 127)));
  test::array<float> in(x), out(x.size(), -1);
  test::run({}, 0, math_test::logarithms{in.data(), out.data(), static_cast<std::int32_t>(x.size())});
  for (std::size_t i = 0; i < x.size(); ++i) {
    CAPTURE(x[i]);
    double const expected = std::log2(static_cast<double>(x[i])), got = static_cast<double>(out[i]);
    CHECK(std::abs(got - expected) <= (expected == 0 ? 0 : std::ldexp(1.0, std::ilogb(expected) - 23)));
  }
}

TEST_CASE("pairs of half: every value, rounding to nearest even") {
  SEEDED(random);
  math_test::check_pairs<half>(random, 10);
}

TEST_CASE("pairs of bfloat16: every value, rounding to nearest even") {
  SEEDED(random);
  math_test::check_pairs<bfloat16>(random, 7);
}
