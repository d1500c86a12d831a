// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/gpu.cuh>
#include <purekv/simt/launch.hpp>
#include <purekv/simt/thread.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// to[i] = values[i], which travel in the parameters of the launch: the way from the host to the device that needs no
/// copy, so that it can be captured.
template <class T, std::int32_t Most> struct put_values {
  static constexpr std::int32_t threads = 64;
  T* to;
  std::int32_t count;
  T values[Most];

  PUREKV_DEVICE void operator()() const {
    for (std::int32_t i = simt::thread_index(); i < count; i += threads) to[i] = values[i];
  }
};

/// Most: of a launch, whose parameters have 32764 bytes at most.
template <std::int32_t Most = 64, class T> status put(gpu const& exec, T const* from, T* to, std::int32_t count) {
  for (std::int32_t first = 0; first < count; first += Most) {
    put_values<T, Most> kernel{to + first, count - first < Most ? count - first : Most, {}};
    for (std::int32_t i = 0; i < kernel.count; ++i) kernel.values[i] = from[first + i];
    if (status const s = simt::launch({}, 0, exec.stream, kernel); !s.ok()) return s;
  }
  return {};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
