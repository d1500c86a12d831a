// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/bfloat16_dot.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

#if defined(PUREKV_HAS_BFLOAT16_TILES)

/// The matrix registers (AMX) of the calling thread, while it lives: 8 tiles of 16 rows of 64 bytes. 0 to 3 are for
/// sums, 4 for keys, 5 for queries, and 6 and 7 for what is left of rows of keys and of queries behind whole tiles of
/// `pairs`. What the thread had in them is lost. The system must have been asked for them (request_tiles()).
class matrix_tiles {
 public:
  static constexpr std::int32_t side = 16;  // rows of a tile, and 32-bit lanes of one

  explicit matrix_tiles(std::int32_t pairs) : rest_(pairs % side) {
    for (std::int32_t t = 0; t < 8; ++t) {
      bool const none = t >= 6 && rest_ == 0;
      shape_.row_bytes[t] = static_cast<std::uint16_t>(none ? 0 : t == 6 ? 4 * rest_ : 4 * side);
      shape_.rows[t] = static_cast<std::uint8_t>(none ? 0 : t == 7 ? rest_ : side);
    }
#if !defined(PUREKV_BFLOAT16_DOT_IN_SOFTWARE)
    asm volatile("ldtilecfg %0" : : "m"(shape_));
  }
  ~matrix_tiles() { asm volatile("tilerelease"); }

  template <int tile> void zero() { asm volatile("tilezero %%tmm%c0" : : "i"(tile)); }

  /// Rows of `from`, `stride` floats apart.
  template <int tile> void load(float const* from, std::ptrdiff_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(tile), "r"(from), "r"(4 * stride) : "memory");
  }
  template <int tile> void store(float* to, std::ptrdiff_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(tile), "r"(to), "r"(4 * stride) : "memory");
  }

  /// sum[m][n] += over k: sum of keys[m][k].second * queries[k][n].second, and of the firsts, added to each other.
  template <int sum, int keys, int queries> void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(keys), "i"(queries));
  }
#else
  }

  template <int tile> void zero() { __builtin_memset(tile_[tile], 0, sizeof tile_[tile]); }
  template <int tile> void load(float const* from, std::ptrdiff_t stride) {
    zero<tile>();
    for (std::int32_t r = 0; r < shape_.rows[tile]; ++r)
      __builtin_memcpy(tile_[tile][r], from + r * stride, shape_.row_bytes[tile]);
  }
  template <int tile> void store(float* to, std::ptrdiff_t stride) {
    for (std::int32_t r = 0; r < shape_.rows[tile]; ++r)
      __builtin_memcpy(to + r * stride, tile_[tile][r], shape_.row_bytes[tile]);
  }
  template <int sum, int keys, int queries> void multiply() {
    for (std::int32_t m = 0; m < side; ++m)
      for (std::int32_t n = 0; n < side; ++n) {
        float firsts = 0, seconds = 0;
        for (std::int32_t k = 0; k < shape_.row_bytes[keys] / 4; ++k) {
          pair const a(tile_[keys][m][k]), b(tile_[queries][k][n]);
          firsts = normal(__builtin_fmaf(a.first, b.first, firsts));
          seconds = normal(__builtin_fmaf(a.second, b.second, seconds));
        }
        tile_[sum][m][n] = normal(normal(tile_[sum][m][n]) + normal(firsts + seconds));
      }
  }
#endif

  /// Whether rows have pairs behind whole tiles.
  bool rest() const { return rest_ != 0; }

 private:
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
  } shape_;
  std::int32_t rest_;

#if defined(PUREKV_BFLOAT16_DOT_IN_SOFTWARE)
  static float normal(float x) {
    return (__builtin_bit_cast(std::uint32_t, x) & 0x7f800000u) == 0 ? __builtin_copysignf(0, x) : x;
  }
  struct pair {
    float first, second;
    explicit pair(float both)
        : first(normal(__builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, both) << 16))),
          second(normal(__builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, both) & 0xffff0000u))) {}
  };
  float tile_[8][side][side] = {};
#endif
};

/// scores : [count, block_lanes] = scale * keys : [count, dim] times queries : [dim, block_lanes], both in pairs. Whole
/// tiles of keys are read and of scores written, whatever count is.
inline void multiply_key_pairs(matrix_tiles& tiles, float const* keys, std::int32_t count, float const* queries,
                               std::int32_t dim, float scale, float* scores) {
  constexpr std::int32_t side = matrix_tiles::side, sums = block_lanes / side;
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
    if (tiles.rest()) {
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
