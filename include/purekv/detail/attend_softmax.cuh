// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/logits.cuh>
#include <purekv/detail/mma_tile.cuh>
#include <purekv/simt/warp.hpp>

#include <cmath>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The first column of each 8 that a lane holds of a fragment of sums; the next one is its other.
PUREKV_DEVICE std::int32_t column_of_lane() { return simt::lane_index() % 4 * 2; }

/// The online softmax of the rows of a warp: what a lane holds of `Blocks` blocks of 16 rows, of each the rows lane / 4
/// and lane / 4 + 8.
template <std::int32_t Blocks, std::int32_t Width> struct softmax_rows {
  static constexpr std::int32_t columns = Width / 8;  // of 8

  simt::c_fragment sums[Blocks][columns];
  float top[Blocks][2];    // largest logit so far
  float total[Blocks][2];  // of exp2(logit - top), over the keys that this lane has met

  /// One step of the online softmax: scores become exp2(scale * score - top).
  template <std::int32_t Groups>
  PUREKV_DEVICE void step(simt::c_fragment (&scores)[Blocks][Groups], float scale, bool guarded) {
    float rescale[Blocks][2];
    bool grown = false;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < Blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < 2; ++i) {
        float most = hidden_logit;
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < Groups; ++n)
          most = ::fmaxf(most, ::fmaxf(scores[b][n].at[2 * i], scores[b][n].at[2 * i + 1]));
        most = ::fmaxf(most, simt::shuffle_xor(most, 1));
        most = ::fmaxf(most, simt::shuffle_xor(most, 2));
        float const now = ::fmaxf(top[b][i], most * scale);
        grown = grown || now != top[b][i];
        rescale[b][i] = simt::exp2(top[b][i] - now);
        top[b][i] = now;
        float added = 0;
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < Groups; ++n) {
          PUREKV_DEVICE_UNROLL
          for (std::int32_t e = 2 * i; e < 2 * i + 2; ++e) {
            scores[b][n].at[e] = simt::exp2(::fmaf(scores[b][n].at[e], scale, -now));
            added += scores[b][n].at[e];
          }
        }
        total[b][i] = ::fmaf(total[b][i], rescale[b][i], added);
      }
    }
    if (!simt::any(grown)) return;  // most steps, once a row has met its largest logit
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < Blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < columns; ++n) {
        PUREKV_DEVICE_UNROLL
        for (std::int32_t e = 0; e < 4; ++e) {
          float const factor = rescale[b][e / 2];
          sums[b][n].at[e] = guarded && factor == 0 ? 0 : sums[b][n].at[e] * factor;
        }
      }
    }
  }

  /// sums += weights . values, but for those whose weight is 0: as multiply_values, where values are inf or NaN.
  template <class T, std::int32_t Groups>
  PUREKV_DEVICE void multiply_one_by_one(simt::c_fragment const (&weights)[Blocks][Groups],
                                         mma_tile<T, Width> const& values, std::int32_t count) {
    for (std::int32_t slot = 0; slot < count; ++slot) {
      float weight[Blocks][2] = {};
      PUREKV_DEVICE_UNROLL
      for (std::int32_t b = 0; b < Blocks; ++b) {
        PUREKV_DEVICE_UNROLL
        for (std::int32_t i = 0; i < 2; ++i) {
          PUREKV_DEVICE_UNROLL
          for (std::int32_t n = 0; n < Groups; ++n) {
            float const low = weights[b][n].at[2 * i], high = weights[b][n].at[2 * i + 1];
            weight[b][i] = n == slot / 8 ? slot % 2 == 0 ? low : high : weight[b][i];
          }
          weight[b][i] = simt::shuffle(weight[b][i], simt::lane_index() / 4 * 4 + slot % 8 / 2);
        }
      }
      auto const row = values.at(slot, column_of_lane()).template as<std::uint32_t>();
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < columns; ++n) {
        auto const two = simt::unpack2<T>(row.load(n * 4));
        PUREKV_DEVICE_UNROLL
        for (std::int32_t b = 0; b < Blocks; ++b) {
          PUREKV_DEVICE_UNROLL
          for (std::int32_t i = 0; i < 2; ++i) {
            float &low = sums[b][n].at[2 * i], &high = sums[b][n].at[2 * i + 1];
            low = weight[b][i] != 0 ? ::fmaf(weight[b][i], two.low, low) : low;
            high = weight[b][i] != 0 ? ::fmaf(weight[b][i], two.high, high) : high;
          }
        }
      }
    }
  }

  PUREKV_DEVICE void add_lanes() {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < Blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < 2; ++i) {
        total[b][i] += simt::shuffle_xor(total[b][i], 1);
        total[b][i] += simt::shuffle_xor(total[b][i], 2);
      }
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
