// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/barrier.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// What a lane can send to another one: 32 bits.
template <class T>
concept Register = sizeof(T) == 4 && std::is_trivially_copyable_v<T>;

#if !defined(__CUDACC__)
namespace detail {

template <class T> struct shuffled {
  T value;
  std::int32_t from;
};

/// Every lane gets the value of lane `from`.
template <Register T> T exchange(T value, std::int32_t from, std::uint32_t mask, char const* operation, site here) {
  shuffled<T> mine = {value, from};
  running->together(mask, operation, here, mine, [&](shuffled<T>* const* lanes) {
    T values[32];
    for (int lane = 0; lane < 32; ++lane)
      if (lanes[lane] != nullptr) values[lane] = lanes[lane]->value;
    for (int lane = 0; lane < 32; ++lane)
      if (lanes[lane] != nullptr) {
        if (lanes[lanes[lane]->from] == nullptr)
          running->fail(bug::divergence, here, [&] {
            return sentence("lane ", lane, " reads that of lane ", lanes[lane]->from, ", which takes no part in ",
                            operation);
          });
        lanes[lane]->value = values[lanes[lane]->from];
      }
  });
  return mine.value;
}

inline std::uint32_t vote(bool mine, std::uint32_t mask, char const* operation, site here) {
  struct slot {
    bool yes;
    std::uint32_t votes;
  } s = {mine, 0};
  running->together(mask, operation, here, s, [](slot* const* lanes) {
    std::uint32_t votes = 0;
    for (int lane = 0; lane < 32; ++lane)
      if (lanes[lane] != nullptr && lanes[lane]->yes) votes |= 1u << lane;
    for (int lane = 0; lane < 32; ++lane)
      if (lanes[lane] != nullptr) lanes[lane]->votes = votes;
  });
  return s.votes;
}

}  // namespace detail
#endif

/// The value of lane `lane`, 0 .. 31, which may differ from lane to lane.
template <Register T>
PUREKV_DEVICE T shuffle(T value, std::int32_t lane, std::uint32_t mask = all_lanes,
                        [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  return __shfl_sync(mask, value, lane);
#else
  return detail::exchange(value, lane & 31, mask, "shuffle", here);
#endif
}

/// The value of lane `lane_index() ^ bits`.
template <Register T>
PUREKV_DEVICE T shuffle_xor(T value, std::int32_t bits, std::uint32_t mask = all_lanes,
                            [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  return __shfl_xor_sync(mask, value, bits);
#else
  return detail::exchange(value, (lane_index() ^ bits) & 31, mask, "shuffle_xor", here);
#endif
}

/// The value of the lane `distance` below, 0 .. 31; the first lanes, which have none, keep their own.
template <Register T>
PUREKV_DEVICE T shuffle_up(T value, std::int32_t distance, std::uint32_t mask = all_lanes,
                           [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  return __shfl_up_sync(mask, value, static_cast<unsigned>(distance));
#else
  std::int32_t const lane = lane_index();
  return detail::exchange(value, lane < distance ? lane : lane - distance, mask, "shuffle_up", here);
#endif
}

/// The value of the lane `distance` above, 0 .. 31; the last lanes, which have none, keep their own.
template <Register T>
PUREKV_DEVICE T shuffle_down(T value, std::int32_t distance, std::uint32_t mask = all_lanes,
                             [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  return __shfl_down_sync(mask, value, static_cast<unsigned>(distance));
#else
  std::int32_t const lane = lane_index();
  return detail::exchange(value, lane + distance > 31 ? lane : lane + distance, mask, "shuffle_down", here);
#endif
}

/// One bit for each lane of the mask that says yes.
PUREKV_DEVICE std::uint32_t ballot(bool yes, std::uint32_t mask = all_lanes,
                                   [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  return __ballot_sync(mask, yes);
#else
  return detail::vote(yes, mask, "ballot", here);
#endif
}

PUREKV_DEVICE bool any(bool yes, std::uint32_t mask = all_lanes, [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  return __any_sync(mask, yes) != 0;
#else
  return detail::vote(yes, mask, "any", here) != 0;
#endif
}

PUREKV_DEVICE bool all(bool yes, std::uint32_t mask = all_lanes, [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  return __all_sync(mask, yes) != 0;
#else
  return detail::vote(yes, mask, "all", here) == mask;
#endif
}

/// The sum over all lanes, in every lane, added as a butterfly: the same bits in every lane and on every executor.
template <Register T> PUREKV_DEVICE T warp_sum(T value, site here = site::caller()) {
  for (std::int32_t bits = 16; bits > 0; bits /= 2) value = value + shuffle_xor(value, bits, all_lanes, here);
  return value;
}

/// The largest over all lanes, in every lane; a NaN loses against every number.
template <Register T> PUREKV_DEVICE T warp_max(T value, site here = site::caller()) {
  for (std::int32_t bits = 16; bits > 0; bits /= 2) {
    T const other = shuffle_xor(value, bits, all_lanes, here);
    value = other > value || value != value ? other : value;
  }
  return value;
}

/// The sum of whole numbers over all lanes, modulo 2^32, in every lane: one instruction.
PUREKV_DEVICE std::uint32_t reduce_add(std::uint32_t value, site here = site::caller()) {
#if defined(__CUDACC__)
  return __reduce_add_sync(all_lanes, value);
#else
  return warp_sum(value, here);
#endif
}

/// The sum of value over the lanes up to and including this one.
template <Register T> PUREKV_DEVICE T warp_scan(T value, site here = site::caller()) {
  for (std::int32_t distance = 1; distance < warp_threads; distance *= 2) {
    T const below = shuffle_up(value, distance, all_lanes, here);
    if (lane_index() >= distance) value = value + below;
  }
  return value;
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
