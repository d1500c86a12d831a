// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// Where an intrinsic was called, for the reports of the simulated device. Every intrinsic ends with a parameter
/// `site here = site::caller()`; a helper that wants its own caller named takes one too and passes it on.
struct site {
  char const* file = "";
  int line = 0;

  PUREKV_INLINE static constexpr site caller(char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  PUREKV_INLINE friend constexpr bool operator==(site a, site b) { return a.file == b.file && a.line == b.line; }
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
