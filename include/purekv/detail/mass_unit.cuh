// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/logits.cuh>
#include <purekv/detail/mass_shape.cuh>
#include <purekv/detail/mma_tile.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What a warp makes of its keys and of 16 queries of one head: products, then probabilities, then what the columns of
/// a lane give to each of its keys.
template <simt::Half T, std::int32_t Width> struct mass_unit {
  using shape = mass_shape<Width>;
  using tile = mma_tile<T, Width>;
  static constexpr std::int32_t fragments = shape::warp_keys / 16, row_sums = 2 * fragments;

  PUREKV_DEVICE static std::int32_t quarter() { return simt::lane_index() % 4; }

  /// The column of number x of the four that a lane has in each row of a unit.
  PUREKV_DEVICE static std::int32_t column_of(std::int32_t x) { return x / 2 * 8 + quarter() * 2 + x % 2; }

  PUREKV_DEVICE static void multiply(simt::a_fragment const (&left)[fragments][Width / 16], tile const& queries,
                                     std::int32_t column, simt::c_fragment (&products)[fragments][2]) {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < fragments; ++i) products[i][0] = products[i][1] = {};
    PUREKV_DEVICE_UNROLL
    for (std::int32_t k = 0; k < Width / 16; ++k) {
      simt::matrices<4> const right = queries.right_by_rows(column, k * 16);
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < fragments; ++i) {
        products[i][0] = simt::mma<T>(left[i][k], first_half(right), products[i][0]);
        products[i][1] = simt::mma<T>(left[i][k], second_half(right), products[i][1]);
      }
    }
  }

  /// Products become probabilities. of_columns: the log-sum-exp of the queries.
  PUREKV_DEVICE static void weigh(simt::c_fragment (&products)[fragments][2], simt::shared<float> const& of_columns,
                                  logit_rule const& rule) {
    float l[4];
    // Without a cap, exp2(scale * product - lse) is all there is to it, unless a product is NaN or has to be clamped:
    // a difference is not of ordinary size then, or the lse is not.
    // Fused by name, for otherwise compilers fuse one of the two and not the other, and inf - inf is -inf here, NaN
    // there.
    auto const fused = [&](float product, float lse) { return __builtin_fmaf(product, rule.scale, -lse); };
    bool ordinary = rule.cap == 0;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t x = 0; x < 4; ++x) {
      l[x] = of_columns.load(column_of(x));
      l[x] = l[x] == hidden_logit ? -hidden_logit : l[x];  // a query that saw nothing weighs nothing
      ordinary = ordinary && l[x] > -0x1p120f;
      PUREKV_DEVICE_UNROLL
      for (std::int32_t j = 0; j < row_sums; ++j) ordinary = ordinary && fused(at(products, j, x), l[x]) < 128;
    }
    if (ordinary)
      weigh_by(products, l, fused);
    else
      weigh_by(products, l, [&](float product, float lse) { return rule(product) - lse; });
  }

  /// Nothing of keys that a column does not see: visible, of this lane's columns, as bits of the warp's keys.
  PUREKV_DEVICE static void hide(simt::c_fragment (&shares)[fragments][2], std::uint32_t const (&visible)[4]) {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t x = 0; x < 4; ++x) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t j = 0; j < row_sums; ++j)
        if ((visible[x] >> (j * 8 + simt::lane_index() / 4) & 1) == 0) at(shares, j, x) = 0;
    }
  }

  /// Joins the probabilities of each key over the columns of this lane.
  PUREKV_DEVICE static void gather(simt::c_fragment const (&shares)[fragments][2], float (&own)[row_sums],
                                   mass_reduction by) {
    if (by == mass_reduction::sum)
      gather_by(shares, own, [](float a, float b) { return a + b; });
    else
      gather_by(shares, own, [](float a, float b) { return a > b ? a : b; });
  }

 private:
  /// What a lane has of key number j of its four or two, column number x.
  template <class Fragment> PUREKV_DEVICE static auto& at(Fragment& all, std::int32_t j, std::int32_t x) {
    return all[j / 2][x / 2].at[j % 2 * 2 + x % 2];
  }

  template <class Difference>
  PUREKV_DEVICE static void weigh_by(simt::c_fragment (&products)[fragments][2], float const (&l)[4],
                                     Difference const& difference) {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t x = 0; x < 4; ++x) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t j = 0; j < row_sums; ++j) {
        float& p = at(products, j, x);
        p = simt::exp2(difference(p, l[x]));
      }
    }
  }

  template <class Join>
  PUREKV_DEVICE static void gather_by(simt::c_fragment const (&shares)[fragments][2], float (&own)[row_sums],
                                      Join const& join) {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t x = 0; x < 4; ++x) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t j = 0; j < row_sums; ++j) own[j] = join(own[j], shares[j / 2][x / 2].at[j % 2 * 2 + x % 2]);
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
