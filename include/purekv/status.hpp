// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>
#if defined(__cpp_exceptions)
#include <stdexcept>
#endif

namespace purekv::inline v0_1 {

enum class errc {
  ok,
  bad_shape,            // zero or negative sizes, heads not a multiple of kv_heads, overlapping strides, overflow
  mismatch,             // two arguments that must agree do not
  null_data,            // a null pointer where the shape says there is data
  workspace_too_small,  // ask the operation's *_workspace function
  capacity_exceeded,    // a cache or a selection cannot hold the result
  bad_positions,        // positions not strictly ascending, or not covered by the layout
  bad_policy,           // a budget, pattern or schedule that cannot be met
  not_ready,            // a source that has not been scored yet
  launch_failed,        // the device refused a kernel; a simulated one found a bug in it
  unsupported_device,   // a GPU or CPU that the code is not made for, or a stream of another GPU
  bad_pointer,          // memory that a device does not reach, or that is not aligned as it must be
};

/// What a host entry point returns. `message` is static text that names the function and says what is wrong; after an
/// error every buffer is as it was before the call.
struct [[nodiscard]] status {
  errc code = errc::ok;
  char const* message = "";

  PUREKV_INLINE constexpr bool ok() const { return code == errc::ok; }

#if defined(__cpp_exceptions)
  PUREKV_HOST_INLINE void or_throw() const {
    if (!ok()) throw std::runtime_error(message);
  }
#endif
};

}  // namespace purekv::inline v0_1
