// SPDX-License-Identifier: Apache-2.0
#include <purekv/simt/tensor_core.hpp>
// The header under test comes first.
#include "support/simt.hpp"

#include <purekv/simt/barrier.hpp>
#include <purekv/simt/executor/tensor_core.hpp>

#include <cmath>
#include <numeric>

using namespace purekv;

namespace tensor_core_test {

// The figures of the PTX documentation, "Matrix fragments for mma.m16n8k16 with floating point type" and "ldmatrix",
// written out. The emulation computes the same from formulas and does not know these tables.
// clang-format off
// a : [16, 16], the lane that holds an element ...
constexpr int a_lane[16][16] = {
    { 0,  0,  1,  1,  2,  2,  3,  3,  0,  0,  1,  1,  2,  2,  3,  3},
    { 4,  4,  5,  5,  6,  6,  7,  7,  4,  4,  5,  5,  6,  6,  7,  7},
    { 8,  8,  9,  9, 10, 10, 11, 11,  8,  8,  9,  9, 10, 10, 11, 11},
    {12, 12, 13, 13, 14, 14, 15, 15, 12, 12, 13, 13, 14, 14, 15, 15},
    {16, 16, 17, 17, 18, 18, 19, 19, 16, 16, 17, 17, 18, 18, 19, 19},
    {20, 20, 21, 21, 22, 22, 23, 23, 20, 20, 21, 21, 22, 22, 23, 23},
    {24, 24, 25, 25, 26, 26, 27, 27, 24, 24, 25, 25, 26, 26, 27, 27},
    {28, 28, 29, 29, 30, 30, 31, 31, 28, 28, 29, 29, 30, 30, 31, 31},
    { 0,  0,  1,  1,  2,  2,  3,  3,  0,  0,  1,  1,  2,  2,  3,  3},
    { 4,  4,  5,  5,  6,  6,  7,  7,  4,  4,  5,  5,  6,  6,  7,  7},
    { 8,  8,  9,  9, 10, 10, 11, 11,  8,  8,  9,  9, 10, 10, 11, 11},
    {12, 12, 13, 13, 14, 14, 15, 15, 12, 12, 13, 13, 14, 14, 15, 15},
    {16, 16, 17, 17, 18, 18, 19, 19, 16, 16, 17, 17, 18, 18, 19, 19},
    {20, 20, 21, 21, 22, 22, 23, 23, 20, 20, 21, 21, 22, 22, 23, 23},
    {24, 24, 25, 25, 26, 26, 27, 27, 24, 24, 25, 25, 26, 26, 27, 27},
    {28, 28, 29, 29, 30, 30, 31, 31, 28, 28, 29, 29, 30, 30, 31, 31},
};
// ... and its number i of a0 .. a7 there.
constexpr int a_number[16][16] = {
    {0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5},
    {0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5},
    {0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5},
    {0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5},
    {0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5},
    {0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5},
    {0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5},
    {0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5},
    {2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7},
    {2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7},
    {2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7},
    {2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7},
    {2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7},
    {2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7},
    {2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7},
    {2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7},
};
// b : [16, 8].
constexpr int b_lane[16][8] = {
    { 0,  4,  8, 12, 16, 20, 24, 28},
    { 0,  4,  8, 12, 16, 20, 24, 28},
    { 1,  5,  9, 13, 17, 21, 25, 29},
    { 1,  5,  9, 13, 17, 21, 25, 29},
    { 2,  6, 10, 14, 18, 22, 26, 30},
    { 2,  6, 10, 14, 18, 22, 26, 30},
    { 3,  7, 11, 15, 19, 23, 27, 31},
    { 3,  7, 11, 15, 19, 23, 27, 31},
    { 0,  4,  8, 12, 16, 20, 24, 28},
    { 0,  4,  8, 12, 16, 20, 24, 28},
    { 1,  5,  9, 13, 17, 21, 25, 29},
    { 1,  5,  9, 13, 17, 21, 25, 29},
    { 2,  6, 10, 14, 18, 22, 26, 30},
    { 2,  6, 10, 14, 18, 22, 26, 30},
    { 3,  7, 11, 15, 19, 23, 27, 31},
    { 3,  7, 11, 15, 19, 23, 27, 31},
};
constexpr int b_number[16][8] = {
    {0, 0, 0, 0, 0, 0, 0, 0},
    {1, 1, 1, 1, 1, 1, 1, 1},
    {0, 0, 0, 0, 0, 0, 0, 0},
    {1, 1, 1, 1, 1, 1, 1, 1},
    {0, 0, 0, 0, 0, 0, 0, 0},
    {1, 1, 1, 1, 1, 1, 1, 1},
    {0, 0, 0, 0, 0, 0, 0, 0},
    {1, 1, 1, 1, 1, 1, 1, 1},
    {2, 2, 2, 2, 2, 2, 2, 2},
    {3, 3, 3, 3, 3, 3, 3, 3},
    {2, 2, 2, 2, 2, 2, 2, 2},
    {3, 3, 3, 3, 3, 3, 3, 3},
    {2, 2, 2, 2, 2, 2, 2, 2},
    {3, 3, 3, 3, 3, 3, 3, 3},
    {2, 2, 2, 2, 2, 2, 2, 2},
    {3, 3, 3, 3, 3, 3, 3, 3},
};
// c, d : [16, 8].
constexpr int c_lane[16][8] = {
    { 0,  0,  1,  1,  2,  2,  3,  3},
    { 4,  4,  5,  5,  6,  6,  7,  7},
    { 8,  8,  9,  9, 10, 10, 11, 11},
    {12, 12, 13, 13, 14, 14, 15, 15},
    {16, 16, 17, 17, 18, 18, 19, 19},
    {20, 20, 21, 21, 22, 22, 23, 23},
    {24, 24, 25, 25, 26, 26, 27, 27},
    {28, 28, 29, 29, 30, 30, 31, 31},
    { 0,  0,  1,  1,  2,  2,  3,  3},
    { 4,  4,  5,  5,  6,  6,  7,  7},
    { 8,  8,  9,  9, 10, 10, 11, 11},
    {12, 12, 13, 13, 14, 14, 15, 15},
    {16, 16, 17, 17, 18, 18, 19, 19},
    {20, 20, 21, 21, 22, 22, 23, 23},
    {24, 24, 25, 25, 26, 26, 27, 27},
    {28, 28, 29, 29, 30, 30, 31, 31},
};
constexpr int c_number[16][8] = {
    {0, 1, 0, 1, 0, 1, 0, 1},
    {0, 1, 0, 1, 0, 1, 0, 1},
    {0, 1, 0, 1, 0, 1, 0, 1},
    {0, 1, 0, 1, 0, 1, 0, 1},
    {0, 1, 0, 1, 0, 1, 0, 1},
    {0, 1, 0, 1, 0, 1, 0, 1},
    {0, 1, 0, 1, 0, 1, 0, 1},
    {0, 1, 0, 1, 0, 1, 0, 1},
    {2, 3, 2, 3, 2, 3, 2, 3},
    {2, 3, 2, 3, 2, 3, 2, 3},
    {2, 3, 2, 3, 2, 3, 2, 3},
    {2, 3, 2, 3, 2, 3, 2, 3},
    {2, 3, 2, 3, 2, 3, 2, 3},
    {2, 3, 2, 3, 2, 3, 2, 3},
    {2, 3, 2, 3, 2, 3, 2, 3},
    {2, 3, 2, 3, 2, 3, 2, 3},
};
// ldmatrix of one matrix: the lane that gets an element, in the half number column % 2 of its register. With .trans:
// the lane that gets element [column][row].
constexpr int ldmatrix_lane[8][8] = {
    { 0,  0,  1,  1,  2,  2,  3,  3},
    { 4,  4,  5,  5,  6,  6,  7,  7},
    { 8,  8,  9,  9, 10, 10, 11, 11},
    {12, 12, 13, 13, 14, 14, 15, 15},
    {16, 16, 17, 17, 18, 18, 19, 19},
    {20, 20, 21, 21, 22, 22, 23, 23},
    {24, 24, 25, 25, 26, 26, 27, 27},
    {28, 28, 29, 29, 30, 30, 31, 31},
};
// clang-format on

template <class T> struct one_mma {
  static constexpr std::int32_t threads = 32;
  simt::a_fragment const* a;  // [32] each
  simt::b_fragment const* b;
  simt::c_fragment const* c;
  simt::c_fragment* d;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const lane = simt::lane_index();
    d[lane] = simt::mma<T>(a[lane], b[lane], c[lane]);
  }
};

