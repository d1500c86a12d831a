// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// An estimator that says what it is given: the attention mass of the last Queries queries, per query head.
template <std::int32_t Queries, mass_reduction By = mass_reduction::sum> struct received_mass {
  static constexpr score_rows rows = score_rows::heads;
  static constexpr std::int32_t mass_queries = Queries;
  static constexpr mass_reduction mass_by = By;

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape) { return 0; }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float*) const {
    for_each_score<rows>(team, in, [&](std::int32_t row, std::int32_t, std::int32_t t) {
      out.row(row)[t] = in.mass[row * in.mass_stride + t];
    });
    team.sync();
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
