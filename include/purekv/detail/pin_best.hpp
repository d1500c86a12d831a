// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/positions.hpp>
#include <purekv/detail/top_k.hpp>
#include <purekv/team.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

// A rank of a CPU takes the heads it gets one after another. The many ranks of a GPU take a head together, in
// `pin_parts` parts: digit after digit from the top, every part counts its keys, and the counts say on which digit the
// cut lies.
inline constexpr std::int32_t pin_parts = 64, pin_digit_bits = 4, pin_digits = 1 << pin_digit_bits;

/// What a head's counts have said so far: the keys above the cut's upper digits are in, of those with these digits
/// `left` are still missing.
struct pin_state {
  std::uint32_t digits, left;
};

/// 32-bit words of scratch that pin_best wants.
PUREKV_HD constexpr std::int64_t pin_best_words(std::int64_t heads, std::int64_t tokens) {
  std::int64_t const counts = pin_parts * pin_digits + 2;
  return heads * (tokens > counts ? tokens : counts);
}

template <class Team, class Tokens, class Count>
PUREKV_HD void pin_best_by_many(Team const& team, std::uint32_t* keys, std::ptrdiff_t stride, std::int32_t heads,
                                Tokens const& tokens, Count const& count, std::uint32_t* scratch) {
  auto const counts = [&](std::int32_t head, std::int32_t part) {
    return scratch + (std::ptrdiff_t{head} * pin_parts + part) * pin_digits;
  };
  std::uint32_t* const states = scratch + std::ptrdiff_t{heads} * pin_parts * pin_digits;
  // f(head, part, begin, end) for the tokens of a part.
  auto const each_part = [&](auto const& f) {
    for_share(team, heads * pin_parts, [&](std::int32_t i) {
      std::int32_t const head = i / pin_parts, part = i % pin_parts;
      std::int64_t const n = tokens(head);
      f(head, part, static_cast<std::int32_t>(n * part / pin_parts),
        static_cast<std::int32_t>(n * (part + 1) / pin_parts));
    });
  };

  for (std::int32_t shift = 32 - pin_digit_bits; shift >= 0; shift -= pin_digit_bits) {
    bool const first = shift == 32 - pin_digit_bits;
    each_part([&](std::int32_t head, std::int32_t part, std::int32_t begin, std::int32_t end) {
      std::uint32_t found[pin_digits] = {};
      std::uint32_t const* const key = keys + head * stride;
      for (std::int32_t t = begin; t < end; ++t)
        if (first || key[t] >> shift >> pin_digit_bits == states[2 * head]) ++found[(key[t] >> shift) % pin_digits];
      for (std::int32_t d = 0; d < pin_digits; ++d) counts(head, part)[d] = found[d];
    });
    team.sync();
    for_share(team, heads, [&](std::int32_t head) {
      std::uint32_t const upper = first ? 0 : states[2 * head];
      std::uint32_t left = first ? static_cast<std::uint32_t>(count(head)) : states[2 * head + 1], digit = pin_digits;
      for (std::uint32_t here = 0;; left -= here) {
        --digit;
        here = 0;
        for (std::int32_t p = 0; p < pin_parts; ++p) here += counts(head, p)[digit];
        if (here >= left || digit == 0) break;
      }
      states[2 * head] = upper << pin_digit_bits | digit;
      states[2 * head + 1] = left;
    });
    team.sync();
  }
  each_part([&](std::int32_t head, std::int32_t part, std::int32_t begin, std::int32_t end) {
    if (count(head) == 0) return;
    std::uint32_t const cut = states[2 * head];
    std::int64_t ties = states[2 * head + 1];
    for (std::int32_t p = 0; p < part; ++p) ties -= counts(head, p)[cut % pin_digits];
    std::uint32_t* const key = keys + head * stride;
    for (std::int32_t t = begin; t < end; ++t)
      if (key[t] > cut || (key[t] == cut && ties-- > 0)) key[t] = pinned_key;
  });
  team.sync();
}

/// Makes the largest count(head) keys of every head ones that are kept in any case; of equal ones those in front.
/// keys : [heads, tokens(head)], rows `stride` apart; count(head) at most tokens(head). All ranks call it.
template <class Team, class Tokens, class Count>
PUREKV_HD void pin_best(Team const& team, std::uint32_t* keys, std::ptrdiff_t stride, std::int32_t heads,
                        Tokens const& tokens, Count const& count, std::uint32_t* scratch) {
  if constexpr (is_interleaved<Team>()) {
    pin_best_by_many(team, keys, stride, heads, tokens, count, scratch);
  } else {
#if !defined(__CUDA_ARCH__)
    for (std::int32_t head = team.rank(); head < heads; head += team.size())
      if (count(head) > 0)
        pin_above(keys + head * stride, tokens(head),
                  find_cut(keys + head * stride, tokens(head), count(head), scratch + head * stride));
    team.sync();
#endif
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
