// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/copy.hpp>

#include <type_traits>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// How the threads of a block share rows that they move: 256 x 8 loads of 16 bytes are 32 KB under way, more than one
/// multiprocessor takes from memory within its latency; with a second block others load while one waits at a barrier.
struct move_tuning {
  static constexpr std::int32_t threads = 256, words = 8, blocks = 2;
};

/// A row as words, each moved by one instruction; 2^shift threads stand side by side along it.
struct row_words {
  std::int64_t count = 0;
  std::int32_t width = 1;  // elements of a word
  std::int32_t shift = 0;

  /// `most` : of the threads along a row, a power of two.
  static row_words of(std::int64_t elements, std::int32_t width, std::int32_t most) {
    row_words row{elements / width, width, 0};
    while (1 << row.shift < most && std::int64_t{1} << row.shift < row.count) ++row.shift;
    return row;
  }
  /// Rows that a block holds at a time.
  PUREKV_HD std::int32_t tile() const { return move_tuning::threads * move_tuning::words >> shift; }
};

/// A word on its way: as registers of 4 bytes where its elements stay what they are, or as elements.
template <class From, class To, std::int32_t Width>
using held_word = std::conditional_t<std::is_same_v<From, To> && Width * sizeof(From) % 4 == 0,
                                     simt::pack<std::uint32_t, static_cast<std::int32_t>(Width * sizeof(From) / 4)>,
                                     simt::pack<From, Width>>;

template <class To, class From, std::int32_t N>
PUREKV_DEVICE simt::pack<To, N> convert_word(simt::pack<From, N> const& from) {
  simt::pack<To, N> to;
  PUREKV_DEVICE_UNROLL
  for (std::int32_t i = 0; i < N; ++i) to.at[i] = static_cast<To>(static_cast<float>(from.at[i]));
  return to;
}

/// Moves a tile of rows, of each the 2^shift words from `column` on, rounded to the type of the targets: row r goes
/// from source(r), null where it stays, to target(r). All of it is read, then all threads call between(), then it is
/// written. Width : row.width; r : 0 .. row.tile() - 1.
template <std::int32_t Width, class Source, class Target, class Between>
PUREKV_DEVICE void move_tile(row_words const& row, std::int64_t column, Source const& source, Target const& target,
                             Between const& between) {
  using From = std::remove_cvref_t<decltype(*source(0))>;
  using To = std::remove_cvref_t<decltype(*target(0))>;
  constexpr std::int32_t words = move_tuning::words;
  std::int64_t const word = column + (simt::thread_index() & ((1 << row.shift) - 1));
  auto const row_of = [&](std::int32_t i) { return (i * move_tuning::threads + simt::thread_index()) >> row.shift; };
  // All addresses come first, and without a branch: tables that lie in memory are then asked once, not at every row.
  From const* from[words];
  To* to[words];
  PUREKV_DEVICE_UNROLL
  for (std::int32_t i = 0; i < words; ++i) {
    std::int32_t const r = row_of(i);
    from[i] = source(r);
    bool const moves = word < row.count && from[i] != nullptr;
    To* const at = target(moves ? r : 0) + word * Width;
    to[i] = moves ? at : nullptr;
  }
  held_word<From, To, Width> held[words];
  PUREKV_DEVICE_UNROLL
  for (std::int32_t i = 0; i < words; ++i)
    if (to[i] != nullptr)
      held[i] = __builtin_bit_cast(
          held_word<From, To, Width>,
          simt::load_global(reinterpret_cast<simt::pack<From, Width> const*>(from[i] + word * Width)));
  between();
  PUREKV_DEVICE_UNROLL
  for (std::int32_t i = 0; i < words; ++i) {
    if (to[i] == nullptr) continue;
    auto* const at = reinterpret_cast<simt::pack<To, Width>*>(to[i]);
    if constexpr (std::is_same_v<From, To>)
      simt::store_global(at, __builtin_bit_cast(simt::pack<To, Width>, held[i]));
    else
      simt::store_global(at, convert_word<To>(held[i]));
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
