// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cpu.hpp>
#include <purekv/detail/check_selection.hpp>
#include <purekv/detail/move_rows.hpp>
#include <purekv/detail/values_in_keys.hpp>

namespace purekv::inline v0_1 {

/// Per-token data of the caller that moves with the tokens: row_bytes bytes at data + cache.slot(s, h, t) * row_bytes.
struct token_track {
  void* data = nullptr;
  std::ptrdiff_t row_bytes = 0;
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

inline constexpr std::int32_t compact_chunk = 128;  // tokens of one head that a rank copies at a time

inline status check_tracks(token_track const* tracks, int count) {
  if (count < 0) return {errc::bad_shape, "compact: the number of tracks is negative"};
  if (count > 0 && tracks == nullptr) return {errc::null_data, "compact: tracks is null"};
  for (int i = 0; i < count; ++i) {
    if (tracks[i].row_bytes <= 0) return {errc::bad_shape, "compact: the rows of a track have no bytes"};
    if (tracks[i].data == nullptr) return {errc::null_data, "compact: data of a track is null"};
  }
  return {};
}

/// From the first to the last byte that something reaches.
struct memory_span {
  std::uintptr_t begin = UINTPTR_MAX, end = 0;
  void cover(void const* data, std::int64_t bytes) {
    auto const first = reinterpret_cast<std::uintptr_t>(data);
    begin = first < begin ? first : begin;
    end = first + static_cast<std::uintptr_t>(bytes) > end ? first + static_cast<std::uintptr_t>(bytes) : end;
  }
  bool overlaps(memory_span const& other) const { return begin < other.end && other.begin < end; }
};

struct cache_span {
  memory_span keys, values, positions;

