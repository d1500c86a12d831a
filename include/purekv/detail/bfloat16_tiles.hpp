// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/bfloat16_dot.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

#if defined(PUREKV_HAS_BFLOAT16_TILES)

inline constexpr std::int32_t tile_side = 16;  // rows of a matrix register, and 32-bit lanes of one

/// What LDTILECFG reads: 8 tiles of 16 rows of 64 bytes. 0 to 3 are for sums, 4 for keys, 5 for queries, and 6 and 7
/// for the `rest` pairs of rows of keys and of queries that fill no tile.
struct alignas(64) tile_shapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  explicit tile_shapes(std::int32_t rest) {
    for (std::int32_t t = 0; t < (rest != 0 ? 8 : 6); ++t) {
      row_bytes[t] = static_cast<std::uint16_t>(4 * (t == 6 ? rest : tile_side));
      rows[t] = static_cast<std::uint8_t>(t == 7 ? rest : tile_side);
    }
  }
};
static_assert(sizeof(tile_shapes) == 64);

/// The matrix registers (AMX) of the calling thread, while it lives, for rows of so many pairs. What the thread had in
/// them is lost. The system must have been asked for them (request_tiles()). Strides are in floats.
#if !defined(PUREKV_BFLOAT16_DOT_IN_SOFTWARE)
class matrix_tiles {
 public:
  explicit matrix_tiles(std::int32_t pairs) {
    tile_shapes const shapes(pairs % tile_side);
    asm volatile("ldtilecfg %0" : : "m"(shapes));
  }
  matrix_tiles(matrix_tiles const&) = delete;
  ~matrix_tiles() { asm volatile("tilerelease"); }

  template <int tile> void zero() { asm volatile("tilezero %%tmm%c0" : : "i"(tile)); }
  template <int tile> void load(float const* from, std::ptrdiff_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(tile), "r"(from), "r"(4 * stride) : "memory");
  }
  template <int tile> void store(float* to, std::ptrdiff_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(tile), "r"(to), "r"(4 * stride) : "memory");
  }
  /// sum[m][n] += (sum over k of keys[m][k].second * queries[k][n].second) + the same of the firsts.
  template <int sum, int keys, int queries> void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(keys), "i"(queries));
  }
};
#else
class matrix_tiles {
 public:
  explicit matrix_tiles(std::int32_t pairs) : shapes_(pairs % tile_side) {}
  matrix_tiles(matrix_tiles const&) = delete;

  template <int tile> void zero() { __builtin_memset(tile_[tile], 0, sizeof tile_[tile]); }
  template <int tile> void load(float const* from, std::ptrdiff_t stride) {
    zero<tile>();
    for (std::int32_t r = 0; r < shapes_.rows[tile]; ++r)
      __builtin_memcpy(tile_[tile][r], from + r * stride, shapes_.row_bytes[tile]);
  }
  template <int tile> void store(float* to, std::ptrdiff_t stride) {
    for (std::int32_t r = 0; r < shapes_.rows[tile]; ++r)
      __builtin_memcpy(to + r * stride, tile_[tile][r], shapes_.row_bytes[tile]);
  }
  template <int sum, int keys, int queries> void multiply() {
    for (std::int32_t m = 0; m < tile_side; ++m)
      for (std::int32_t n = 0; n < tile_side; ++n) {
        float firsts = 0, seconds = 0;
        for (std::int32_t k = 0; k < shapes_.row_bytes[keys] / 4; ++k) {
          pair const a(tile_[keys][m][k]), b(tile_[queries][k][n]);
          firsts = normal(__builtin_fmaf(a.first, b.first, firsts));
          seconds = normal(__builtin_fmaf(a.second, b.second, seconds));
        }
        tile_[sum][m][n] = normal(normal(tile_[sum][m][n]) + normal(firsts + seconds));
      }
  }

 private:
  static float normal(float x) {
    return (__builtin_bit_cast(std::uint32_t, x) & 0x7f800000u) == 0 ? __builtin_copysignf(0, x) : x;
  }
  struct pair {
    float first, second;
    explicit pair(float both)
        : first(normal(__builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, both) << 16))),
          second(normal(__builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, both) & 0xffff0000u))) {}
  };

  tile_shapes shapes_;
  float tile_[8][tile_side][tile_side] = {};
};
#endif

/// scores : [count, block_lanes] = scale * keys : [count, dim] times queries : [dim, block_lanes], both in pairs. Whole
/// tiles of keys are read and of scores written, whatever count is.
inline void multiply_key_pairs(matrix_tiles& tiles, float const* keys, std::int32_t count, float const* queries,
                               std::int32_t dim, float scale, float* scores) {
  constexpr std::int32_t side = tile_side, sums = block_lanes / side;
  static_assert(sums >= 1 && sums <= 4 && block_lanes % side == 0);
  std::int32_t const pairs = pairs_of(dim), whole = pairs / side * side;
  auto const each_sum = [](auto const& f) {
    f.template operator()<0>();
    if constexpr (sums > 1) f.template operator()<1>();
    if constexpr (sums > 2) f.template operator()<2>();
    if constexpr (sums > 3) f.template operator()<3>();
  };
  for (std::int32_t key = 0; key < count; key += side) {
    float const* const rows = keys + std::ptrdiff_t{key} * pairs;
    each_sum([&]<int i>() { tiles.zero<i>(); });
    for (std::int32_t d = 0; d < whole; d += side) {
      tiles.load<4>(rows + d, pairs);
      each_sum([&]<int i>() {
        tiles.load<5>(queries + d * block_lanes + i * side, block_lanes);
        tiles.multiply<i, 4, 5>();
      });
    }
    if (whole < pairs) {
      tiles.load<6>(rows + whole, pairs);
      each_sum([&]<int i>() {
        tiles.load<7>(queries + whole * block_lanes + i * side, block_lanes);
        tiles.multiply<i, 6, 7>();
      });
    }
    each_sum([&]<int i>() { tiles.store<i>(scores + key * block_lanes + i * side, block_lanes); });
  }
  vec const factor = splat(scale);
  for (std::int32_t i = 0; i < count * block_lanes; i += lanes) store(scores + i, factor * load(scores + i));
}

template <bool pairs> using key_products = std::conditional_t<pairs, matrix_tiles, no_tiles>;
#else
template <bool pairs> using key_products = no_tiles;
#endif

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
