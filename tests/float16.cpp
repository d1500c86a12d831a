// SPDX-License-Identifier: Apache-2.0
#include <purekv/float16.hpp>

#include "support/random.hpp"

#include <cmath>
#include <limits>
#include <type_traits>

// What the CUDA headers define, and a type of somebody else's.
struct __half {
  std::uint16_t x;
};
struct __nv_bfloat16 {
  std::uint16_t x;
};
struct their_half {
  std::uint16_t x;
};
template <> inline constexpr bool purekv::is_half_like<their_half> = true;

using purekv::bfloat16;
using purekv::half;

namespace {

/// Exponent bits, mantissa bits and bias of the two formats.
struct format {
  int exponent, mantissa, bias;
};
format of(half) { return {5, 10, 15}; }
format of(bfloat16) { return {8, 7, 127}; }

template <class T> T from_bits(unsigned bits) {
  T x{};
  x.bits = static_cast<std::uint16_t>(bits);
  return x;
}

/// The value from the definition of the format, in double.
template <class T> double exact(T x) {
  auto const [exponent, mantissa, bias] = of(x);
  int const e = x.bits >> mantissa & ((1 << exponent) - 1);
  double const m = x.bits & ((1 << mantissa) - 1);
  double const sign = x.bits & 0x8000 ? -1 : 1;
  if (e == (1 << exponent) - 1) return m == 0 ? sign * HUGE_VAL : std::numeric_limits<double>::quiet_NaN();
  if (e == 0) return sign * std::ldexp(m, 1 - bias - mantissa);
  return sign * std::ldexp(m + (1 << mantissa), e - bias - mantissa);
}

template <class T> void exhaustive_to_float() {
  for (unsigned bits = 0; bits <= 0xffff; ++bits) {
    T const x = from_bits<T>(bits);
    float const y = static_cast<float>(x);
    double const expected = exact(x);
    if (std::isnan(expected)) {
      REQUIRE(std::isnan(y));
      REQUIRE(std::isnan(static_cast<float>(T(y))));
    } else {
      REQUIRE(static_cast<double>(y) == expected);
      REQUIRE(T(y).bits == bits);  // and back, signs of zero included
    }
    REQUIRE(std::signbit(y) == (bits >> 15 != 0));
  }
}

/// Rounding is monotonic, so the floats next to every midpoint of two neighbours decide it everywhere.
template <class T> void exhaustive_rounding() {
  auto const [exponent, mantissa, bias] = of(T{});
  unsigned const infinity = ((1u << exponent) - 1) << mantissa;
  for (unsigned low = 0; low < infinity; ++low)
    for (float const sign : {1.f, -1.f}) {
      unsigned const high = low + 1;
      // One step beyond the largest finite value stands for infinity.
      double const below = exact(from_bits<T>(low));
      double const above = high == infinity ? std::ldexp(1, (1 << exponent) - 1 - bias) : exact(from_bits<T>(high));
      float const middle = static_cast<float>((below + above) / 2);
      REQUIRE(static_cast<double>(middle) == (below + above) / 2);
      unsigned const s = sign < 0 ? 0x8000u : 0u;
      CAPTURE(low);
      REQUIRE(T(sign * std::nextafterf(middle, 0.f)).bits == (s | low));
      REQUIRE(T(sign * middle).bits == (s | (low % 2 == 0 ? low : high)));
      REQUIRE(T(sign * std::nextafterf(middle, HUGE_VALF)).bits == (s | high));
    }
}

template <class T> void rounds_to_nearest(float x) {
  T const y(x);
  auto const [exponent, mantissa, bias] = of(y);
  if (std::isnan(x)) {
    REQUIRE(std::isnan(exact(y)));
    return;
  }
  if (std::isinf(exact(y))) {  // at least half a step beyond the largest finite value
    double const step = std::ldexp(1, (1 << exponent) - 2 - bias - mantissa);
    REQUIRE(std::fabs(static_cast<double>(x)) >= std::ldexp(1, (1 << exponent) - 1 - bias) - step / 2);
    REQUIRE(std::signbit(x) == std::signbit(exact(y)));
    return;
  }
  double const error = std::fabs(exact(y) - static_cast<double>(x));
  for (int const d : {-1, 1}) {
    unsigned const neighbour = static_cast<unsigned>(y.bits + d) & 0xffff;
    double const other = exact(from_bits<T>(neighbour));
    if (!std::isfinite(other)) continue;
    CAPTURE(x);
    double const there = std::fabs(other - static_cast<double>(x));
    REQUIRE((error < there || (error == there && y.bits % 2 == 0) || other == exact(y)));
  }
}

}  // namespace

