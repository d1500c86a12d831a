// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/merge.hpp>
#include <purekv/simt/copy.hpp>
#include <purekv/simt/math.hpp>
#include <purekv/simt/warp.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Parts that travel in the parameters of a launch.
template <class T, std::int32_t Most> struct carried_parts {
  partial<T> part[Most];

  PUREKV_DEVICE partial<T> const& operator[](std::int32_t p) const { return part[p]; }
};

/// A warp takes a row. Parts: carried_parts, or a pointer to them in device memory. Width elements are moved at once,
/// at multiples of their size.
template <class T, class Parts, std::int32_t Width> struct merge_rows {
  static constexpr std::int32_t threads = 128, warps = threads / simt::warp_threads;
  using pack = simt::pack<T, Width>;

  Parts parts;
  std::int32_t count;
  rows_view<T> out;
  float* lse;
  std::ptrdiff_t lse_stride;

  static std::int32_t blocks(rows_view<T> const& out) {
    std::int64_t const wanted = (std::int64_t{out.heads} * out.tokens + warps - 1) / warps;
    return wanted < INT32_MAX ? static_cast<std::int32_t>(wanted) : INT32_MAX;
  }

  PUREKV_DEVICE void operator()() const {
    std::int64_t const rows = std::int64_t{out.heads} * out.tokens, step = std::int64_t{simt::grid_size().x} * warps;
    for (std::int64_t row = std::int64_t{simt::block_index().x} * warps + simt::warp_index(); row < rows; row += step)
      merge_row(static_cast<std::int32_t>(row / out.tokens), static_cast<std::int32_t>(row % out.tokens));
  }

 private:
  PUREKV_DEVICE float lse_of(std::int32_t p, std::int32_t head, std::int32_t token) const {
    return p < count ? weighable(parts[p].lse[head * parts[p].lse_stride + token]) : hidden_logit;
  }

  PUREKV_DEVICE void merge_row(std::int32_t head, std::int32_t token) const {
    std::int32_t const lane = simt::lane_index();
    float top = hidden_logit, sum = 0;
    for (std::int32_t p = 0; p < count; p += simt::warp_threads) {
      float const of_part = lse_of(p + lane, head, token);
      top = of_part > top ? of_part : top;
    }
    top = simt::warp_max(top);
    for (std::int32_t p = 0; p < count && top != hidden_logit; p += simt::warp_threads)
      sum += simt::exp2(lse_of(p + lane, head, token) - top);
    sum = simt::warp_sum(sum);

    for (std::int32_t d = lane * Width; d < out.dim; d += simt::warp_threads * Width) {
      float total[Width] = {};
      for (std::int32_t p = 0; p < count && top != hidden_logit; ++p) {
        float const weight = simt::exp2(lse_of(p, head, token) - top) / sum;
        if (weight == 0) continue;  // what counts for nothing may hold NaN or inf
        pack const x = simt::load_global(reinterpret_cast<pack const*>(parts[p].out.row(head, token) + d));
        PUREKV_DEVICE_UNROLL
        for (std::int32_t i = 0; i < Width; ++i) total[i] += weight * static_cast<float>(x.at[i]);
      }
      pack merged;
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < Width; ++i) merged.at[i] = static_cast<T>(total[i]);
      simt::store_global(reinterpret_cast<pack*>(out.row(head, token) + d), merged);
    }
    simt::sync_warp();  // lse may be that of a part, which the other lanes have read by now
    if (lse != nullptr && lane == 0)
      lse[head * lse_stride + token] = top == hidden_logit ? hidden_logit : top + simt::log2(sum);
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
