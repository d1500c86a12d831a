// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/copy.hpp>
#include <purekv/simt/tensor_core.hpp>
#include <purekv/status.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The widths of rows that kernels are compiled for, ascending: a dim takes the next one, padded with zeros.
template <std::int32_t First, std::int32_t... Rest> struct widths {
  static constexpr std::int32_t largest = widths<Rest...>::largest;

  template <class F> static status dispatch(std::int32_t dim, F const& f) {
    return dim <= First ? f.template operator()<First>() : widths<Rest...>::dispatch(dim, f);
  }
};
template <std::int32_t Last> struct widths<Last> {
  static constexpr std::int32_t largest = Last;

  template <class F> static status dispatch(std::int32_t, F const& f) { return f.template operator()<Last>(); }
};

/// A program that needs fewer defines PUREKV_WIDTHS, the same in all its files, and compiles sooner.
#if !defined(PUREKV_WIDTHS)
#define PUREKV_WIDTHS 64, 96, 128, 256
#endif
using compiled_widths = widths<PUREKV_WIDTHS>;
inline constexpr std::int32_t largest_width = compiled_widths::largest;

template <class F> status dispatch_width(std::int32_t dim, F const& f) { return compiled_widths::dispatch(dim, f); }

/// Rows of Width elements in shared memory, an odd number of 16-byte chunks apart, so that the 8 rows of a matrix that
/// ldmatrix loads lie in different banks.
template <simt::Half T, std::int32_t Width> struct mma_tile {
  static_assert(Width % 16 == 0, "mma_tile: the tensor cores take 16 elements of a row at once");
  static constexpr std::int32_t pitch = Width + 8, chunk = 8;  // elements
  PUREKV_HD static constexpr std::int32_t bytes(std::int32_t rows) {
    return rows * pitch * static_cast<std::int32_t>(sizeof(T));
  }

  simt::shared<T> data;

  PUREKV_DEVICE simt::shared<T> at(std::int32_t row, std::int32_t column) const {
    return data + (row * pitch + column);
  }

  /// Starts to copy `rows` rows of `dim` elements, a multiple of 8, by the threads [0, threads) of which this is one;
  /// source(row) in global memory, or null for a row of zeros. The caller commits.
  template <class Source>
  PUREKV_DEVICE void fetch(std::int32_t rows, std::int32_t dim, std::int32_t thread, std::int32_t threads,
                           Source const& source) const {
    constexpr std::int32_t chunks = Width / chunk;
    for (std::int32_t i = thread; i < rows * chunks; i += threads) {
      std::int32_t const row = i / chunks, column = i % chunks * chunk;
      T const* const from = source(row);
      bool const inside = from != nullptr && column < dim;
      // A source that is not read still needs an address.
      simt::cp_async<16>(at(row, column), inside ? static_cast<void const*>(from + column) : data.data(),
                         inside ? 16 : 0);
    }
  }

  /// Rows [row, row + 16), columns [column, column + 16) as the left factor.
  PUREKV_DEVICE simt::a_fragment left(std::int32_t row, std::int32_t column) const {
    std::int32_t const lane = simt::lane_index();
    return simt::ldmatrix<4>(at(row + lane % 16, column + lane / 16 * 8));
  }

  /// Rows [row, row + 16) as columns of the right factor, columns [column, column + 16) as its depth: two b fragments,
  /// of 8 rows each. For q . k.
  PUREKV_DEVICE simt::matrices<4> right_by_rows(std::int32_t row, std::int32_t column) const {
    std::int32_t const lane = simt::lane_index();
    return simt::ldmatrix<4>(at(row + lane % 8 + lane / 16 * 8, column + lane / 8 % 2 * 8));
  }

  /// Rows [row, row + 16) as the depth of the right factor, columns [column, column + 16) as its columns: two b
  /// fragments, of 8 columns each. For p v.
  PUREKV_DEVICE simt::matrices<4> right_by_columns(std::int32_t row, std::int32_t column) const {
    std::int32_t const lane = simt::lane_index();
    return simt::ldmatrix_transposed<4>(at(row + lane % 16, column + lane / 16 * 8));
  }
};

/// The two b fragments that lie in four matrices.
PUREKV_DEVICE simt::b_fragment first_half(simt::matrices<4> const& m) { return {m.at[0], m.at[1]}; }
PUREKV_DEVICE simt::b_fragment second_half(simt::matrices<4> const& m) { return {m.at[2], m.at[3]}; }

