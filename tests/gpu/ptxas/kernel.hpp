// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/launch.hpp>

/// What a kernel may use at most, on every architecture; check.cmake reads the numbers and compares them with what
/// ptxas says. Spilled registers lie on the stack, so that stack(0) allows none.
namespace ptxas {

constexpr std::size_t shared(std::size_t bytes) { return bytes; }

/// Whether a kernel whose shared memory is the same for all shapes has as much as its line says.
template <class K> constexpr bool has_shared(std::size_t bytes) {
  if constexpr (requires { K::shared_bytes; })
    return static_cast<std::size_t>(K::shared_bytes) == bytes;
  else if constexpr (requires { K::layout::end; })
    return static_cast<std::size_t>(K::layout::end) == bytes;
  else
    return true;
}

}  // namespace ptxas

// KERNEL(name, registers(most), stack(most), shared(bytes), kernel) compiles a kernel as simt::launch would start it,
// under a name that needs no demangling.
#define KERNEL(name, registers, stack, bytes, ...)                                                                    \
  static_assert(ptxas::has_shared<__VA_ARGS__>(ptxas::bytes), #name ": other shared memory than stated");             \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__::threads, purekv::simt::detail::min_blocks<__VA_ARGS__>()) \
      name(__grid_constant__ __VA_ARGS__ const kernel) {                                                              \
    kernel();                                                                                                         \
  }
