// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/status.hpp>

#include <cstdint>

namespace purekv::inline v0_1 {

enum class modality : std::int32_t { text, image, video, audio };

/// A stretch of tokens of one kind, frame-major: token (t, y, x) lies at begin + (t * height + y) * width + x.
struct segment {
  modality kind = modality::text;
  std::int32_t stream = 0;  // which video, image or speaker
  std::int32_t begin = 0;   // position of the first token
  std::int32_t frames = 1, height = 1, width = 1;
  float t0 = 0, dt = 1;  // seconds of the first frame, seconds per frame

  PUREKV_INLINE constexpr std::int32_t tokens() const { return frames * height * width; }
  PUREKV_INLINE constexpr std::int32_t frame_tokens() const { return height * width; }
  PUREKV_INLINE constexpr std::int32_t end() const { return begin + tokens(); }
  PUREKV_INLINE constexpr bool has_frames() const { return kind == modality::image || kind == modality::video; }

  PUREKV_INLINE static constexpr segment text(std::int32_t begin, std::int32_t tokens) {
    return {.begin = begin, .width = tokens};
  }
  PUREKV_INLINE static constexpr segment video(std::int32_t begin, std::int32_t frames, std::int32_t height,
                                               std::int32_t width) {
    return {.kind = modality::video, .begin = begin, .frames = frames, .height = height, .width = width};
  }
};

/// Where a position lies: segment `segment`, frame t, row y, column x.
struct coordinates {
  std::int32_t segment, t, y, x;
};

/// What each position of a sequence is: a caller-owned table of adjacent segments that starts at position 0.
/// It covers positions, not cache slots, so it stays right after eviction.
struct token_layout {
  segment const* segments = nullptr;  // [count], each beginning where the one before ends
  std::int32_t count = 0;

  PUREKV_INLINE constexpr std::int32_t tokens() const { return count > 0 ? segments[count - 1].end() : 0; }
  PUREKV_INLINE constexpr bool covers(std::int32_t position) const { return position >= 0 && position < tokens(); }

  /// Precondition: covers(position).
  PUREKV_INLINE constexpr std::int32_t segment_of(std::int32_t position) const {
    std::int32_t low = 0, high = count - 1;
    while (low < high) {
      std::int32_t const middle = low + (high - low + 1) / 2;
      if (segments[middle].begin <= position)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }

  PUREKV_INLINE constexpr coordinates at(std::int32_t position) const {
    std::int32_t const index = segment_of(position);
    segment const& s = segments[index];
    std::int32_t const offset = position - s.begin;
    std::int32_t const place = offset % s.frame_tokens();
    return {index, offset / s.frame_tokens(), place / s.width, place % s.width};
  }
};

PUREKV_INLINE constexpr status validate(token_layout const& layout) {
  if (layout.count < 0) return {errc::bad_shape, "token_layout: negative number of segments"};
  if (layout.count > 0 && layout.segments == nullptr) return {errc::null_data, "token_layout: segments is null"};
  std::int64_t end = 0;
  for (std::int32_t i = 0; i < layout.count; ++i) {
    segment const& s = layout.segments[i];
    if (s.frames <= 0 || s.height <= 0 || s.width <= 0)
      return {errc::bad_shape, "token_layout: a segment has no frames, height or width"};
    if (s.begin != end) return {errc::bad_shape, "token_layout: a segment does not begin where the one before ends"};
    std::int64_t const place = std::int64_t{s.height} * s.width;
    if (place > INT32_MAX || place * s.frames > INT32_MAX - end)
      return {errc::bad_shape, "token_layout: more than 2^31 - 1 tokens"};
    end += place * s.frames;
  }
  return {};
}

}  // namespace purekv::inline v0_1
