// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/math.hpp>

#include <cstring>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail {

// What the warp-wide instructions do, as functions of what all 32 lanes hold: the PTX documentation, chapters "Matrix
// fragments for mma.m16n8k16 with floating point type" and "ldmatrix". The simulated device calls them, and on a GPU
// the tests compare them with the instructions.

/// Which element of its matrix the 16 bits number i of a fragment are, i = 2 * register + (upper half).
struct element_at {
  int row, column;
};

constexpr element_at a_element(int lane, int i) {
  return {lane / 4 + (i / 2 % 2 == 0 ? 0 : 8), lane % 4 * 2 + i % 2 + (i < 4 ? 0 : 8)};
}
constexpr element_at b_element(int lane, int i) { return {lane % 4 * 2 + i % 2 + (i < 2 ? 0 : 8), lane / 4}; }

/// The same for accumulators, i = register.
constexpr element_at c_element(int lane, int i) { return {lane / 4 + (i < 2 ? 0 : 8), lane % 4 * 2 + i % 2}; }

/// Which element of an 8 x 8 matrix a lane gets in half i of its register. Transposed, rows and columns change places.
constexpr element_at ldmatrix_element(int lane, int i, bool transposed) {
  element_at const e = {lane / 4, lane % 4 * 2 + i};
  return transposed ? element_at{e.column, e.row} : e;
}

inline std::uint16_t half_of(std::uint32_t const* registers, int i) {
  return static_cast<std::uint16_t>(registers[i / 2] >> (i % 2 * 16));
}

/// The nearest float that is not larger in magnitude, but inf where the nearest is; every NaN becomes the same.
inline float truncate(double x) {
  if (x != x) return __builtin_bit_cast(float, 0x7fffffffu);
  float const nearest = static_cast<float>(x);
  if (std::isinf(nearest) || std::fabs(static_cast<double>(nearest)) <= std::fabs(x)) return nearest;
  return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, nearest) - 1);
}

/// d = a b + c for a : [16, 16], b : [16, 8], c, d : [16, 8]. a[lane] : [4] registers, b[lane] : [2], c, d : [4].
/// Products are exact, and so is (but for spreads of more than 2^30) their sum with c, which is then truncated. The
/// hardware truncates too, but drops the bits of every term below the 24 to 26 of the largest, and may add in two
/// steps.
template <Half T>
void emulated_mma(std::uint32_t const* const* a, std::uint32_t const* const* b, float const* const* c,
                  float* const* d) {
  double wide_a[16][16], wide_b[16][8], sum[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) {
      element_at const e = a_element(lane, i);
      wide_a[e.row][e.column] = static_cast<double>(static_cast<float>(__builtin_bit_cast(T, half_of(a[lane], i))));
    }
    for (int i = 0; i < 4; ++i) {
      element_at const e = b_element(lane, i);
      wide_b[e.row][e.column] = static_cast<double>(static_cast<float>(__builtin_bit_cast(T, half_of(b[lane], i))));
      sum[c_element(lane, i).row][c_element(lane, i).column] = static_cast<double>(c[lane][i]);
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column) sum[row][column] += wide_a[row][k] * wide_b[k][column];
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) d[lane][i] = truncate(sum[c_element(lane, i).row][c_element(lane, i).column]);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail
