// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/find_cut.cuh>
#include <purekv/detail/keep_rows.cuh>
#include <purekv/detail/share_ties.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The launches of a selection, none any more once one has failed. Policies and scores are behind them when the tokens
/// have been ranked: what follows is about keys.
template <class Tiles> class select_rows {
 public:
  select_rows(gpu const& exec, select_shape const& shape, row_memory const& memory)
      : exec_(exec), shape_(shape), memory_(memory) {
    std::int64_t const blocks = (memory.zeros - 1) / clear_words::threads + 1, most = 8 * exec.device.multiprocessors;
    start(blocks < most ? blocks : most, 0,
          clear_words{reinterpret_cast<std::uint32_t*>(memory.row_cuts), memory.zeros});
  }

  template <class K> void start(std::int64_t blocks, std::size_t shared_bytes, K const& kernel) {
    if (status_.ok())
      status_ = simt::launch({.x = static_cast<std::int32_t>(blocks)}, shared_bytes, exec_.stream, kernel);
  }

  /// Every row what it wants for itself.
  void keep_alone() {
    find(memory_.row_cuts, memory_.keys, 1);
    if (shape_.blocks > 1) count(memory_.row_cuts, 1);
  }

  /// Every row what is guaranteed to it, and every group the best of all its rows. order_ties() says which of the equal
  /// ones come first, if it is not the order of rows.
  template <class Order> void keep_together(Order const& order_ties) {
    using pin = pin_kept<Tiles>;
    keep_alone();
    each_range(pin{memory_, shape_.blocks});
    find(memory_.group_cuts, memory_.keys, shape_.rows_per_group);
    order_ties();
    count(memory_.group_cuts, shape_.rows_per_group);
    start(shape_.groups(), share_cut::shared_bytes, share_cut{memory_, shape_.rows_per_group, shape_.blocks});
  }

  /// Of equal scores, those at lower positions first, then those of lower heads.
  template <Cache C> void order_ties_by_position(C const& cache) {
    start(std::int64_t{shape_.rows} * shape_.blocks, 0, rank_ties<C, Tiles>{memory_, cache, shape_.blocks});
    find(memory_.tie_cuts, memory_.tie_keys, shape_.rows_per_group);
    start(shape_.groups(), end_ties<C>::shared_bytes, end_ties<C>{memory_, cache});
  }

  status put(selection const& out, std::int32_t layers, std::int32_t sequences) {
    start(1, put_offsets::shared_bytes, put_offsets{memory_.rows, out, layers, sequences});
    each_range(put_kept<Tiles>{memory_, shape_.blocks, out});
    return status_;
  }

 private:
  template <class K> void each_range(K const& kernel) {
    start(std::int64_t{shape_.rows} * shape_.blocks, K::shared_bytes, kernel);
  }

  void find(cut_search* searches, std::uint32_t const* keys, std::int32_t rows_per_search) {
    using digits = find_cut_digits<Tiles>;
    std::int32_t const at_once = shape_.blocks > 1 || rows_per_search > 1 ? 1 : digits::digits;
    for (std::int32_t d = 0; d < digits::digits; d += at_once)
      each_range(
          digits{keys, memory_.rows, searches, memory_.histograms, shape_.blocks, rows_per_search, d, d + at_once});
  }

  void count(cut_search const* cuts, std::int32_t rows_per_cut) {
    each_range(count_kept<Tiles>{memory_, cuts, rows_per_cut, shape_.blocks});
  }

  gpu const& exec_;
  select_shape shape_;
  row_memory memory_;
  status status_;
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
