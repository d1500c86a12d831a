// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// How many blocks a launch has, or which of them one is.
struct grid {
  std::int32_t x = 1, y = 1, z = 1;
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
