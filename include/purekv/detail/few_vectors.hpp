// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/decode_kernel.hpp>
#include <purekv/detail/pack.hpp>
#include <purekv/primitive.hpp>

#include <type_traits>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

// A few vectors x(0) .. x(count - 1), count <= few, of at most few_dims elements that meet a matrix side by side on the
// CPU, so that it is read once for all of them, by the kernels of decoding. What comes of one does not depend on the
// others. few_dims: what is laid out for it lies on the stack, 32 KB at most, and callers take wider ones one by one.

inline constexpr std::int32_t few = decode_rows, few_dims = 512;

/// sum[i] += sum over r < rows of |row(r) . x(i)|, added up in float. row(r), x(i) : [dim]; sum : [few].
template <class X, class Row>
void add_projected_norms(std::int32_t count, std::int32_t dim, X const& x, std::int32_t rows, Row const& row,
                         double* sum) {
  constexpr std::int32_t at_once = decode_keys<few>;
  static_assert(logit_stride(few) == few);
  std::int32_t const padded = whole_registers(dim);
  float packed[few * few_dims];
  for (std::int32_t i = 0; i < few * padded; ++i) packed[i] = 0;
  for (std::int32_t i = 0; i < count; ++i) scale_row(x(i), dim, 1, packed + i * padded);

  float lane[lanes];
  auto const add = [&](vec products, std::int32_t used) {
    store(lane, products);
    for (std::int32_t l = 0; l < used; ++l) sum[l % few] += static_cast<double>(lane[l]);
  };
  vec norms{};
  for (std::int32_t r = 0; r < rows; r += at_once) {
    std::remove_cvref_t<decltype(*row(0))> const* these[at_once];
    for (std::int32_t j = 0; j < at_once; ++j) these[j] = row(smaller(r + j, rows - 1));
    vec const product = multiply_rows<few>(packed, padded, dim, these, these[0], 0);
    vec const size = blend(product < vec{}, -product, product);
    if (r + at_once <= rows)
      norms += size;
    else
      add(size, (rows - r) * few);
  }
  add(norms, lanes);
}

/// forms[i] = x(i)^T C x(i). C : [dim, dim], x(i) : [dim]. No device runs it, but lambdas of policies call it, which
/// nvcc takes for code of both.
PUREKV_CALLS template <class X>
PUREKV_HD void quadratic_forms(std::int32_t count, std::int32_t dim, X const& x, float const* c, float* forms) {
  std::int32_t const padded = whole_registers(dim);
  float across[few_dims * few], products[few * few_dims];
  for (std::int32_t d = 0; d < dim; ++d)
    for (std::int32_t i = 0; i < few; ++i) across[d * few + i] = i < count ? static_cast<float>(x(i)[d]) : 0;
  for (std::int32_t i = 0; i < few * padded; ++i) products[i] = 0;

  row_source<float> const rows{c, dim, nullptr};
  constexpr std::int32_t wide = decode_vectors<few>;
  std::int32_t column = 0;
  for (; column + wide * lanes <= dim; column += wide * lanes)
    multiply_weights<few, wide, false>(across, rows, 0, dim, column, 0, c, 0, products, padded);
  for (; column + lanes <= dim; column += lanes)
    multiply_weights<few, 1, false>(across, rows, 0, dim, column, 0, c, 0, products, padded);
  if (column < dim) multiply_weights<few, 1, true>(across, rows, 0, dim, column, dim - column, c, 0, products, padded);
  for (std::int32_t i = 0; i < count; ++i) forms[i] = dot(products + i * padded, x(i), std::int64_t{dim});
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
