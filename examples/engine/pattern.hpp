// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/layout.hpp>
#include <purekv/pattern/custom.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/one_of.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

namespace engine {

/// Which tokens are text for the patterns below: those of no frame, and those that the layout does not cover.
struct text_positions {
  purekv::token_layout layout;

  bool has(std::int32_t position) const {
    return !layout.covers(position) || !layout.segments[layout.segment_of(position)].has_frames();
  }

  /// Of the positions [first, last]: empty if none is text, full if all are.
  purekv::coverage in(std::int32_t first, std::int32_t last) const {
    bool const text = has(first);
    std::int32_t next = first;
    while (next <= last && layout.covers(next)) {
      if (has(next) != text) return purekv::coverage::partial;
      next = layout.segments[layout.segment_of(next)].end();
    }
    if (text) return purekv::coverage::full;
    return next <= last ? purekv::coverage::partial : purekv::coverage::empty;
  }
};

/// Text sees, and is seen by, everything; tokens of frames see the last `window` positions.
struct sees_newest {
  text_positions text;
  std::int32_t window = 1;

  bool operator()(std::int32_t, std::int32_t q, std::int32_t k) const {
    return q - window < k || text.has(q) || text.has(k);
  }
  purekv::coverage operator()(std::int32_t q_first, std::int32_t q_last, std::int32_t k_first,
                              std::int32_t k_last) const {
    using purekv::coverage;
    coverage const asking = text.in(q_first, q_last), asked = text.in(k_first, k_last);
    if (asking == coverage::full || asked == coverage::full || q_last - window < k_first) return coverage::full;
    bool const none = asking == coverage::empty && asked == coverage::empty && k_last <= q_first - window;
    return none ? coverage::empty : coverage::partial;
  }
};

/// Text sees, and is seen by, everything; tokens of frames see themselves and `share` of the others, by a hash of the
/// two positions and the seed.
struct sees_at_random {
  text_positions text;
  double share = 1;
  std::uint64_t seed = 0;

  bool operator()(std::int32_t, std::int32_t q, std::int32_t k) const {
    return q == k || text.has(q) || text.has(k) || draw(q, k) < share;
  }
  purekv::coverage operator()(std::int32_t q_first, std::int32_t q_last, std::int32_t k_first,
                              std::int32_t k_last) const {
    using purekv::coverage;
    bool const all = text.in(q_first, q_last) == coverage::full || text.in(k_first, k_last) == coverage::full;
    return all ? coverage::full : coverage::partial;
  }

 private:
  /// In [0, 1): the finalizer of MurmurHash3 over both positions.
  double draw(std::int32_t q, std::int32_t k) const {
    std::uint64_t x = (static_cast<std::uint64_t>(q) << 32 | static_cast<std::uint32_t>(k)) + seed * 0x9e3779b97f4a7c15;
    for (std::uint64_t const factor : {0xff51afd7ed558ccd, 0xc4ceb9fe1a85ec53}) x = (x ^ x >> 33) * factor;
    return static_cast<double>((x ^ x >> 33) >> 11) * 0x1p-53;
  }
};

using newest_and_text = purekv::custom<sees_newest, sees_newest, false>;
using random_and_text = purekv::custom<sees_at_random, sees_at_random, false>;

/// What attention computes, chosen at run time. The layouts that patterns read are the caller's. Those of
/// spatial_temporal must cover all positions up to the last answer.
using pattern =
    purekv::one_of<purekv::dense, purekv::sliding_window, purekv::spatial_temporal, newest_and_text, random_and_text>;

}  // namespace engine