TEST_CASE_TEMPLATE("16-bit floats are plain 16-bit values", T, half, bfloat16) {
  static_assert(sizeof(T) == 2 && std::is_trivially_copyable_v<T> && std::is_trivially_default_constructible_v<T>);
  static_assert(purekv::Element<T>);
  static_assert(!std::is_convertible_v<float, T> && !std::is_convertible_v<T, float>);  // only explicitly
}

TEST_CASE_TEMPLATE("all 65536 values become the float they say, and come back", T, half, bfloat16) {
  exhaustive_to_float<T>();
}

TEST_CASE_TEMPLATE("every midpoint goes to even and its neighbours to the nearest", T, half, bfloat16) {
  exhaustive_rounding<T>();
}

TEST_CASE_TEMPLATE("random bit patterns go to the nearest value", T, half, bfloat16) {
  SEEDED(random);
  for (int i = 0; i < 200000; ++i) rounds_to_nearest<T>(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  // where half has its subnormals and its overflow
  for (int i = 0; i < 200000; ++i) rounds_to_nearest<T>(std::ldexp(random.uniform(-2, 2), random.between(-30, 18)));
}

TEST_CASE_TEMPLATE("NaN stays NaN with its sign, whatever its payload", T, half, bfloat16) {
  SEEDED(random);
  auto check = [](std::uint32_t payload) {
    for (std::uint32_t const sign : {0u, 0x80000000u}) {
      T const x(std::bit_cast<float>(sign | 0x7f800000u | payload));
      CAPTURE(payload);
      REQUIRE(std::isnan(static_cast<float>(x)));
      REQUIRE((x.bits >> 15) == (sign >> 31));
    }
  };
  for (int bit = 0; bit < 23; ++bit) check(1u << bit);
  check(0x007fffffu);
  for (int i = 0; i < 10000; ++i) check(1 + static_cast<std::uint32_t>(random() % 0x007fffffu));
}

TEST_CASE("the edges of half") {
  CHECK(half(65504.f).bits == 0x7bff);
  CHECK(half(65519.996f).bits == 0x7bff);
  CHECK(half(65520.f).bits == 0x7c00);
  CHECK(half(std::numeric_limits<float>::max()).bits == 0x7c00);
  CHECK(half(-std::numeric_limits<float>::infinity()).bits == 0xfc00);
  CHECK(half(0x1p-24f).bits == 1);
  CHECK(half(0x1p-25f).bits == 0);  // a tie, and zero is even
  CHECK(half(0x1.000002p-25f).bits == 1);
  CHECK(half(-0.f).bits == 0x8000);
  CHECK(half(std::numeric_limits<float>::denorm_min()).bits == 0);
  CHECK(half(1.f / 3).bits == 0x3555);
}

TEST_CASE("the edges of bfloat16") {
  CHECK(bfloat16(1.f).bits == 0x3f80);
  CHECK(bfloat16(std::numeric_limits<float>::max()).bits == 0x7f80);
  CHECK(bfloat16(std::bit_cast<float>(0x7f7f7fffu)).bits == 0x7f7f);
  CHECK(bfloat16(std::bit_cast<float>(0x00018000u)).bits == 2);
  CHECK(bfloat16(-0.f).bits == 0x8000);
}

#if defined(__FLT16_MANT_DIG__) && \
    (defined(__SSE2__) || (defined(__ARM_NEON) && (defined(__clang__) || __GNUC__ >= 13)))
TEST_CASE("half agrees with the compiler's half, and converts to it and back") {
  SEEDED(random);
  for (unsigned bits = 0; bits <= 0xffff; ++bits) {
    half const x = from_bits<half>(bits);
    _Float16 const theirs = x;
    REQUIRE(half(theirs).bits == bits);
    float const value = static_cast<float>(theirs);
    if (!std::isnan(value)) REQUIRE(value == static_cast<float>(x));
  }
  for (int i = 0; i < 1000000; ++i) {
    float const x = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (!std::isnan(x)) REQUIRE(half(x).bits == half(static_cast<_Float16>(x)).bits);
  }
}
#endif

TEST_CASE("other people's types with the same bits convert both ways") {
  half const x(1.5f);
  CHECK(static_cast<__half>(x).x == x.bits);
  CHECK(half(__half{0x3e00}).bits == 0x3e00);
  CHECK(static_cast<their_half>(x).x == x.bits);
  CHECK(half(their_half{0x3e00}).bits == 0x3e00);
  bfloat16 const y(1.5f);
  CHECK(static_cast<__nv_bfloat16>(y).x == y.bits);
  CHECK(bfloat16(__nv_bfloat16{0x3fc0}).bits == 0x3fc0);
  static_assert(!std::is_constructible_v<half, __nv_bfloat16> && !std::is_constructible_v<bfloat16, __half>);
}
