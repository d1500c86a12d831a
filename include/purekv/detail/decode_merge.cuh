// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/batch.cuh>
#include <purekv/detail/decode_split.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// One row of the result from what the parts of its keys left, and the logit of its head's sink: a block takes a row,
/// its warps every so many parts.
template <class TQ, Cache C, class TO> struct merge_decode {
  static constexpr std::int32_t threads = 128, warps = threads / simt::warp_threads, width = 4;
  static constexpr std::int32_t passes = 256 / (width * simt::warp_threads);  // over the dims
  static constexpr std::int32_t pitch = passes * width * simt::warp_threads;
  static constexpr std::int32_t shared_bytes = warps * pitch * 4;
  using pack = simt::pack<float, width>;

  query_view<TQ> q;
  C cache;
  decode_tables tables;
  decode_results results;
  rows_view<TO> out;
  float* lse;
  std::ptrdiff_t lse_stride;

  static std::int32_t blocks(rows_view<TO> const& out) {
    std::int64_t const wanted = std::int64_t{out.heads} * out.tokens;
    return wanted < INT32_MAX ? static_cast<std::int32_t>(wanted) : INT32_MAX;
  }

  PUREKV_DEVICE void operator()() const {
    std::int64_t const rows = std::int64_t{out.heads} * out.tokens;
    for (std::int64_t i = simt::block_index().x; i < rows; i += simt::grid_size().x) {
      merge_row(static_cast<std::int32_t>(i % out.heads), static_cast<std::int32_t>(i / out.heads));
      simt::sync();
    }
  }

 private:
  PUREKV_DEVICE void merge_row(std::int32_t head, std::int32_t token) const {
    std::int32_t const s = sequence_of(q.batch, token), group = q.rows.heads / cache.kv_heads;
    std::int32_t const row = (token - q.begin(s)) * group + head % group;
    decode_head const of = tables.heads[s * cache.kv_heads + head / group];
    std::int64_t const first = of.row_part + std::int64_t{row} * of.parts;
    std::int32_t const lane = simt::lane_index(), warp = simt::warp_index();
    float const sink = sink_logit(q, head);

    float top = sink, sum = 0;
    for (std::int32_t p = lane; p < of.parts; p += simt::warp_threads) {
      float const of_part = results.top[first + p];
      top = of_part > top ? of_part : top;
    }
    top = simt::warp_max(top);
    float const shift = top == hidden_logit ? 0 : top;
    for (std::int32_t p = lane; p < of.parts; p += simt::warp_threads)
      sum += simt::exp2(results.top[first + p] - shift) * results.sum[first + p];
    sum = simt::warp_sum(sum) + simt::exp2(sink - shift);

    float total[passes][width] = {};
    for (std::int32_t p = warp; p < of.parts; p += warps) {
      float const weight = simt::exp2(results.top[first + p] - shift) / sum;
      if (!(weight > 0)) continue;  // what counts for nothing may hold NaN or inf; 0 / 0 where nothing is seen
      float const* const part = results.out + (first + p) * out.dim;
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < passes; ++n) {
        std::int32_t const d = column(n);
        if (d >= out.dim) continue;
        pack const x = simt::load_global(reinterpret_cast<pack const*>(part + d));
        PUREKV_DEVICE_UNROLL
        for (std::int32_t j = 0; j < width; ++j) total[n][j] += weight * x.at[j];
      }
    }
    simt::shared<float> const of_warps = simt::shared_memory<float>();
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < passes; ++n) {
      pack mine;
      PUREKV_DEVICE_UNROLL
      for (std::int32_t j = 0; j < width; ++j) mine.at[j] = total[n][j];
      (of_warps + (warp * pitch + column(n))).template as<pack>().store(0, mine);
    }
    simt::sync();
    TO* const to = out.row(head, token);
    for (std::int32_t d = simt::thread_index(); d < out.dim; d += threads) {
      float all = of_warps.load(d);
      for (std::int32_t w = 1; w < warps; ++w) all += of_warps.load(w * pitch + d);
      to[d] = static_cast<TO>(all);
    }
    if (lse != nullptr && simt::thread_index() == 0)
      lse[head * lse_stride + token] = top == hidden_logit ? hidden_logit : top + simt::log2(sum);
  }

  PUREKV_DEVICE static std::int32_t column(std::int32_t pass) {
    return (pass * simt::warp_threads + simt::lane_index()) * width;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
