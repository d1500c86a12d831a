// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>

namespace purekv::inline v0_1 {

/// value_dim 0: values are as wide as keys.
struct model_shape {
  std::int32_t layers = 0, heads = 0, kv_heads = 0, dim = 0, value_dim = 0;

  PUREKV_INLINE std::int32_t value_width() const { return value_dim != 0 ? value_dim : dim; }
};

}  // namespace purekv::inline v0_1
