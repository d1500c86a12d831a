// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What attention on the CPU costs, in (lane, key) pairs of a block of rows; bench/attend.cpp.
struct attend_cost {
  /// Widening a key and its value once for all rows of a tile: tiles of 64 rows lose a tenth against tiles of 256.
  static constexpr std::int32_t widening = 7;

  /// A key that one query sees, with the `group` heads of the query, by the kernel of decoding.
  static constexpr std::int64_t scattered(std::int64_t pairs, std::int32_t group) {
    return pairs * (2 + 3 * group / 2);
  }

  /// What the queries of a tile pay if any of its runs is scattered: their rows are laid out once more.
  static constexpr std::int64_t scattering(std::int32_t queries, std::int32_t group) {
    return std::int64_t{queries} * (16 + 10 * group);
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
