// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/gemm.hpp>
#include <purekv/detail/positions.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The largest magnitude among floats, by their bits: NaN counts as more than inf.
class magnitude {
 public:
  PUREKV_HOST_INLINE void add(vec x) {
    ivec const bits = ivec(x) & 0x7fffffff;
    most_ = bits > most_ ? bits : most_;
  }
  float largest() const {
    std::int32_t most = 0;
    for (std::int32_t i = 0; i < lanes; ++i) most = most_[i] > most ? most_[i] : most;
    return __builtin_bit_cast(float, most);
  }

 private:
  ivec most_ = {};
};

inline bool finite(float x) { return x - x == 0; }

/// The larger of two magnitudes; what is not finite stays.
inline float larger_magnitude(float a, float b) { return !finite(a) || b <= a ? a : b; }

/// packed[d][lane] = scale * row(lane)[d] for lanes < count, 0 behind them or where row(lane) is null. Returns the
/// largest magnitude written. packed : [dim, block_lanes].
template <class Row> float pack_rows(Row const& row, std::int32_t count, std::int32_t dim, float scale, float* packed) {
  vec const factor = splat(scale);
  magnitude most;
  for (std::int32_t lane = 0; lane < block_lanes; lane += lanes) {
    decltype(row(0)) rows[lanes] = {};
    bool all = true;
    for (std::int32_t i = 0; i < lanes; ++i) {
      if (lane + i < count) rows[i] = row(lane + i);
      all = all && rows[i] != nullptr;
    }
    float* const to = packed + lane;
    std::int32_t d = 0;
    for (; all && d + lanes <= dim; d += lanes) {
      vec square[lanes];
      PUREKV_UNROLL(16)
      for (std::int32_t i = 0; i < lanes; ++i) {
        square[i] = factor * widen(rows[i] + d);
        most.add(square[i]);
      }
      transpose(square);
      PUREKV_UNROLL(16)
      for (std::int32_t i = 0; i < lanes; ++i) store(to + (d + i) * block_lanes, square[i]);
    }
    for (; d < dim; d += lanes) {
      std::int32_t const width = smaller(lanes, dim - d);
      vec square[lanes] = {};
      for (std::int32_t i = 0; i < lanes; ++i)
        if (rows[i] != nullptr) {
          square[i] = factor * (width == lanes ? widen(rows[i] + d) : widen(rows[i] + d, width));
          most.add(square[i]);
        }
      transpose(square);
      for (std::int32_t i = 0; i < width; ++i) store(to + (d + i) * block_lanes, square[i]);
    }
  }
  return most.largest();
}

/// to[d] = scale * from[d], 0 from dim up to a whole register.
template <Element T> void scale_row(T const* from, std::int32_t dim, float scale, float* to) {
  vec const factor = splat(scale);
  std::int32_t d = 0;
  for (; d + lanes <= dim; d += lanes) store(to + d, widen(from + d) * factor);
  if (d < dim) store(to + d, widen(from + d, dim - d) * factor);
}

/// row(lane)[d] = scale[lane] * packed[d][lane] for lanes < count; a scale of 0 gives 0 whatever it meets.
template <class Row>
void unpack_rows(float const* packed, float const* scale, std::int32_t count, std::int32_t dim, Row const& row) {
  for (std::int32_t lane = 0; lane < count; lane += lanes) {
    vec const factor = load(scale + lane);
    auto const scaled = [&](vec x) { return factor == vec{} ? vec{} : factor * x; };
    std::int32_t const used = smaller(lanes, count - lane);
    decltype(row(0)) rows[lanes];
    for (std::int32_t i = 0; i < used; ++i) rows[i] = row(lane + i);
    float const* const from = packed + lane;
    std::int32_t d = 0;
    for (; used == lanes && d + lanes <= dim; d += lanes) {
      vec square[lanes];
      PUREKV_UNROLL(16)
      for (std::int32_t i = 0; i < lanes; ++i) square[i] = scaled(load(from + (d + i) * block_lanes));
      transpose(square);
      PUREKV_UNROLL(16)
      for (std::int32_t i = 0; i < lanes; ++i) narrow(rows[i] + d, square[i]);
    }
    for (; d < dim; d += lanes) {
      std::int32_t const width = smaller(lanes, dim - d);
      vec square[lanes] = {};
      for (std::int32_t i = 0; i < width; ++i) square[i] = scaled(load(from + (d + i) * block_lanes));
      transpose(square);
      for (std::int32_t i = 0; i < used; ++i)
        if (width == lanes)
          narrow(rows[i] + d, square[i]);
        else
          narrow(rows[i] + d, square[i], width);
    }
  }
}

/// dst : [count, dim] in float from rows `stride` apart. Adds what it copies to `most`.
template <Element T>
void widen_rows(T const* src, std::ptrdiff_t stride, std::int32_t count, std::int32_t dim, float* dst,
                magnitude& most) {
  magnitude seen = most;
  for (std::int32_t i = 0; i < count; ++i, src += stride, dst += dim) {
    std::int32_t d = 0;
    for (; d + lanes <= dim; d += lanes) {
      vec const x = widen(src + d);
      seen.add(x);
      store(dst + d, x);
    }
    if (d < dim) {
      vec const x = widen(src + d, dim - d);
      seen.add(x);
      narrow(dst + d, x, dim - d);
    }
  }
  most = seen;
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