/// The operands of one mma, as matrices and as the lanes hold them.
template <class T> struct operands {
  float a[16][16], b[16][8], c[16][8];
  test::array<simt::a_fragment> a_lanes{32};
  test::array<simt::b_fragment> b_lanes{32};
  test::array<simt::c_fragment> c_lanes{32}, d_lanes{32};

  /// Deals the matrices to the lanes by the tables and runs the instruction.
  void multiply() {
    for (simt::a_fragment& x : a_lanes) x = {};
    for (simt::b_fragment& x : b_lanes) x = {};
    for (int r = 0; r < 16; ++r)
      for (int k = 0; k < 16; ++k) put(a_lanes[static_cast<std::size_t>(a_lane[r][k])].at, a_number[r][k], a[r][k]);
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 8; ++n) put(b_lanes[static_cast<std::size_t>(b_lane[k][n])].at, b_number[k][n], b[k][n]);
    for (int r = 0; r < 16; ++r)
      for (int n = 0; n < 8; ++n) c_lanes[static_cast<std::size_t>(c_lane[r][n])].at[c_number[r][n]] = c[r][n];
    test::run({}, 0, one_mma<T>{a_lanes.data(), b_lanes.data(), c_lanes.data(), d_lanes.data()});
  }

  float d(int r, int n) const { return d_lanes[static_cast<std::size_t>(c_lane[r][n])].at[c_number[r][n]]; }

  /// What the emulation makes of the same lanes.
  std::vector<simt::c_fragment> emulated() const {
    std::vector<simt::c_fragment> d(32);
    std::uint32_t const *all_a[32], *all_b[32];
    float const* all_c[32];
    float* all_d[32];
    for (std::size_t lane = 0; lane < 32; ++lane) {
      all_a[lane] = a_lanes[lane].at;
      all_b[lane] = b_lanes[lane].at;
      all_c[lane] = c_lanes[lane].at;
      all_d[lane] = d[lane].at;
    }
    simt::detail::emulated_mma<T>(all_a, all_b, all_c, all_d);
    return d;
  }

  bool emulation_has_the_same_bits() const {
    std::vector<simt::c_fragment> const e = emulated();
    return std::memcmp(e.data(), d_lanes.data(), 32 * sizeof(simt::c_fragment)) == 0;
  }

 private:
  static void put(std::uint32_t* registers, int number, float value) {
    registers[number / 2] |= static_cast<std::uint32_t>(T(value).bits) << (number % 2 * 16);
  }
};

