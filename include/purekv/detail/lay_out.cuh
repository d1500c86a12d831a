// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/selection.hpp>
#include <purekv/simt/atomic.hpp>
#include <purekv/simt/barrier.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The extents of kept tokens, by one block, so that none is written unless all rows fit. What lies before a row
/// follows from the selection's offset, which is a prefix sum already.
struct lay_out_extents {
  static constexpr std::int32_t threads = 512;
  static constexpr std::size_t shared_bytes = sizeof(std::uint32_t);
  selection kept;
  std::int32_t kv_heads, slack;
  extent* extents;
  std::int64_t* slots;

  PUREKV_DEVICE void operator()() const {
    auto const count = [&](std::int32_t row) { return kept.offset[row + 1] - kept.offset[row]; };
    simt::shared<std::uint32_t> const too_many = simt::shared_memory<std::uint32_t>();
    if (simt::thread_index() == 0) too_many.store(0, 0);
    simt::sync();
    for (std::int64_t row = simt::thread_index(); row < kept.rows; row += threads)
      if (count(static_cast<std::int32_t>(row)) > INT32_MAX - slack) simt::atomic_max(too_many, 1);
    simt::sync();
    bool const fits = too_many.load(0) == 0;

    std::int32_t const heads = kept.scope == selection_scope::layer ? kv_heads : 1;  // that share a row
    if (simt::thread_index() == 0)
      *slots = fits ? heads * (kept.offset[kept.rows] - kept.offset[0] + std::int64_t{kept.rows} * slack) : -1;
    if (!fits) return;
    for (std::int64_t i = simt::thread_index(); i < std::int64_t{kept.rows} * heads; i += threads) {
      std::int32_t const row = static_cast<std::int32_t>(i / heads);
      std::int64_t const capacity = count(row) + slack;
      std::int64_t const before = heads * (kept.offset[row] - kept.offset[0] + std::int64_t{row} * slack);
      extents[i] = {before + i % heads * capacity, 0, static_cast<std::int32_t>(capacity)};
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
