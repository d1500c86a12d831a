// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/simd.hpp>

#include <algorithm>
#include <cstddef>
#include <ctime>
#include <fstream>
#include <string>
#include <vector>

/// What one core of this machine can do, measured where and when it is asked for.
namespace machine {

/// CPU time of this thread: what neighbours on the machine take is not counted, what they slow down is.
inline double seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

inline float volatile sink;

/// Float operations per second of fused multiply-adds that touch nothing but registers.
[[gnu::noinline]] inline double multiply_add_rate(long rounds = 2'000'000) {
  namespace simd = purekv::detail;
  constexpr int chains = 12;  // more than latency x issue width, and all in registers for every instruction set
  simd::vec sum[chains];
  for (int c = 0; c < chains; ++c) sum[c] = simd::splat(0.001f * static_cast<float>(c));
  simd::vec const factor = simd::splat(0.999f), step = simd::splat(1e-4f);
  double const start = seconds();
  for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = simd::fma(sum[c], factor, step);
  double const time = seconds() - start;
  simd::vec all{};
  for (int c = 0; c < chains; ++c) all += sum[c];
  sink = all[0];
  return static_cast<double>(rounds) * chains * simd::lanes * 2 / time;
}

/// Bytes of the last-level cache, 32 MiB where the system does not say.
inline std::size_t last_level_cache() {
  std::size_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
    std::size_t size = 0;
    char unit = 0;
    if (file >> size) {
      file >> unit;
      largest = std::max(largest, size * (unit == 'M' ? 1024u * 1024 : unit == 'K' ? 1024u : 1u));
    }
  }
  return largest > 0 ? largest : std::size_t{32} << 20;
}

/// Bytes per second of reading memory once, in order, a buffer of twice the last-level cache.
class streaming_read {
 public:
  streaming_read()
      : data_(std::max<std::size_t>(2 * last_level_cache(), std::size_t{64} << 20) / sizeof(float), 1.0f) {}

  [[gnu::noinline]] double operator()() const {
    namespace simd = purekv::detail;
    constexpr std::size_t vectors = 8, step = vectors * simd::lanes;
    simd::vec sum[vectors] = {};
    double const start = seconds();
    for (std::size_t i = 0; i + step <= data_.size(); i += step)
#pragma GCC unroll 8
      for (std::size_t v = 0; v < vectors; ++v) sum[v] += simd::load(data_.data() + i + v * simd::lanes);
    double const time = seconds() - start;
    simd::vec all{};
    for (simd::vec const& s : sum) all += s;
    sink = all[0];
    return static_cast<double>(data_.size() * sizeof(float)) / time;
  }

 private:
  std::vector<float> data_;
};

}  // namespace machine
