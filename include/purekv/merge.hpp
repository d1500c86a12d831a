// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cpu.hpp>
#include <purekv/detail/check.hpp>
#include <purekv/detail/logits.hpp>
#include <purekv/detail/simd.hpp>

#include <limits>

namespace purekv::inline v0_1 {

/// Attention over a part of the keys. out : [heads, tokens, dim]; lse : [heads, tokens], base 2, rows lse_stride apart.
template <class T> struct partial {
  rows_view<T const> out;
  float const* lse = nullptr;
  std::ptrdiff_t lse_stride = 0;
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

inline constexpr std::int32_t merge_chunk = 16;  // rows of one head that a rank merges at a time

/// An lse as `merge` weighs it: NaN counts as nothing seen, inf as the largest float.
PUREKV_HD inline float weighable(float lse) {
  if (lse > largest_logit) return largest_logit;
  return lse >= -largest_logit ? lse : hidden_logit;
}

/// Rows of `width` elements that are dim-wise sums over the parts, `block` dims at a time so that `out` may be a part.
template <class T>
float merge_row(partial<T> const* parts, int count, std::int32_t head, std::int32_t token, rows_view<T> const& out) {
  constexpr float none = -std::numeric_limits<float>::infinity();
  auto const lse = [&](int p) { return weighable(parts[p].lse[head * parts[p].lse_stride + token]); };
  float top = none;
  for (int p = 0; p < count; ++p) top = lse(p) > top ? lse(p) : top;
  float sum = 0;
  if (top != none)
    for (int p = 0; p < count; ++p) sum += __builtin_exp2f(lse(p) - top);

  constexpr std::int32_t block = 256;
  for (std::int32_t begin = 0; begin < out.dim; begin += block) {
    std::int32_t const width = out.dim - begin < block ? out.dim - begin : block;
    vec total[block / lanes] = {};
    for (int p = 0; p < count && top != none; ++p) {
      float const weight = __builtin_exp2f(lse(p) - top) / sum;
      if (weight == 0) continue;  // what counts for nothing may hold NaN or inf
      T const* const row = parts[p].out.row(head, token) + begin;
      std::int32_t i = 0;
      for (; i + lanes <= width; i += lanes) total[i / lanes] = fma(splat(weight), widen(row + i), total[i / lanes]);
      if (i < width) total[i / lanes] = fma(splat(weight), widen(row + i, width - i), total[i / lanes]);
    }
    T* const row = out.row(head, token) + begin;
    std::int32_t i = 0;
    for (; i + lanes <= width; i += lanes) narrow(row + i, total[i / lanes]);
    if (i < width) narrow(row + i, total[i / lanes], width - i);
  }
  return top == none ? none : top + __builtin_log2f(sum);
}

template <class T>
status check_merge(partial<T> const* parts, int count, rows_view<T> const& out, float* lse, std::ptrdiff_t lse_stride) {
  if (count <= 0) return {errc::bad_shape, "merge: there are no parts"};
  if (parts == nullptr) return {errc::null_data, "merge: parts is null"};
  if (out.heads <= 0 || out.dim <= 0 || out.tokens < 0)
    return {errc::bad_shape, "merge: heads and dim must be positive, tokens not negative"};
  if (out.tokens > 0 && out.data == nullptr) return {errc::null_data, "merge: out is null"};
  if (!apart(out)) return {errc::bad_shape, "merge: strides of out overlap, or sizes overflow 64 bits"};
  auto const rows_apart = [&](std::ptrdiff_t stride) {
    return apart(out.tokens, out.heads, stride, 1, 0, std::int64_t{sizeof(float)});
  };
  if (lse != nullptr && !rows_apart(lse_stride))
    return {errc::bad_shape, "merge: rows of lse overlap, or sizes overflow 64 bits"};
  for (int p = 0; p < count; ++p) {
    rows_view<T const> const& part = parts[p].out;
    if (part.heads != out.heads || part.tokens != out.tokens || part.dim != out.dim)
      return {errc::mismatch, "merge: a part differs from out in heads, tokens or dim"};
    if (out.tokens > 0 && (part.data == nullptr || parts[p].lse == nullptr))
      return {errc::null_data, "merge: out or lse of a part is null"};
    if (!apart(part) || !rows_apart(parts[p].lse_stride))
      return {errc::bad_shape, "merge: strides of a part overlap, or sizes overflow 64 bits"};
  }
  return {};
}

}  // namespace detail

/// lse = log2(sum_p exp2(lse_p)), out = sum_p exp2(lse_p - lse) * out_p: attention over disjoint sets of keys becomes
/// attention over all of them. A sink belongs to one part only.
/// A part with lse = -inf counts for nothing, nor does one with NaN; where all are such, out = 0 and lse = -inf. An lse
/// of +inf counts as FLT_MAX.
/// parts : [count]; lse : [heads, tokens] or null. out and lse may be those of a part, else they overlap none.
template <class T>
status merge(cpu exec, partial<T> const* parts, int count, rows_view<T> out, float* lse, std::ptrdiff_t lse_stride) {
  if (status const s = detail::check_merge(parts, count, out, lse, lse_stride); !s.ok()) return s;
  std::int64_t task = 0;
  for (std::int32_t h = 0; h < out.heads; ++h)
    for (std::int32_t first = 0; first < out.tokens; first += detail::merge_chunk, ++task) {
      if (task % exec.size() != exec.rank()) continue;
      std::int32_t const last = out.tokens - first < detail::merge_chunk ? out.tokens : first + detail::merge_chunk;
      for (std::int32_t t = first; t < last; ++t) {
        float const merged = detail::merge_row(parts, count, h, t, out);
        if (lse != nullptr) lse[h * lse_stride + t] = merged;
      }
    }
  exec.sync();
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
