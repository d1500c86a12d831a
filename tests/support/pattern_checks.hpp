// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/concepts.hpp>
#include <purekv/layout.hpp>

#include <algorithm>
#include <vector>

/// Brute force over what a pattern says of itself.
namespace test {

struct key_range {
  int first, last;
  bool full;
};

template <purekv::Pattern P> std::vector<key_range> ranges_of(P const& pattern, int q_first, int q_last) {
  std::vector<key_range> ranges;
  pattern.runs(q_first, q_last, [&](std::int32_t first, std::int32_t last, bool full) {
    ranges.push_back({first, last, full});
  });
  return ranges;
}

template <purekv::Pattern P> int horizon(P const& pattern, int q) {
  if constexpr (requires { pattern.last_visible(q); }) return pattern.last_visible(q);
  return q;
}

/// Ranges ascend and are disjoint; every visible pair lies in one; every pair of a full one is visible.
template <purekv::Pattern P> void check_ranges(P const& pattern, int q_first, int q_last, int heads = 2) {
  CAPTURE(q_first);
  CAPTURE(q_last);
  int const end = horizon(pattern, q_last);
  std::vector<int> kind(static_cast<std::size_t>(end) + 1, 0);  // of each key: 0 outside, 1 partial, 2 full
  int next = 0;
  bool in_order = true;
  for (key_range const& r : ranges_of(pattern, q_first, q_last)) {
    in_order = in_order && next <= r.first && r.first <= r.last && r.last <= end;
    next = r.last + 1;
    for (int k = r.first; in_order && k <= r.last; ++k) kind[static_cast<std::size_t>(k)] = r.full ? 2 : 1;
  }
  REQUIRE(in_order);
  for (int k = 0; k <= end; ++k) {
    int visible = 0, hidden = 0;
    for (int h = 0; h < heads; ++h)
      for (int q = q_first; q <= q_last; ++q)
        if (k <= horizon(pattern, q)) ++(pattern.visible(h, q, k) ? visible : hidden);
    CAPTURE(k);
    if (visible > 0) CHECK(kind[static_cast<std::size_t>(k)] != 0);
    if (hidden > 0) CHECK(kind[static_cast<std::size_t>(k)] != 2);
  }
}

/// The same for all ranges of up to `most` queries within `positions`, a sample of them if there are many.
template <purekv::Pattern P>
void check_all_ranges(test::random& random, P const& pattern, int positions, int most, int trials = 200) {
  for (int trial = 0; trial < trials; ++trial) {
    int const first = random.between(0, positions - 1);
    check_ranges(pattern, first, std::min(positions - 1, first + random.between(0, most - 1)));
  }
}

/// A random layout with all kinds of segments; streams repeat, frames of one stream may change their size.
inline std::vector<purekv::segment> random_segments(test::random& random, int count) {
  std::vector<purekv::segment> segments;
  int begin = 0;
  for (int i = 0; i < count; ++i) {
    purekv::segment s;
    s.kind = static_cast<purekv::modality>(random.between(0, 3));
    s.stream = random.between(0, 1);
    s.begin = begin;
    s.frames = s.kind == purekv::modality::video ? random.between(1, 5) : 1;
    bool const usual = random.between(0, 3) > 0;
    s.height = usual ? 3 : random.between(1, 4);
    s.width = usual ? 5 : random.between(1, 6);
    if (s.kind == purekv::modality::text) s.height = 1;
    segments.push_back(s);
    begin = s.end();
  }
  return segments;
}

}  // namespace test
