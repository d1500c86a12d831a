// SPDX-License-Identifier: Apache-2.0
#include <purekv/convert.hpp>

#include "support/random.hpp"

#include <cmath>
#include <cstring>
#include <limits>

using purekv::bfloat16;
using purekv::convert;
using purekv::half;

namespace {

template <class T> bool same_value(T a, T b) {
  if (std::isnan(static_cast<float>(a))) return std::isnan(static_cast<float>(b));
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

/// What one number at a time gives; tests/float16.cpp says that this is right.
template <class D, class S> D one(S x) { return D(static_cast<float>(x)); }

template <class D, class S> void check(std::vector<S> const& source) {
  D const untouched = D(-77.0f);
  std::vector<D> converted(source.size() + 2, untouched);
  convert(source.data(), converted.data() + 1, static_cast<std::int64_t>(source.size()));
  for (std::size_t i = 0; i < source.size(); ++i)
    if (!same_value(converted[i + 1], one<D>(source[i]))) {
      CAPTURE(i);
      CAPTURE(static_cast<float>(source[i]));
      REQUIRE(static_cast<float>(converted[i + 1]) == static_cast<float>(one<D>(source[i])));
    }
  CHECK(same_value(converted.front(), untouched));
  CHECK(same_value(converted.back(), untouched));
}

template <class T> std::vector<T> every_value() {
  std::vector<T> all(0x10000);
  for (std::size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<std::uint16_t>(i);
  return all;
}

}  // namespace

TEST_CASE("convert: every half and bfloat16") {
  check<float>(every_value<half>());
  check<bfloat16>(every_value<half>());
  check<half>(every_value<half>());
  check<float>(every_value<bfloat16>());
  check<half>(every_value<bfloat16>());
  check<bfloat16>(every_value<bfloat16>());
}

TEST_CASE("convert: floats of every exponent, ties, subnormals, NaN and inf") {
  SEEDED(random);
  std::vector<float> source;
  for (int i = 0; i < 200000; ++i) source.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    // The value between two neighbours is a tie; one bit beside it is none.
    half h{};
    h.bits = static_cast<std::uint16_t>(bits);
    half next{};
    next.bits = static_cast<std::uint16_t>(bits + 1);
    float const tie = 0.5f * (static_cast<float>(h) + static_cast<float>(next));
    std::uint32_t const between = bits << 16 | 0x8000u;
    for (float x : {tie, std::bit_cast<float>(between)})
      for (float y : {x, std::nextafter(x, 0.0f), std::nextafter(x, std::numeric_limits<float>::infinity())})
        source.push_back(y);
  }
  check<half>(source);
  check<bfloat16>(source);
  check<float>(source);
}

TEST_CASE("convert: any length writes that length") {
  SEEDED(random);
  for (std::size_t n = 0; n < 70; ++n) {
    std::vector<float> floats(n);
    std::vector<half> halves(n);
    random.fill_normal(floats);
    random.fill_normal(halves);
    check<half>(floats);
    check<bfloat16>(floats);
    check<float>(halves);
    check<bfloat16>(halves);
    check<half>(halves);
  }
}
