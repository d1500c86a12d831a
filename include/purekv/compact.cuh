// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/compact.hpp>
#include <purekv/detail/change_lengths.cuh>
#include <purekv/detail/check.cuh>
#include <purekv/detail/compact_rows.cuh>
#include <purekv/detail/lay_out.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// A row of `bytes` bytes as words of 16 where it lies at multiples of 16, else of single elements.
inline row_words words_of(std::int64_t bytes, bool aligned, std::int32_t element_bytes, std::int32_t along) {
  std::int32_t const width = aligned && bytes % 16 == 0 ? 16 / element_bytes : 1;
  std::int32_t const word = width * element_bytes;
  return row_words::of(bytes / element_bytes, width, along > word ? along / word : 1);
}

inline row_words words_of(token_track const& track, std::int32_t along) {
  std::uintptr_t const multiple =
      reinterpret_cast<std::uintptr_t>(track.data) | static_cast<std::uintptr_t>(track.row_bytes);
  std::int32_t const width = multiple % 16 == 0 ? 16 : multiple % 4 == 0 ? 4 : 1;
  return row_words::of(track.row_bytes, width, along / width);
}

/// How many bytes of a row one block moves: the more, the fewer blocks wait for one list of tokens; but a batch of few
/// heads shall fill the device.
inline std::int32_t column_bytes(gpu const& exec, std::int64_t heads, std::int64_t row_bytes) {
  std::int32_t bytes = 128;
  while (bytes > 16 && heads * (row_bytes / bytes) < exec.device.multiprocessors) bytes /= 2;
  return bytes;
}

template <Cache C>
status check_compact(gpu const& exec, selection const& kept, C const& cache, token_track const* tracks, int count) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = cache.check_view(); !s.ok()) return s;
  if (status const s = check_selection_view(kept, cache.sequences, cache.kv_heads); !s.ok()) return s;
  if (status const s = check_tracks(tracks, count); !s.ok()) return s;
  for (int i = 0; i < count; ++i)
    if (status const s = check_reachable(exec, static_cast<std::byte const*>(tracks[i].data)); !s.ok()) return s;
  if (status const s = check_reachable(exec, kept.offset, kept.token); !s.ok()) return s;
  return check_reachable_cache(exec, cache);
}

template <Cache C, Cache D>
status check_compact(gpu const& exec, selection const& kept, C const& source, D const& destination) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_compact_view(kept, source, destination); !s.ok()) return s;
  // Where the heads of a ragged cache lie, only the device knows.
  if constexpr (
      !requires { source.extents; } && !requires { destination.extents; })
    if (status const s = check_apart(source, destination); !s.ok()) return s;
  if (status const s = check_reachable(exec, kept.offset, kept.token); !s.ok()) return s;
  if (status const s = check_reachable_cache(exec, source); !s.ok()) return s;
  return check_reachable_cache(exec, destination);
}

}  // namespace detail