/// products[n] = rows . keys [8 n, 8 n + 8) for the 16 rows of a warp: sums over Width elements. rows: their left
/// factors, 16 columns each.
template <simt::Half T, std::int32_t Width, std::int32_t Keys>
PUREKV_DEVICE void multiply_keys(simt::a_fragment const (&rows)[Width / 16], mma_tile<T, Width> const& keys,
                                 simt::c_fragment (&products)[Keys / 8]) {
  PUREKV_DEVICE_UNROLL
  for (std::int32_t n = 0; n < Keys / 8; ++n) products[n] = {};
  PUREKV_DEVICE_UNROLL
  for (std::int32_t k = 0; k < Width / 16; ++k) {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < Keys / 8; n += 2) {
      simt::matrices<4> const right = keys.right_by_rows(n * 8, k * 16);
      products[n] = simt::mma<T>(rows[k], first_half(right), products[n]);
      products[n + 1] = simt::mma<T>(rows[k], second_half(right), products[n + 1]);
    }
  }
}

/// The same for several blocks of 16 rows at once, so that what is loaded of the keys serves all of them.
/// left(block, k): the left factor of a block, columns [16 k, 16 k + 16).
template <simt::Half T, std::int32_t Width, std::int32_t Keys, std::int32_t Blocks, class Left>
PUREKV_DEVICE void multiply_keys(Left const& left, mma_tile<T, Width> const& keys,
                                 simt::c_fragment (&products)[Blocks][Keys / 8]) {
  PUREKV_DEVICE_UNROLL
  for (std::int32_t b = 0; b < Blocks; ++b) {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < Keys / 8; ++n) products[b][n] = {};
  }
  PUREKV_DEVICE_UNROLL
  for (std::int32_t k = 0; k < Width / 16; ++k) {
    simt::a_fragment rows[Blocks];
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < Blocks; ++b) rows[b] = left(b, k);
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < Keys / 8; n += 2) {
      simt::matrices<4> const right = keys.right_by_rows(n * 8, k * 16);
      PUREKV_DEVICE_UNROLL
      for (std::int32_t b = 0; b < Blocks; ++b) {
        products[b][n] = simt::mma<T>(rows[b], first_half(right), products[b][n]);
        products[b][n + 1] = simt::mma<T>(rows[b], second_half(right), products[b][n + 1]);
      }
    }
  }
}

/// Two neighbouring groups of 8 columns of a result as the left factor of the next product, rounded to T.
template <simt::Half T> PUREKV_DEVICE simt::a_fragment as_left(simt::c_fragment const& a, simt::c_fragment const& b) {
  return {simt::pack2<T>(a.at[0], a.at[1]), simt::pack2<T>(a.at[2], a.at[3]), simt::pack2<T>(b.at[0], b.at[1]),
          simt::pack2<T>(b.at[2], b.at[3])};
}

/// sums[n] += weights . values, columns [8 n, 8 n + 8) of the values, for the 16 rows of a warp and Keys keys.
template <simt::Half T, std::int32_t Width, std::int32_t Keys>
PUREKV_DEVICE void multiply_values(simt::c_fragment const (&weights)[Keys / 8], mma_tile<T, Width> const& values,
                                   simt::c_fragment (&sums)[Width / 8]) {
  PUREKV_DEVICE_UNROLL
  for (std::int32_t k = 0; k < Keys / 16; ++k) {
    simt::a_fragment const left = as_left<T>(weights[2 * k], weights[2 * k + 1]);
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < Width / 8; n += 2) {
      simt::matrices<4> const right = values.right_by_columns(k * 16, n * 8);
      sums[n] = simt::mma<T>(left, first_half(right), sums[n]);
      sums[n + 1] = simt::mma<T>(left, second_half(right), sums[n + 1]);
    }
  }
}

/// The same for several blocks of 16 rows at once.
template <simt::Half T, std::int32_t Width, std::int32_t Keys, std::int32_t Blocks>
PUREKV_DEVICE void multiply_values(simt::c_fragment const (&weights)[Blocks][Keys / 8],
                                   mma_tile<T, Width> const& values, simt::c_fragment (&sums)[Blocks][Width / 8]) {
  PUREKV_DEVICE_UNROLL
  for (std::int32_t k = 0; k < Keys / 16; ++k) {
    simt::a_fragment left[Blocks];
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < Blocks; ++b) left[b] = as_left<T>(weights[b][2 * k], weights[b][2 * k + 1]);
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < Width / 8; n += 2) {
      simt::matrices<4> const right = values.right_by_columns(k * 16, n * 8);
      PUREKV_DEVICE_UNROLL
      for (std::int32_t b = 0; b < Blocks; ++b) {
        sums[b][n] = simt::mma<T>(left[b], first_half(right), sums[b][n]);
        sums[b][n + 1] = simt::mma<T>(left[b], second_half(right), sums[b][n + 1]);
      }
    }
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
