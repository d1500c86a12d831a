// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>
#include <purekv/detail/lane_vectors.hpp>
#include <purekv/moments.hpp>
#include <purekv/primitive.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// k^T C k. C : [dim, dim]. Block after block of C's columns, so that sums are vertical.
template <Element T> PUREKV_HD float quadratic_form(float const* c, T const* k, std::int32_t dim) {
  constexpr std::int32_t block = 64;
  float result = 0;
  for (std::int32_t first = 0; first < dim; first += block) {
    std::int32_t const width = dim - first < block ? dim - first : block;
    float sum[block] = {};
    for (std::int32_t i = 0; i < dim; ++i) {
      float const* const row = c + std::ptrdiff_t{i} * dim + first;
      float const x = static_cast<float>(k[i]);
      if (width == block)
        for (std::int32_t j = 0; j < block; ++j) sum[j] += x * row[j];
      else
        for (std::int32_t j = 0; j < width; ++j) sum[j] += x * row[j];
    }
    for (std::int32_t j = 0; j < width; ++j) result += sum[j] * static_cast<float>(k[first + j]);
  }
  return result;
}

}  // namespace detail

/// The attention that queries to come will pay, which are taken to be Gaussian with mean m and covariance C: up to a
/// factor per query head, the expectation of exp(scale * q . k) is exp(l), and
///
///   l(head, t) = scale * m . k(h, t) + scale^2 / 2 * k(h, t)^T C k(h, t)
///   score(head, t) = softmax of l over the tokens at positions >= sinks, + epsilon;  1 for tokens before them
///
/// future : m and C per query head in the space of the cached, rotated keys: `moments` of the layer's queries, then
/// `average_rotation`. The caller's memory, read by every call; a null covariance counts as 0. sinks are left out
/// because their share says nothing about the others: pin them. scale 0 stands for 1 / sqrt(dim). l is clamped to
/// +-FLT_MAX; a NaN in a key makes its score NaN and leaves the others alone. Needs no attention mass. Costs dim^2 / 2
/// per (query head, token) on a CPU, dim^2 on a GPU, dim without C. Expected Attention, arXiv 2510.00636, which goes on
/// with group_mean and value_weighted.
struct future_attention {
  static constexpr score_rows rows = score_rows::heads;
  static constexpr std::int32_t mass_queries = 0;

  query_moments future{};
  std::int32_t sinks = 4;
  float epsilon = 0;
  float scale = 0;