/// As on the CPU. A selection that fits the cache is a precondition. The host reads `tracks`, the device what they
/// point to.
template <Cache C>
status compact(gpu const& exec, selection const& kept, C const& cache, token_track const* tracks = nullptr,
               int track_count = 0) {
  if (status const s = detail::check_compact(exec, kept, cache, tracks, track_count); !s.ok()) return s;
  using move = detail::compact_rows<C>;
  constexpr std::int32_t element_bytes = sizeof(typename C::element), position_bytes = sizeof(std::int32_t);
  std::int64_t const key_bytes = std::int64_t{cache.dim} * element_bytes;
  std::int64_t const value_bytes = std::int64_t{value_dim_of(cache)} * element_bytes;
  std::int32_t const heads = cache.sequences * cache.kv_heads;
  std::int32_t const along = detail::column_bytes(exec, heads, key_bytes + value_bytes);
  bool const aligned = detail::aligned16(cache);
  for (std::int64_t first = 0; first < 3 + std::int64_t{track_count}; first += move::most) {
    move kernel{cache, kept, {}, static_cast<std::int32_t>(first)};
    std::int64_t columns = 1;
    std::int32_t count = 0;
    for (; count < move::most && first + count < 3 + std::int64_t{track_count}; ++count) {
      std::int64_t const number = first + count;
      detail::moving_rows& m = kernel.moving[count];
      if (number < 2)
        m.row = detail::words_of(number == 0 ? key_bytes : value_bytes, aligned, element_bytes, along);
      else if (number == 2)
        m.row = detail::words_of(position_bytes, false, position_bytes, along);
      else {
        token_track const& track = tracks[number - 3];
        m = {static_cast<std::byte*>(track.data), track.row_bytes, detail::words_of(track, along)};
      }
      std::int64_t const needed = ((m.row.count - 1) >> m.row.shift) + 1;
      columns = columns < needed ? needed : columns;
    }
    simt::grid const blocks = {
        heads, static_cast<std::int32_t>(columns < move::most_columns ? columns : move::most_columns), count};
    if (status const s = simt::launch(blocks, 0, exec.stream, kernel); !s.ok()) return s;
  }
  return detail::launch_lengths(exec, cache, detail::kept_length{kept});
}

/// As on the CPU. A selection that fits the source, and room in the destination, are preconditions, and so is that
/// ragged caches do not overlap; tokens for which there is no slot are not copied.
template <Cache C, Cache D>
status compact(gpu const& exec, selection const& kept, C const& source, D const& destination) {
  if (status const s = detail::check_compact(exec, kept, source, destination); !s.ok()) return s;
  using copy = detail::compact_copy<C, D>;
  constexpr std::int32_t along = 32;  // threads of a row: a warp reads whole ones
  bool const aligned = detail::aligned16(source) && detail::aligned16(destination);
  auto const words = [&](std::int32_t dim) {
    return detail::row_words::of(dim, aligned && dim % copy::wide == 0 ? copy::wide : 1, along);
  };
  copy const kernel{
      source, destination, kept, {words(source.dim), words(value_dim_of(source)), detail::row_words::of(1, 1, 1)}};
  // No more blocks than the device holds four times, which take tiles in turn: how many a head has, the host cannot
  // see.
  std::int32_t const heads = source.sequences * source.kv_heads;
  std::int64_t const tiles = kept.capacity / detail::smaller(kernel.rows[0].tile(), kernel.rows[1].tile()) + 1;
  std::int64_t const turns =
      std::int64_t{4} * copy::min_blocks * exec.device.multiprocessors / (std::int64_t{3} * heads) + 1;
  simt::grid const blocks = {heads, static_cast<std::int32_t>(tiles < turns ? tiles : turns), 3};
  if (status const s = simt::launch(blocks, 0, exec.stream, kernel); !s.ok()) return s;
  return detail::launch_lengths(exec, destination, detail::kept_length{kept});
}

/// The same layout as on the CPU, and into `slots` the slots that it needs, or -1, and no extent, if a head would need
/// more than 2^31 - 1 of them. extents : [sequences, kv_heads].
inline status lay_out(gpu const& exec, selection const& kept, int sequences, int kv_heads, int slack, extent* extents,
                      std::int64_t* slots) {
  if (status const s = detail::check_gpu(exec); !s.ok()) return s;
  if (sequences <= 0 || kv_heads <= 0 || slack < 0)
    return {errc::bad_shape, "lay_out: sequences and kv_heads must be positive, slack not negative"};
  if (extents == nullptr || slots == nullptr || kept.offset == nullptr)
    return {errc::null_data, "lay_out: extents, slots or offset of the selection is null"};
  if (status const s = detail::check_selection_view(kept, sequences, kv_heads); !s.ok()) return s;
  if (status const s = detail::check_reachable(exec, kept.offset, extents, slots); !s.ok()) return s;
  using kernel = detail::lay_out_extents;
  return simt::launch({}, kernel::shared_bytes, exec.stream, kernel{kept, kv_heads, slack, extents, slots});
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
