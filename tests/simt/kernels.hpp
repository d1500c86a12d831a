// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/barrier.hpp>
#include <purekv/simt/copy.hpp>
#include <purekv/simt/launch.hpp>
#include <purekv/simt/tensor_core.hpp>
#include <purekv/simt/warp.hpp>

/// Whole kernels in the manner of the library's, to show the layer at work.
namespace kernels {

using namespace purekv;

/// sum[i] = x[0] + .. + x[i] for each row of x : [rows, n], one block per row.
struct scan_rows {
  static constexpr std::int32_t threads = 128, warps = threads / simt::warp_threads;
  static constexpr std::size_t shared_bytes = warps * sizeof(float);
  float const* x;
  float* sum;
  std::int32_t n;

  PUREKV_DEVICE void operator()() const {
    simt::shared<float> const totals = simt::shared_memory<float>();
    std::int64_t const row = std::int64_t{simt::block_index().x} * n;
    std::int32_t const thread = simt::thread_index(), warp = simt::warp_index();
    float before = 0;  // this tile
    for (std::int32_t tile = 0; tile < n; tile += threads) {
      std::int32_t const i = tile + thread;
      float const here = simt::warp_scan(i < n ? x[row + i] : 0.0f);
      if (simt::lane_index() == 31) totals.store(warp, here);
      simt::sync();
      float below = before;
      for (std::int32_t w = 0; w < warps; ++w) {
        if (w < warp) below += totals.load(w);
        before += totals.load(w);
      }
      simt::sync();
      if (i < n) sum[row + i] = below + here;
    }
  }
};

/// c = a b for a : [rows, depth], b : [depth, columns] of 16-bit elements, c : [rows, columns] of float, all by rows.
/// depth and columns are multiples of 8. One block per 64 x 64 tile of c, 2 x 2 warps; while one slice of 32 is
/// multiplied the next is on its way.
template <simt::Half T> struct matrix_product {
  static constexpr std::int32_t threads = 128;
  static constexpr std::int32_t tile = 64, slice = 32, chunk = 8;                   // elements
  static constexpr std::int32_t a_stride = slice + chunk, b_stride = tile + chunk;  // no two rows in the same banks
  static constexpr std::int32_t a_size = tile * a_stride, stage_size = a_size + slice * b_stride;
  static constexpr std::size_t shared_bytes = 2 * stage_size * sizeof(T);

  T const *a, *b;
  float* c;
  std::int32_t rows, columns, depth;

  static simt::grid size(std::int32_t rows, std::int32_t columns) {
    return {(columns + tile - 1) / tile, (rows + tile - 1) / tile, 1};
  }

  PUREKV_DEVICE void operator()() const {
    std::int32_t const slices = (depth + slice - 1) / slice;
    simt::c_fragment sums[2][4] = {};
    fetch(0);
    for (std::int32_t s = 0; s < slices; ++s) {
      fetch(s + 1);
      simt::cp_async_wait<1>();
      simt::sync();
      multiply(s, sums);
      simt::sync();
    }
    write(sums);
  }

 private:
  PUREKV_DEVICE static simt::shared<T> a_tile(std::int32_t s) { return simt::shared_memory<T>() + s % 2 * stage_size; }
  PUREKV_DEVICE static simt::shared<T> b_tile(std::int32_t s) { return a_tile(s) + a_size; }
  PUREKV_DEVICE static std::int32_t first_row() { return simt::block_index().y * tile; }
  PUREKV_DEVICE static std::int32_t first_column() { return simt::block_index().x * tile; }

  /// Starts to copy slice s, a group; zeros stand for what lies outside.
  PUREKV_DEVICE void fetch(std::int32_t s) const {
    for (std::int32_t i = simt::thread_index(); i < tile * slice / chunk; i += threads) {
      std::int32_t const row = i / (slice / chunk), column = i % (slice / chunk) * chunk;
      copy(a_tile(s) + (row * a_stride + column), a, first_row() + row, rows, s * slice + column, depth);
    }
    for (std::int32_t i = simt::thread_index(); i < slice * tile / chunk; i += threads) {
      std::int32_t const row = i / (tile / chunk), column = i % (tile / chunk) * chunk;
      copy(b_tile(s) + (row * b_stride + column), b, s * slice + row, depth, first_column() + column, columns);
    }
    simt::cp_async_commit();
  }

  PUREKV_DEVICE static void copy(simt::shared<T> to, T const* from, std::int32_t row, std::int32_t all_rows,
                                 std::int32_t column, std::int32_t all_columns) {
    bool const inside = row < all_rows && column < all_columns;
    simt::cp_async<16>(to, inside ? from + std::int64_t{row} * all_columns + column : from, inside ? 16 : 0);
  }

  PUREKV_DEVICE static void multiply(std::int32_t s, simt::c_fragment (&sums)[2][4]) {
    std::int32_t const lane = simt::lane_index(), warp = simt::warp_index();
    for (std::int32_t k = 0; k < slice; k += 16) {
      simt::a_fragment left[2];
      for (std::int32_t i = 0; i < 2; ++i)
        left[i] = simt::ldmatrix<4>(a_tile(s) + ((warp / 2 * 32 + i * 16 + lane % 16) * a_stride + k + lane / 16 * 8));
      for (std::int32_t j = 0; j < 4; j += 2) {
        simt::matrices<4> const right = simt::ldmatrix_transposed<4>(
            b_tile(s) + ((k + lane % 16) * b_stride + warp % 2 * 32 + j * 8 + lane / 16 * 8));
        for (std::int32_t i = 0; i < 2; ++i) {
          sums[i][j] = simt::mma<T>(left[i], {right.at[0], right.at[1]}, sums[i][j]);
          sums[i][j + 1] = simt::mma<T>(left[i], {right.at[2], right.at[3]}, sums[i][j + 1]);
        }
      }
    }
  }

  PUREKV_DEVICE void write(simt::c_fragment const (&sums)[2][4]) const {
    std::int32_t const lane = simt::lane_index(), warp = simt::warp_index();
    for (std::int32_t i = 0; i < 2; ++i)
      for (std::int32_t j = 0; j < 4; ++j)
        for (std::int32_t n = 0; n < 4; ++n) {
          std::int32_t const row = first_row() + warp / 2 * 32 + i * 16 + lane / 4 + n / 2 * 8;
          std::int32_t const column = first_column() + warp % 2 * 32 + j * 8 + lane % 4 * 2 + n % 2;
          if (row < rows && column < columns) c[std::int64_t{row} * columns + column] = sums[i][j].at[n];
        }
  }
};

}  // namespace kernels
