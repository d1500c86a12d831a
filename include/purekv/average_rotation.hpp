// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/moments.hpp>

#include <cmath>

namespace purekv::inline v0_1 {

/// Which dims a rotary embedding turns together, pair i of n.
enum class rotary_pairs : std::int32_t {
  halves,    // dims i and n + i: "rotate half", "NeoX"
  adjacent,  // dims 2 i and 2 i + 1: "interleaved", GPT-J
};

/// A rotary embedding of the first 2 * pairs dims, the others staying as they are: at position p pair i = (x, y)
/// becomes
///   magnitude * (x cos a - y sin a, x sin a + y cos a),  a = p * frequency[i] in radians
/// frequency holds what the model uses, scaling included; magnitude is the factor of YaRN, else 1.
struct rotary {
  float const* frequency = nullptr;  // [pairs]
  std::int32_t pairs = 0;
  rotary_pairs layout = rotary_pairs::halves;
  float magnitude = 1;

  PUREKV_INLINE std::int32_t x(std::int32_t pair) const { return layout == rotary_pairs::halves ? pair : 2 * pair; }
  PUREKV_INLINE std::int32_t y(std::int32_t pair) const {
    return layout == rotary_pairs::halves ? pairs + pair : 2 * pair + 1;
  }
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

inline status check_rotary(rotary const& r, std::int32_t dim) {
  if (r.pairs < 0 || r.pairs > dim / 2) return {errc::bad_shape, "rotary: pairs must lie in [0, dim / 2]"};
  if (r.pairs > 0 && r.frequency == nullptr) return {errc::null_data, "rotary: frequency is null"};
  bool finite = r.magnitude - r.magnitude == 0;
  for (std::int32_t i = 0; i < r.pairs; ++i) finite = finite && r.frequency[i] - r.frequency[i] == 0;
  if (!finite) return {errc::bad_shape, "rotary: a frequency or the magnitude is not finite"};
  return {};
}

/// A pair's average rotation: magnitude times the mean cosine and sine.
struct rotation {
  float cosine, sine;
};

inline rotation average_of(rotary const& r, std::int32_t pair, std::int32_t first, std::int32_t count) {
  double const angle = r.frequency[pair];
  double const step_cos = std::cos(angle), step_sin = std::sin(angle);
  double cosine = std::cos(first * angle), sine = std::sin(first * angle), sum_cos = 0, sum_sin = 0;
  for (std::int32_t i = 0; i < count; ++i) {
    sum_cos += cosine;
    sum_sin += sine;
    double const next = cosine * step_cos - sine * step_sin;
    sine = sine * step_cos + cosine * step_sin;
    cosine = next;
  }
  double const share = static_cast<double>(r.magnitude) / count;
  return {static_cast<float>(sum_cos * share), static_cast<float>(sum_sin * share)};
}

/// Turns the pair (x, y) of n vectors, consecutive ones `stride` apart.
inline void turn(float* x, float* y, std::int32_t n, std::ptrdiff_t stride, rotation const& by) {
  for (std::int32_t i = 0; i < n; ++i) {
    float const a = x[i * stride], b = y[i * stride];
    x[i * stride] = a * by.cosine - b * by.sine;
    y[i * stride] = a * by.sine + b * by.cosine;
  }
}

}  // namespace detail

/// Moments of queries before the rotary embedding become those at the average of the next positions:
///
///   mean <- R mean,  covariance <- R covariance R^T,  R = 1 / count * sum of rotation(p), p = first .. first + count -
///   1
///
/// first : [sequences], the first position that is not cached yet. count >= 1; Expected Attention, arXiv 2510.00636,
/// looks 512 positions ahead. Angles are computed in double, where models round p * frequency to float. Models whose
/// pairs turn with several coordinates (t, y, x) have no such R. On error nothing is written.
inline status average_rotation(cpu exec, rotary const& r, std::int32_t const* first, std::int32_t count,
                               query_moments const& m) {
  if (status const s = detail::check_moments(m); !s.ok()) return s;
  if (status const s = detail::check_rotary(r, m.dim); !s.ok()) return s;
  if (first == nullptr) return {errc::null_data, "average_rotation: first is null"};
  if (count < 1) return {errc::bad_shape, "average_rotation: count must be at least 1"};
  for (std::int32_t s = 0; s < m.sequences; ++s)
    if (first[s] < 0) return {errc::bad_positions, "average_rotation: a first position is negative"};
  std::int64_t task = 0;
  for (std::int32_t s = 0; s < m.sequences; ++s)
    for (std::int32_t h = 0; h < m.heads; ++h, ++task) {
      if (task % exec.size() != exec.rank()) continue;
      for (std::int32_t i = 0; i < r.pairs; ++i) {
        detail::rotation const by = detail::average_of(r, i, first[s], count);
        detail::turn(m.mean_of(s, h) + r.x(i), m.mean_of(s, h) + r.y(i), 1, 0, by);
        if (m.covariance == nullptr) continue;
        float* const c = m.covariance_of(s, h);
        std::ptrdiff_t const dim = m.dim;
        detail::turn(c + r.x(i), c + r.y(i), m.dim, dim, by);
        detail::turn(c + r.x(i) * dim, c + r.y(i) * dim, m.dim, 1, by);
      }
    }
  exec.sync();
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
