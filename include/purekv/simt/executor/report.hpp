// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/site.hpp>

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

enum class bug {
  none,
  divergence,     // lanes that a warp-wide operation names do something else, or an operation names no such lanes
  deadlock,       // a barrier that not all of its threads reach
  race,           // two threads touch the same shared bytes, one of them writes, and no barrier orders them
  uninitialised,  // shared memory that this block has not written is read
  in_flight,      // shared memory is used while a cp.async into it has not been waited for
  out_of_bounds,  // outside the shared memory of the launch
  misaligned,     // an address that is not a multiple of what the access needs
};

/// What is wrong with a kernel: the first bug of a launch, which ends it.
struct report {
  bug kind = bug::none;
  std::string text;
};

namespace detail {

inline void append(std::string& text, std::string_view part) { text.append(part); }
inline void append(std::string& text, site where) {
  std::string_view file = where.file;
  if (std::size_t const slash = file.rfind('/'); slash != file.npos) file.remove_prefix(slash + 1);
  text.append(file).append(":").append(std::to_string(where.line));
}
template <std::integral N> void append(std::string& text, N number) { text.append(std::to_string(number)); }

/// One sentence of strings, numbers and sites.
template <class... Parts> std::string sentence(Parts const&... parts) {
  std::string text;
  (append(text, parts), ...);
  return text;
}

/// "thread 3" or "threads 0-31, 40".
inline std::string name_threads(std::vector<std::int32_t> const& ascending) {
  std::string text = ascending.size() == 1 ? "thread " : "threads ";
  for (std::size_t i = 0; i < ascending.size();) {
    std::size_t last = i;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    if (i > 0) append(text, ", ");
    append(text, ascending[i]);
    if (last > i) append(text, sentence("-", ascending[last]));
    i = last + 1;
  }
  return text;
}

/// The threads of a warp that a mask names.
inline std::string name_lanes(std::int32_t warp, std::uint32_t mask) {
  std::vector<std::int32_t> threads;
  for (std::int32_t lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1u) != 0) threads.push_back(warp * 32 + lane);
  return name_threads(threads);
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