  status check(layer_shape const& shape, std::int32_t sequences) const {
    if (status const s = detail::check_moments(future); !s.ok()) return s;
    if (future.sequences != sequences || future.heads != shape.heads || future.dim != shape.dim)
      return {errc::mismatch, "future_attention: the moments differ from the layer in sequences, heads or dim"};
    if (sinks < 0) return {errc::bad_policy, "future_attention: sinks is negative"};
    if (!(epsilon >= 0 && epsilon - epsilon == 0))
      return {errc::bad_policy, "future_attention: epsilon is negative or not finite"};
    if (!(scale - scale == 0)) return {errc::bad_policy, "future_attention: scale is not finite"};
    return {};
  }

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape shape) {
    return std::int64_t{2} * shape.heads * chunks(shape.tokens);
  }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float* scratch) const {
    std::int32_t const per_row = chunks(detail::longest_head(in));
    float* const maxima = scratch;
    float* const sums = scratch + std::ptrdiff_t{in.heads} * per_row;
    float const factor = scale != 0 ? scale : 1 / __builtin_sqrtf(static_cast<float>(in.dim()));

    each_form(team, in, per_row, [&](std::int32_t row, std::int32_t h, std::int32_t t, float form) {
      float const l =
          factor * dot(future.mean_of(in.sequence, row), in.key(h, t), in.dim()) + factor * factor / 2 * form;
      constexpr float largest = detail::largest_score;
      out.row(row)[t] = l > largest ? largest : l < -largest ? -largest : l;
    });
    team.sync();

    each_chunk(team, in, per_row, [&](std::int32_t row, std::int32_t h, std::int32_t chunk, auto const& each) {
      float most = -detail::largest_score;
      each([&](std::int32_t t) {
        if (in.position(h, t) >= sinks) most = detail::larger_score(most, out.row(row)[t]);
      });
      maxima[row * per_row + chunk] = most;
    });
    team.sync();

    each_chunk(team, in, per_row, [&](std::int32_t row, std::int32_t h, std::int32_t chunk, auto const& each) {
      float most = maxima[row * per_row], sum = 0;
      for (std::int32_t c = 1; c < chunks(in.tokens(h)); ++c)
        most = detail::larger_score(most, maxima[row * per_row + c]);
      each([&](std::int32_t t) {
        if (in.position(h, t) < sinks) return;
        float const weight = __builtin_expf(out.row(row)[t] - most);
        out.row(row)[t] = weight;
        if (weight == weight) sum += weight;
      });
      sums[row * per_row + chunk] = sum;
    });
    team.sync();

    each_chunk(team, in, per_row, [&](std::int32_t row, std::int32_t h, std::int32_t, auto const& each) {
      float sum = 0;
      for (std::int32_t c = 0; c < chunks(in.tokens(h)); ++c) sum += sums[row * per_row + c];
      each([&](std::int32_t t) {
        out.row(row)[t] = in.position(h, t) < sinks ? 1.0f : out.row(row)[t] / sum + epsilon;
      });
    });
    team.sync();
  }

 private:
  static constexpr std::int32_t chunk_tokens = 512;
  PUREKV_HD static constexpr std::int32_t chunks(std::int32_t tokens) {
    return tokens / chunk_tokens + (tokens % chunk_tokens != 0);
  }

  /// Calls f(row, kv_head, token, k^T C k) for this rank's share of the tokens of all rows.
  PUREKV_CALLS template <Team G, Cache C, class F>
  PUREKV_HD void each_form(G const& team, layer_input<C> const& in, std::int32_t per_row, F const& f) const {
    auto const form_of = [&](std::int32_t row, std::int32_t h, std::int32_t t) {
      if (future.covariance == nullptr) return 0.0f;
      return detail::quadratic_form(future.covariance_of(in.sequence, row), in.key(h, t), in.dim());
    };
    if constexpr (is_interleaved<G>()) {
      detail::for_each_score<rows>(
          team, in, [&](std::int32_t row, std::int32_t h, std::int32_t t) { f(row, h, t, form_of(row, h, t)); });
    } else {
      bool const together = future.covariance != nullptr && in.dim() <= detail::lane_dims;
      each_chunk(team, in, per_row, [&](std::int32_t row, std::int32_t h, std::int32_t, auto const& each) {
        std::int32_t token[detail::block_lanes] = {}, count = 0;
        auto const flush = [&] {
          float form[detail::block_lanes];
          detail::quadratic_forms(
              count, in.dim(), [&](std::int32_t i) { return in.key(h, token[i]); },
              future.covariance_of(in.sequence, row), form);
          for (std::int32_t i = 0; i < count; ++i) f(row, h, token[i], form[i]);
          count = 0;
        };
        each([&](std::int32_t t) {
          if (!together) return f(row, h, t, form_of(row, h, t));
          token[count++] = t;
          if (count == detail::block_lanes) flush();
        });
        if (count > 0) flush();
      });
    }
  }

  /// Calls f(row, kv_head, chunk, each) for this rank's share of the chunks of all rows; each(g) calls g(token) for a
  /// chunk's tokens. Chunks have a fixed size, so that sums do not depend on the team.
  PUREKV_CALLS template <Team G, Cache C, class F>
  PUREKV_HD static void each_chunk(G const& team, layer_input<C> const& in, std::int32_t per_row, F const& f) {
    for_share(team, in.heads * per_row, [&](std::int32_t i) {
      std::int32_t const row = i / per_row, chunk = i % per_row, h = row / in.group(), tokens = in.tokens(h);
      if (chunk >= chunks(tokens)) return;
      std::int32_t const first = chunk * chunk_tokens;
      f(row, h, chunk, [&](auto const& g) {
        for (std::int32_t t = first; t < tokens && t - first < chunk_tokens; ++t) g(t);
      });
    });
  }
};

static_assert(Estimator<future_attention>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