/// What each lane gets from ldmatrix of rows that lie anywhere.
template <std::int32_t N, bool Transposed> struct load {
  static constexpr std::int32_t threads = 32, rows = 40, stride = 24;
  static constexpr std::size_t bytes = rows * stride * 2;
  std::int32_t const* row;  // [32] for each lane, below `rows`
  simt::matrices<N>* out;   // [32]

  PUREKV_DEVICE void operator()() const {
    simt::shared<std::uint16_t> const s = simt::shared_memory<std::uint16_t>();
    std::int32_t const lane = simt::lane_index();
    for (std::int32_t i = lane; i < rows * stride; i += threads) s.store(i, static_cast<std::uint16_t>(i));
    simt::sync();
    simt::shared<half> const mine = (s + (row[lane] * stride + 8)).as<half>();
    out[lane] = Transposed ? simt::ldmatrix_transposed<N>(mine) : simt::ldmatrix<N>(mine);
  }
};

template <std::int32_t N, bool Transposed> void check_load(test::random& random) {
  using kernel = load<N, Transposed>;
  test::array<std::int32_t> row(32);
  for (std::int32_t& r : row) r = random.between(0, kernel::rows - 1);
  test::array<simt::matrices<N>> out(32);
  test::run({}, kernel::bytes, kernel{row.data(), out.data()});
  for (int m = 0; m < N; ++m)
    for (int r = 0; r < 8; ++r)
      for (int c = 0; c < 8; ++c) {
        int const lane = Transposed ? ldmatrix_lane[c][r] : ldmatrix_lane[r][c], half_number = (Transposed ? r : c) % 2;
        std::uint32_t const got = out[static_cast<std::size_t>(lane)].at[m] >> (half_number * 16) & 0xffffu;
        CAPTURE(m);
        CAPTURE(r);
        CAPTURE(c);
        REQUIRE(got == static_cast<std::uint32_t>(row[static_cast<std::size_t>(m * 8 + r)] * kernel::stride + 8 + c));
      }
}

}  // namespace tensor_core_test

using tensor_core_test::check_load;
using tensor_core_test::operands;

TEST_CASE("ldmatrix: every lane gets its elements, plain and transposed, 1, 2 and 4 matrices") {
  SEEDED(random);
  check_load<1, false>(random);
  check_load<2, false>(random);
  check_load<4, false>(random);
  check_load<1, true>(random);
  check_load<2, true>(random);
  check_load<4, true>(random);
}

