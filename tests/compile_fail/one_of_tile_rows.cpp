// expect: the alternatives want different tile_rows
// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/one_of.hpp>

struct in_small_tiles : purekv::dense {
  static constexpr std::int32_t tile_rows = 32;
};

purekv::one_of<purekv::dense, in_small_tiles> const wrong{purekv::dense{}};
