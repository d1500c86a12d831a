// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/warp.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <cmath>
#include <cstdint>

using namespace purekv;

namespace warp_test {

inline constexpr std::int32_t distances = 33, cases = 3 + 3 * distances;

/// Every shuffle and vote there is, of values and by lanes that are given.
struct exchange {
  static constexpr std::int32_t threads = 64;
  std::int32_t const* value;  // [threads]
  std::int32_t const* lane;   // [threads] in 0 .. 31
  std::int32_t* out;          // [cases, threads]

  PUREKV_DEVICE void operator()() const {
    std::int32_t const t = simt::thread_index(), mine = value[t];
    std::int32_t* to = out + t;
    auto const put = [&](std::int32_t x) {
      *to = x;
      to += threads;
    };
    put(simt::shuffle(mine, lane[t]));
    for (std::int32_t d = 0; d < distances; ++d) {
      put(simt::shuffle_xor(mine, d & 31));
      put(simt::shuffle_up(mine, d & 31));
      put(simt::shuffle_down(mine, d & 31));
    }
    put(static_cast<std::int32_t>(simt::ballot(mine > 0)));
    put((simt::any(mine > 1000) ? 1 : 0) + (simt::all(mine > 1000) ? 2 : 0) + (simt::any(mine > 0) ? 4 : 0) +
        (simt::all(mine > -1001) ? 8 : 0) + (simt::all(mine > 0) ? 16 : 0));
  }
};

struct reduce {
  static constexpr std::int32_t threads = 64;
  float const* value;
  float *sum, *max, *scan;
  std::uint32_t* whole;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const t = simt::thread_index();
    sum[t] = simt::warp_sum(value[t]);
    max[t] = simt::warp_max(value[t]);
    scan[t] = simt::warp_scan(value[t]);
    whole[t] = simt::reduce_add(0xfffffff0u + static_cast<std::uint32_t>(t));
  }
};

/// Half a warp votes for itself.
struct half_warps {
  static constexpr std::int32_t threads = 32;
  std::uint32_t* out;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const t = simt::thread_index();
    std::uint32_t const mask = t < 16 ? 0x0000ffffu : 0xffff0000u;
    out[t] = simt::ballot(t % 3 == 0, mask) ^ static_cast<std::uint32_t>(simt::shuffle_xor(t, 8, mask));
  }
};

}  // namespace warp_test

TEST_CASE("shuffles and votes") {
  SEEDED(random);
  constexpr std::int32_t n = warp_test::exchange::threads;
  test::array<std::int32_t> value(n), lane(n), out(warp_test::cases * n, -1);
  for (std::int32_t& x : value) x = random.between(-1000, 1000);
  for (std::int32_t& x : lane) x = random.between(0, 31);
  test::run({}, 0, warp_test::exchange{value.data(), lane.data(), out.data()});
  for (std::int32_t t = 0; t < n; ++t) {
    CAPTURE(t);
    std::int32_t const first = t / 32 * 32, l = t % 32;
    auto const of = [&](std::int32_t other) { return value[static_cast<std::size_t>(first + other)]; };
    std::size_t i = static_cast<std::size_t>(t);
    auto const expect = [&](std::int32_t x) {
      REQUIRE(out[i] == x);
      i += static_cast<std::size_t>(n);
    };
    expect(of(lane[static_cast<std::size_t>(t)]));
    for (std::int32_t distance = 0; distance < warp_test::distances; ++distance) {
      std::int32_t const d = distance % 32;
      CAPTURE(d);
      expect(of(l ^ d));
      expect(l - d < 0 ? of(l) : of(l - d));
      expect(l + d > 31 ? of(l) : of(l + d));
    }
    std::uint32_t votes = 0;
    for (std::int32_t j = 0; j < 32; ++j) votes |= (of(j) > 0 ? 1u : 0u) << j;
    expect(static_cast<std::int32_t>(votes));
    expect(8 + (votes != 0 ? 4 : 0) + (votes == 0xffffffffu ? 16 : 0));
  }
}

TEST_CASE("sums, maxima and scans over a warp") {
  SEEDED(random);
  test::array<float> value(64), sum(64), max(64), scan(64);
  test::array<std::uint32_t> whole(64);
  for (float& x : value) x = random.normal();
  value[3] = std::nanf("");
  value[3 + 32] = -HUGE_VALF;
  test::run({}, 0, warp_test::reduce{value.data(), sum.data(), max.data(), scan.data(), whole.data()});
  for (std::size_t first : {std::size_t{0}, std::size_t{32}}) {
    double total = 0, largest = -HUGE_VAL;
    std::uint32_t count = 0;
    for (std::size_t l = 0; l < 32; ++l) {
      double const x = static_cast<double>(value[first + l]);
      total += x;
      if (x > largest) largest = x;
      count += 0xfffffff0u + static_cast<std::uint32_t>(first + l);
      if (std::isfinite(total))
        CHECK(std::abs(static_cast<double>(scan[first + l]) - total) < 1e-5);
      else
        CHECK(std::isnan(scan[first + l]) == std::isnan(total));
    }
    for (std::size_t l = 0; l < 32; ++l) {
      CHECK(static_cast<double>(max[first + l]) == largest);
      CHECK(whole[first + l] == count);
      // The same bits in every lane.
      CHECK(std::memcmp(&sum[first + l], &sum[first], 4) == 0);
    }
    CHECK(std::isnan(sum[first]) == std::isnan(total));
    if (first == 32) CHECK(static_cast<double>(sum[first]) == total);
  }
  value[3] = value[35] = 1;
  test::run({}, 0, warp_test::reduce{value.data(), sum.data(), max.data(), scan.data(), whole.data()});
  for (std::size_t first : {std::size_t{0}, std::size_t{32}}) {
    double total = 0;
    for (std::size_t l = 0; l < 32; ++l) total += static_cast<double>(value[first + l]);
    CHECK(std::abs(static_cast<double>(sum[first]) - total) < 1e-5);
  }
}

TEST_CASE("half warps at different masks") {
  test::array<std::uint32_t> out(32);
  test::run({}, 0, warp_test::half_warps{out.data()});
  for (std::uint32_t t = 0; t < 32; ++t) {
    std::uint32_t votes = 0;
    for (std::uint32_t j = t / 16 * 16; j < t / 16 * 16 + 16; ++j) votes |= (j % 3 == 0 ? 1u : 0u) << j;
    CHECK(out[t] == (votes ^ (t ^ 8u)));
  }
}