TEST_CASE_TEMPLATE("mma: whole numbers, to the bit", T, half, bfloat16) {
  SEEDED(random);
  for (int i = 0; i < 20; ++i) {
    operands<T> o;
    for (auto& row : o.a)
      for (float& x : row) x = static_cast<float>(random.between(-100, 100));
    for (auto& row : o.b)
      for (float& x : row) x = static_cast<float>(random.between(-100, 100));
    for (auto& row : o.c)
      for (float& x : row) x = static_cast<float>(random.between(-10000, 10000));
    o.multiply();
    for (int r = 0; r < 16; ++r)
      for (int n = 0; n < 8; ++n) {
        int sum = static_cast<int>(o.c[r][n]);
        for (int k = 0; k < 16; ++k) sum += static_cast<int>(o.a[r][k]) * static_cast<int>(o.b[k][n]);
        REQUIRE(static_cast<int>(o.d(r, n)) == sum);
      }
    REQUIRE(o.emulation_has_the_same_bits());
  }
}

TEST_CASE_TEMPLATE("mma: one element of a and one of b at a time, to the bit", T, half, bfloat16) {
  SEEDED(random);
  operands<T> o;
  for (int i = 0; i < 64; ++i) {
    int const r = random.between(0, 15), k = random.between(0, 15), n = random.between(0, 7);
    std::memset(o.a, 0, sizeof o.a);
    std::memset(o.b, 0, sizeof o.b);
    std::memset(o.c, 0, sizeof o.c);
    o.a[r][k] = 3;
    o.b[k][n] = 0.5f;
    o.multiply();
    for (int row = 0; row < 16; ++row)
      for (int column = 0; column < 8; ++column) REQUIRE(o.d(row, column) == (row == r && column == n ? 1.5f : 0.0f));
    REQUIRE(o.emulation_has_the_same_bits());
  }
}

// The error of the hardware, all generations: at most 18 terms lose what is below 2^-23 of the largest, twice.
TEST_CASE_TEMPLATE("mma: any numbers, truncated sums", T, half, bfloat16) {
  SEEDED(random);
  int differing = 0, truncated_up = 0;
  for (int i = 0; i < 20; ++i) {
    operands<T> o;
    for (auto& row : o.a)
      for (float& x : row) x = static_cast<float>(T(random.normal()));
    for (auto& row : o.b)
      for (float& x : row) x = static_cast<float>(T(random.normal()));
    for (auto& row : o.c)
      for (float& x : row) x = random.normal();
    o.multiply();
    for (int r = 0; r < 16; ++r)
      for (int n = 0; n < 8; ++n) {
        double sum = static_cast<double>(o.c[r][n]), largest = std::abs(sum);
        for (int k = 0; k < 16; ++k) {
          double const term = static_cast<double>(o.a[r][k]) * static_cast<double>(o.b[k][n]);
          sum += term;
          largest = std::max(largest, std::abs(term));
        }
        REQUIRE(std::abs(static_cast<double>(o.d(r, n)) - sum) <= 36 * std::ldexp(largest, -23));
        if (std::abs(static_cast<double>(o.d(r, n))) > std::abs(sum)) ++truncated_up;
      }
    if (!o.emulation_has_the_same_bits()) ++differing;
  }
#if defined(__CUDACC__)
  MESSAGE(differing, " of 20 products differ from the emulation in some bit");
#else
  CHECK(differing == 0);
  CHECK(truncated_up == 0);
#endif
}

TEST_CASE_TEMPLATE("mma: inf, NaN and subnormals", T, half, bfloat16) {
  operands<T> o;
  std::memset(o.a, 0, sizeof o.a);
  std::memset(o.b, 0, sizeof o.b);
  std::memset(o.c, 0, sizeof o.c);
  T smallest;
  smallest.bits = 1;
  o.a[0][0] = HUGE_VALF;
  o.a[1][1] = std::nanf("");
  o.a[2][2] = static_cast<float>(smallest);
  o.a[3][3] = 1;
  for (auto& row : o.b)
    for (float& x : row) x = 4;
  o.c[0][1] = -HUGE_VALF;
  o.b[0][2] = 0;
  o.multiply();
  CHECK(o.d(0, 0) == HUGE_VALF);
  CHECK(std::isnan(o.d(0, 1)));
  CHECK(std::isnan(o.d(0, 2)));
  CHECK(std::isnan(o.d(1, 0)));
  CHECK(static_cast<double>(o.d(2, 0)) == 4 * static_cast<double>(static_cast<float>(smallest)));
  CHECK(o.d(3, 0) == 4);
  CHECK(o.d(4, 0) == 0);
  CHECK(o.emulation_has_the_same_bits());
}
