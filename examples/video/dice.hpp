// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace video {

/// Random numbers that are the same on every machine, which the distributions of the standard library are not
/// (splitmix64). Every (seed, index) is a sequence of its own.
class dice {
 public:
  dice(std::uint64_t seed, std::uint64_t index) : state_(seed) { state_ = next() ^ (index * 0xD1342543DE82EF95); }

  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

  /// 0 .. n - 1
  int below(int n) { return static_cast<int>(((next() >> 32) * static_cast<std::uint64_t>(n)) >> 32); }

  /// The sum of four digits -radius .. radius: a bell of deviation about 1.2 radius.
  int noise(int radius) {
    std::uint64_t const width = 2 * static_cast<std::uint64_t>(radius) + 1, bits = next();
    int sum = -4 * radius;
    for (int shift = 0; shift < 64; shift += 16) sum += static_cast<int>((((bits >> shift) & 0xFFFF) * width) >> 16);
    return sum;
  }

 private:
  std::uint64_t state_;
};

}  // namespace video
