// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/check.cuh>
#include <purekv/detail/merge_rows.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What the parameters of a launch have room for: 32764 bytes.
inline constexpr std::int32_t few_parts = 8, most_parts = 512;

template <class T>
status check_merge(gpu const& exec, partial<T> const* parts, int count, rows_view<T> const& out, float* lse,
                   std::ptrdiff_t lse_stride) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_merge(parts, count, out, lse, lse_stride); !s.ok()) return s;
  if (count > most_parts) return {errc::bad_shape, "merge: a GPU merges 512 parts at most; merge groups of them first"};
  for (int p = 0; p < count; ++p)
    if (status const s = check_reachable(exec, parts[p].out.data, parts[p].lse); !s.ok()) return s;
  return check_reachable(exec, out.data, lse);
}

template <std::int32_t Parts, std::int32_t Width, class T>
status launch_merge(gpu const& exec, partial<T> const* parts, int count, rows_view<T> const& out, float* lse,
                    std::ptrdiff_t lse_stride) {
  using kernel = merge_rows<T, Parts, Width>;
  kernel k{{}, count, out, lse, lse_stride};
  for (int p = 0; p < count; ++p) k.parts[p] = parts[p];
  return simt::launch({.x = kernel::blocks(out)}, 0, exec.stream, k);
}

}  // namespace detail

/// As on the CPU; `parts` itself is an array of the host. At most 512 of them.
template <class T>
status merge(gpu const& exec, partial<T> const* parts, int count, rows_view<T> out, float* lse,
             std::ptrdiff_t lse_stride) {
  if (status const s = detail::check_merge(exec, parts, count, out, lse, lse_stride); !s.ok()) return s;
  constexpr std::int32_t wide = 16 / static_cast<std::int32_t>(sizeof(T));
  bool packs = out.dim % wide == 0 && detail::aligned16(out);
  for (int p = 0; p < count; ++p) packs = packs && detail::aligned16(parts[p].out);
  bool const few = count <= detail::few_parts;
  if (packs && few) return detail::launch_merge<detail::few_parts, wide>(exec, parts, count, out, lse, lse_stride);
  if (packs) return detail::launch_merge<detail::most_parts, wide>(exec, parts, count, out, lse, lse_stride);
  if (few) return detail::launch_merge<detail::few_parts, 1>(exec, parts, count, out, lse, lse_stride);
  return detail::launch_merge<detail::most_parts, 1>(exec, parts, count, out, lse, lse_stride);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
