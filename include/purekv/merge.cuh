// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/carve.hpp>
#include <purekv/detail/check.cuh>
#include <purekv/detail/merge_rows.cuh>
#include <purekv/detail/put.cuh>

#include <type_traits>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// How many parts travel in the parameters of a launch: what they have room for, and few, so that they stay small.
inline constexpr std::int32_t few_parts = 8, most_parts = 512;

template <class T>
status check_merge(gpu const& exec, partial<T> const* parts, int count, rows_view<T> const& out, float* lse,
                   std::ptrdiff_t lse_stride) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_merge(parts, count, out, lse, lse_stride); !s.ok()) return s;
  for (int p = 0; p < count; ++p)
    if (status const s = check_reachable(exec, parts[p].out.data, parts[p].lse); !s.ok()) return s;
  return check_reachable(exec, out.data, lse);
}

/// f(parts as the kernel takes them).
template <class T, class F>
status with_parts(gpu const& exec, partial<T> const* parts, int count, partial<T>* table, F const& f) {
  auto const carry = [&](auto carried) {
    for (int p = 0; p < count; ++p) carried.part[p] = parts[p];
    return f(carried);
  };
  if (count <= few_parts) return carry(carried_parts<T, few_parts>{});
  if (count <= most_parts) return carry(carried_parts<T, most_parts>{});
  if (status const s = put<most_parts>(exec, parts, table, count); !s.ok()) return s;
  return f(static_cast<partial<T> const*>(table));
}

template <class T> partial<T>* take_merge(carve& memory, int count) {
  return memory.take<partial<T>>(count > most_parts ? count : 0);
}

}  // namespace detail

/// Bytes that `merge` wants for so many parts: none for up to 512.
template <class T> std::size_t merge_workspace(gpu const&, partial<T> const*, int count) {
  detail::carve memory;
  detail::take_merge<T>(memory, count);
  return memory.bytes();
}

/// As on the CPU; `parts` itself is an array of the host, which may go once the call is back.
template <class T>
status merge(gpu const& exec, partial<T> const* parts, int count, rows_view<T> out, float* lse,
             std::ptrdiff_t lse_stride, workspace const& work = {}) {
  if (status const s = detail::check_merge(exec, parts, count, out, lse, lse_stride); !s.ok()) return s;
  detail::carve memory(work);
  partial<T>* const table = detail::take_merge<T>(memory, count);
  if (!memory.fits())
    return {errc::workspace_too_small, "merge: workspace smaller than merge_workspace(), or not aligned to 64 bytes"};
  if (status const s = detail::check_reachable(exec, table); !s.ok()) return s;
  constexpr std::int32_t wide = 16 / static_cast<std::int32_t>(sizeof(T));
  bool packs = out.dim % wide == 0 && detail::aligned16(out);
  for (int p = 0; p < count; ++p) packs = packs && detail::aligned16(parts[p].out);
  return detail::with_parts(exec, parts, count, table, [&](auto const& taken) {
    auto const launch = [&](auto const& kernel) {
      return simt::launch({.x = kernel.blocks(out)}, 0, exec.stream, kernel);
    };
    using from = std::remove_cvref_t<decltype(taken)>;
    return packs ? launch(detail::merge_rows<T, from, wide>{taken, count, out, lse, lse_stride})
                 : launch(detail::merge_rows<T, from, 1>{taken, count, out, lse, lse_stride});
  });
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
