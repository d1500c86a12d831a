// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/gemm.hpp>
#include <purekv/detail/pack.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

// Vectors x(0) .. x(count - 1) of at most lane_dims elements that meet a matrix side by side on the CPU, one in each
// lane, by the kernels of attention. What comes of one does not depend on the others. What is laid out for them lies on
// the stack, 64 KB at most, and 40 KB of rows and products beside it, so callers take wider ones one by one.

inline constexpr std::int32_t lane_dims = 256, lane_vectors = 64;
static_assert(lane_vectors % block_lanes == 0);

/// sum[i] += sum over r < rows of |row(r) . x(i)|, some rows at a time in float. count <= lane_vectors. row(r), x(i) :
/// [dim]; sum : [count].
template <class X, class Row>
void add_projected_norms(std::int32_t count, std::int32_t dim, X const& x, std::int32_t rows, Row const& row,
                         double* sum) {
  constexpr std::int32_t step = 5 * attend_block::rows;  // of 128 floats they stay in the nearest cache
  float packed[lane_vectors * lane_dims], some[step * lane_dims], products[step * block_lanes];
  std::int32_t const padded = whole_registers(dim);
  for (std::int32_t i = 0; i < count; i += block_lanes)
    pack_rows([&](std::int32_t j) { return x(i + j); }, smaller(block_lanes, count - i), dim, 1, packed + i * dim);

  for (std::int32_t first = 0; first < rows; first += step) {
    std::int32_t const taken = smaller(step, rows - first);
    for (std::int32_t r = 0; r < taken; ++r) scale_row(row(first + r), dim, 1, some + r * padded);
    for (std::int32_t i = 0; i < count; i += block_lanes) {
      std::int32_t const used = smaller(block_lanes, count - i);
      dispatch_vectors(
          used, [&]<int Vectors>() { multiply_keys<Vectors>(some, padded, taken, packed + i * dim, dim, products); });
      for (std::int32_t lane = 0; lane < used; lane += lanes) {
        vec norm{};
        for (std::int32_t r = 0; r < taken; ++r) {
          vec const product = load(products + r * block_lanes + lane);
          norm += blend(product < vec{}, -product, product);
        }
        float norms[lanes];
        store(norms, norm);
        for (std::int32_t l = 0; l < smaller(lanes, used - lane); ++l)
          sum[i + lane + l] += static_cast<double>(norms[l]);
      }
    }
  }
}

/// total[lane] += x^T C x for the vectors in the first `count` lanes. C : [dim, dim], symmetric, so the part on and
/// above its diagonal is what is read; packed : [dim, block_lanes].
inline void add_quadratic_forms(std::int32_t count, std::int32_t dim, float const* packed, float const* c,
                                float* total) {
  float products[attend_block::rows * block_lanes];
  // Some rows of C at a time meet the columns behind them: x_a (C_aa x_a + 2 sum over b > a of C_ab x_b).
  auto const add = [&]<int Vectors, int Rows>(std::int32_t first) {
    std::int32_t const behind = first + Rows;
    multiply_keys<Rows, Vectors>(c + std::ptrdiff_t{first} * dim + behind, dim, packed + behind * block_lanes,
                                 dim - behind, products);
    PUREKV_UNROLL(8)
    for (std::int32_t v = 0; v < Vectors * lanes; v += lanes) {
      vec sum = load(total + v);
      PUREKV_UNROLL(8)
      for (std::int32_t a = 0; a < Rows; ++a) {
        float const* const row = c + std::ptrdiff_t{first + a} * dim + first;
        vec product = load(products + a * block_lanes + v);
        PUREKV_UNROLL(8)
        for (std::int32_t b = a + 1; b < Rows; ++b)
          product = fma(splat(row[b]), load(packed + (first + b) * block_lanes + v), product);
        vec const own = load(packed + (first + a) * block_lanes + v);
        sum = fma(own, fma(splat(row[a]), own, product + product), sum);
      }
      store(total + v, sum);
    }
  };
  dispatch_vectors(count, [&]<int Vectors>() {
    for_each_group(dim, [&]<int Rows>(std::int32_t first) { add.template operator()<Vectors, Rows>(first); });
  });
}

/// forms[i] = x(i)^T C x(i), C as there. count <= block_lanes; x(i) : [dim]. No device runs it, but lambdas of policies
/// call it, which nvcc takes for code of both.
PUREKV_CALLS template <class X>
PUREKV_HD void quadratic_forms(std::int32_t count, std::int32_t dim, X const& x, float const* c, float* forms) {
  float packed[block_lanes * lane_dims], total[block_lanes] = {};
  pack_rows(x, count, dim, 1, packed);
  add_quadratic_forms(count, dim, packed, c, total);
  for (std::int32_t i = 0; i < count; ++i) forms[i] = total[i];
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