  template <Cache C> explicit cache_span(C const& cache) {
    for (std::int32_t s = 0; s < cache.sequences; ++s)
      for (std::int32_t h = 0; h < cache.kv_heads; ++h)
        for (std::int32_t t = 0; t < cache.capacity(s, h);) {
          auto const run = cache.run(s, h, t);
          auto const bytes = [&](std::ptrdiff_t stride, std::int32_t dim) {
            return ((run.tokens - 1) * stride + dim) * std::int64_t{sizeof(typename C::element)};
          };
          keys.cover(run.keys, bytes(run.stride, cache.dim));
          values.cover(run.values, bytes(run.value_stride, value_dim_of(cache)));
          positions.cover(run.positions, run.tokens * std::int64_t{sizeof(std::int32_t)});
          t += run.tokens;
        }
  }
  bool overlaps(cache_span const& other) const {
    return keys.overlaps(other.keys) || keys.overlaps(other.values) || values.overlaps(other.keys) ||
           values.overlaps(other.values) || positions.overlaps(other.positions);
  }
};

template <Cache C, Cache D> bool share_lengths(C const& a, D const& b) {
  if constexpr (requires { a.lengths == b.lengths; }) return a.lengths == b.lengths;
  if constexpr (requires { a.extents == b.extents; }) return a.extents == b.extents;
  return false;
}

template <Cache C, Cache D> status check_compact_view(selection const& kept, C const& source, D const& destination) {
  if (status const s = source.check_view(); !s.ok()) return s;
  if (status const s = destination.check_view(); !s.ok()) return s;
  if (source.sequences != destination.sequences || source.kv_heads != destination.kv_heads ||
      source.dim != destination.dim || value_dim_of(source) != value_dim_of(destination))
    return {errc::mismatch, "compact: source and destination differ in sequences, kv_heads, dim or value_dim"};
  if (status const s = check_selection_view(kept, source.sequences, source.kv_heads); !s.ok()) return s;
  if (share_lengths(source, destination))
    return {errc::bad_shape, "compact: source and destination share their lengths; to compact in place give one cache"};
  return {};
}

template <Cache C, Cache D> status check_apart(C const& source, D const& destination) {
  if (cache_span(source).overlaps(cache_span(destination)))
    return {errc::bad_shape, "compact: source and destination overlap; to compact in place give one cache"};
  return {};
}

template <Cache C, Cache D> status check_compact(selection const& kept, C const& source, D const& destination) {
  if (status const s = check_compact_view(kept, source, destination); !s.ok()) return s;
  if (status const s = source.check(); !s.ok()) return s;
  if (status const s = destination.check(); !s.ok()) return s;
  if (status const s = check_selection(kept, source); !s.ok()) return s;
  for (std::int32_t s = 0; s < source.sequences; ++s)
    for (std::int32_t h = 0; h < source.kv_heads; ++h)
      if (kept.count(kept.row_of(s, h, source.kv_heads)) > destination.capacity(s, h))
        return {errc::capacity_exceeded, "compact: a head of the destination cannot hold its kept tokens"};
  return check_apart(source, destination);
}

template <Cache C> void set_lengths(selection const& kept, C const& cache) {
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    for (std::int32_t h = 0; h < cache.kv_heads; ++h)
      cache.set_length(s, h, kept.count(kept.row_of(s, h, cache.kv_heads)));
}

}  // namespace detail

/// Token i of each head becomes what was token kept[i]: key, value, position and every track move together, ascending,
/// and the length becomes the number of kept tokens. Slots beyond it keep what they held; nothing else is touched.
/// kept : ascending ordinals below the length of each head; tracks : [track_count], not overlapping each other.
template <Cache C>
status compact(cpu exec, selection const& kept, C const& cache, token_track const* tracks = nullptr,
               int track_count = 0) {
  if (status const s = cache.check(); !s.ok()) return s;
  if (status const s = detail::check_selection(kept, cache); !s.ok()) return s;
  if (status const s = detail::check_tracks(tracks, track_count); !s.ok()) return s;
  exec.sync();

  // Within a head one row may land where another was, so a head is one task for each thing that moves.
  constexpr std::int64_t element_bytes = sizeof(typename C::element);
  std::int64_t task = 0;
  auto const mine = [&] { return task++ % exec.size() == exec.rank(); };
  for (std::int32_t s = 0; s < cache.sequences; ++s)
    for (std::int32_t h = 0; h < cache.kv_heads; ++h) {
      std::int32_t const row = kept.row_of(s, h, cache.kv_heads);
      std::int32_t const* const tokens = kept.tokens(row);
      std::int32_t const count = kept.count(row);
      auto const move = [&](std::int64_t bytes, auto const& at) { detail::move_rows(tokens, count, bytes, at); };
      if (mine()) move(cache.dim * element_bytes, [&](std::int32_t t) { return cache.run(s, h, t).keys; });
      if (mine() && !(count > 0 && detail::values_in_keys(cache, s, h)))
        move(value_dim_of(cache) * element_bytes, [&](std::int32_t t) { return cache.run(s, h, t).values; });
      if (mine()) detail::move_numbers(tokens, count, [&](std::int32_t t) { return cache.run(s, h, t).positions; });
      for (int i = 0; i < track_count; ++i)
        if (mine())
          move(tracks[i].row_bytes, [&](std::int32_t t) {
            return static_cast<std::byte*>(tracks[i].data) + cache.slot(s, h, t) * tracks[i].row_bytes;
          });
    }
  exec.sync();

  if (exec.rank() == 0) detail::set_lengths(kept, cache);
  exec.sync();
  return {};
}

/// Token i of each head of `destination` becomes token kept[i] of `source`, rounded to the destination's element type;
/// its lengths become the numbers of kept tokens, what it held before is forgotten, and `source` stays as it is.
/// The memory of the two, from the first to the last row, must not overlap.
template <Cache C, Cache D> status compact(cpu exec, selection const& kept, C const& source, D const& destination) {
  if (status const s = detail::check_compact(kept, source, destination); !s.ok()) return s;
  exec.sync();

  std::int64_t task = 0;
  for (std::int32_t s = 0; s < source.sequences; ++s)
    for (std::int32_t h = 0; h < source.kv_heads; ++h) {
      std::int32_t const row = kept.row_of(s, h, source.kv_heads);
      std::int32_t const* const tokens = kept.tokens(row);
      std::int32_t const count = kept.count(row);
      for (std::int32_t first = 0; first < count; first += detail::compact_chunk, ++task)
        if (task % exec.size() == exec.rank())
          detail::copy_rows(source, destination, s, h, tokens, first,
                            count - first < detail::compact_chunk ? count : first + detail::compact_chunk);
    }
  exec.sync();

  if (exec.rank() == 0) detail::set_lengths(kept, destination);
  exec.sync();
  return {};
}

/// The extents of a ragged cache that holds exactly the kept tokens and `slack` more per head, one after another, with
/// length 0: what `compact` fills. extents : [sequences, kv_heads]. Returns the slots it needs, or -1, writing nothing,
/// if slack is negative or a head would need more than 2^31 - 1 slots.
inline std::int64_t lay_out(selection const& kept, int sequences, int kv_heads, int slack, extent* extents) {
  if (slack < 0) return -1;
  for (std::int32_t row = 0; row < kept.rows; ++row)
    if (kept.count(row) > INT32_MAX - slack) return -1;
  std::int64_t begin = 0;
  for (std::int32_t s = 0; s < sequences; ++s)
    for (std::int32_t h = 0; h < kv_heads; ++h) {
      std::int32_t const capacity = kept.count(kept.row_of(s, h, kv_heads)) + slack;
      extents[std::int64_t{s} * kv_heads + h] = {begin, 0, capacity};
      begin += capacity;
    }
  return begin;
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
