// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cpu.hpp>
#include <purekv/detail/check.hpp>
#include <purekv/detail/gemm.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/view.hpp>

namespace purekv::inline v0_1 {

/// First and second moments of the queries of each head, dense: mean [sequences, heads, dim] and covariance [sequences,
/// heads, dim, dim], symmetric. A null covariance is one of zeros.
struct query_moments {
  float* mean = nullptr;
  float* covariance = nullptr;
  std::int32_t sequences = 0, heads = 0, dim = 0;

  PUREKV_INLINE float* mean_of(std::int32_t sequence, std::int32_t head) const {
    return mean + (std::ptrdiff_t{sequence} * heads + head) * dim;
  }
  PUREKV_INLINE float* covariance_of(std::int32_t sequence, std::int32_t head) const {
    return covariance + (std::ptrdiff_t{sequence} * heads + head) * dim * dim;
  }
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

inline status check_moments(query_moments const& m) {
  if (m.sequences <= 0 || m.heads <= 0 || m.dim <= 0)
    return {errc::bad_shape, "query_moments: sequences, heads and dim must be positive"};
  if (m.mean == nullptr) return {errc::null_data, "query_moments: mean is null"};
  std::int64_t const rows = std::int64_t{m.sequences} * m.heads, squares = std::int64_t{m.dim} * m.dim;
  std::int64_t floats = 0, bytes = 0;
  if (__builtin_mul_overflow(rows, squares, &floats) ||
      __builtin_mul_overflow(floats, std::int64_t{sizeof(float)}, &bytes))
    return {errc::bad_shape, "query_moments: sizes overflow 64 bits"};
  return {};
}

template <class T> status check_moments_of(query_view<T> const& q, std::int32_t skip, query_moments const& out) {
  if (q.rows.heads <= 0 || q.rows.dim <= 0 || q.rows.tokens < 0)
    return {errc::bad_shape, "query_view: heads and dim must be positive, tokens not negative"};
  if (status const s = check_batch(q.batch, q.rows.tokens); !s.ok()) return s;
  if (q.rows.tokens > 0 && q.rows.data == nullptr) return {errc::null_data, "query_view: data is null"};
  if (!apart(q.rows)) return {errc::bad_shape, "query_view: strides overlap, or sizes overflow 64 bits"};
  if (skip < 0) return {errc::bad_shape, "moments: skip is negative"};
  if (status const s = check_moments(out); !s.ok()) return s;
  if (out.sequences != q.batch.sequences || out.heads != q.rows.heads || out.dim != q.rows.dim)
    return {errc::mismatch, "moments: sequences, heads or dim of the moments differ from the queries'"};
  return {};
}

/// Dims and queries are taken so many at a time, so that the sums stay in the nearest cache.
inline constexpr std::int32_t moment_block = 64, moment_queries = 64;
static_assert(moment_block % block_lanes == 0);

/// out[d / block_lanes][i][d % block_lanes] = q(first_query + i)[d] - mean[d], 0 from `width` on: dims as the lanes of
/// queries.
template <Element T>
void center(rows_view<T const> const& q, std::int32_t head, std::int32_t first_query, std::int32_t queries,
            std::int32_t first, std::int32_t width, float const* mean, float* out) {
  for (std::int32_t i = 0; i < queries; ++i) {
    T const* const row = q.row(head, first_query + i) + first;
    for (std::int32_t d = 0; d < moment_block; d += lanes) {
      vec x{};
      if (d + lanes <= width)
        x = widen(row + d) - load(mean + d);
      else if (d < width)
        x = widen(row + d, width - d) - widen(mean + d, width - d);
      store(out + (d / block_lanes * moment_queries + i) * block_lanes + d % block_lanes, x);
    }
  }
}

/// covariance[i, j] = mean of (q_i - mean_i) (q_j - mean_j) for dims i from `first`, j from `second` <= `first`, and
/// its mirror, by the kernel that adds values to attention's results.
template <Element T>
void covariance_block(rows_view<T const> const& q, std::int32_t head, std::int32_t begin, std::int32_t end,
                      std::int32_t first, std::int32_t second, float const* mean, float* covariance) {
  std::int32_t const dim = q.dim;
  std::int32_t const height = smaller(moment_block, dim - first), width = smaller(moment_block, dim - second);
  float rows[moment_block * moment_queries], columns[moment_block * moment_queries];
  float sum[moment_block * moment_block] = {};  // [column / block_lanes][row][column % block_lanes]
  float ones[block_lanes];
  for (float& x : ones) x = 1;
  for (std::int32_t t = begin; t < end; t += moment_queries) {
    std::int32_t const queries = smaller(moment_queries, end - t);
    center(q, head, t, queries, first, height, mean + first, rows);
    if (first != second) center(q, head, t, queries, second, width, mean + second, columns);
    float const* const other = first != second ? columns : rows;
    for (std::int32_t i = 0; i < height; i += block_lanes)
      for (std::int32_t j = 0; j < (first != second ? width : i + 1); j += block_lanes)
        multiply_values<false>(rows + i * moment_queries, block_lanes, queries, other + j * moment_queries,
                               smaller(block_lanes, height - i), ones, sum + j * moment_block + i * block_lanes);
  }
  float const share = end > begin ? 1.0f / static_cast<float>(end - begin) : 0.0f;
  for (std::int32_t i = 0; i < height; ++i)
    for (std::int32_t j = 0; j < (first != second ? width : i + 1); ++j) {
      float const x = sum[j / block_lanes * block_lanes * moment_block + i * block_lanes + j % block_lanes] * share;
      covariance[std::ptrdiff_t{first + i} * dim + second + j] = x;
      covariance[std::ptrdiff_t{second + j} * dim + first + i] = x;
    }
}

template <Element T>
void mean_block(rows_view<T const> const& q, std::int32_t head, std::int32_t begin, std::int32_t end,
                std::int32_t first, float* mean) {
  std::int32_t const count = smaller(moment_block, q.dim - first);
  double sum[moment_block] = {};
  for (std::int32_t t = begin; t < end; ++t)
    for (std::int32_t i = 0; i < count; ++i)
      sum[i] += static_cast<double>(static_cast<float>(q.row(head, t)[first + i]));
  for (std::int32_t i = 0; i < count; ++i)
    mean[first + i] = end > begin ? static_cast<float>(sum[i] / (end - begin)) : 0.0f;
}

/// The first of a sequence's queries at a position not below `skip`.
template <class T> std::int32_t first_from(query_view<T> const& q, std::int32_t sequence, std::int32_t skip) {
  std::int32_t t = q.begin(sequence);
  while (t < q.end(sequence) && q.batch.positions[t] < skip) ++t;
  return t;
}

}  // namespace detail

/// Mean and population covariance of the queries of each head, over the positions from `skip` on:
///
///   mean = 1 / n sum q_t        covariance = 1 / n sum (q_t - mean) (q_t - mean)^T
///
/// Zeros where a sequence has no such query. Taken before the rotary embedding they are what `average_rotation` and
/// `future_attention` go on with. `scale` of the queries is not read. A null out.covariance is left out. Costs
/// dim^2 / 2 multiplications per query; sums are float, those of the mean double. Expected Attention,
/// arXiv 2510.00636, skips the first 4 positions. On error nothing is written.
template <class T> status moments(cpu exec, query_view<T> const& q, std::int32_t skip, query_moments const& out) {
  if (status const s = detail::check_moments_of(q, skip, out); !s.ok()) return s;
  std::int32_t const blocks = (out.dim - 1) / detail::moment_block + 1;
  std::int64_t task = 0;
  auto const mine = [&] { return task++ % exec.size() == exec.rank(); };
  auto const each_head = [&](auto const& f) {
    for (std::int32_t s = 0; s < out.sequences; ++s) {
      std::int32_t const begin = detail::first_from(q, s, skip);
      for (std::int32_t h = 0; h < out.heads; ++h) f(s, h, begin);
    }
  };
  each_head([&](std::int32_t s, std::int32_t h, std::int32_t begin) {
    for (std::int32_t i = 0; i < blocks; ++i)
      if (mine()) detail::mean_block(q.rows, h, begin, q.end(s), i * detail::moment_block, out.mean_of(s, h));
  });
  exec.sync();
  if (out.covariance == nullptr) return {};
  each_head([&](std::int32_t s, std::int32_t h, std::int32_t begin) {
    for (std::int32_t i = 0; i < blocks; ++i)
      for (std::int32_t j = 0; j <= i; ++j)
        if (mine())
          detail::covariance_block(q.rows, h, begin, q.end(s), i * detail::moment_block, j * detail::moment_block,
                                   out.mean_of(s, h), out.covariance_of(s, h));
  });
  exec.sync();
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
