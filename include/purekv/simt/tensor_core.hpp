// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/simt/math.hpp>
#include <purekv/simt/shared.hpp>
#if !defined(__CUDACC__)
#include <purekv/simt/executor/tensor_core.hpp>
#endif

namespace purekv::inline v0_1::inline PUREKV_ISA::simt {

/// N registers of 16-bit pairs: N matrices of 8 x 8, dealt to the lanes of a warp. Of each, lane l holds
/// (row l / 4, columns 2 (l % 4) and 2 (l % 4) + 1), the lower column in the lower half.
template <std::int32_t N> struct matrices { std::uint32_t at[N]; };

/// The operands of mma. a: [16, 16], its quarters in the order (top left, bottom left, top right, bottom right).
/// b: [16, 8] as two matrices, upper and lower half, each *transposed*: lane l holds the rows 2 (l % 4) and
/// 2 (l % 4) + 1 of column l / 4. So a matrix b that lies in memory by columns is loaded with ldmatrix, one that lies
/// by rows with ldmatrix_transposed.
using a_fragment = matrices<4>;
using b_fragment = matrices<2>;

/// c: [16, 8]. Lane l holds (row l / 4, columns 2 (l % 4) and 2 (l % 4) + 1), then the same of row l / 4 + 8.
struct c_fragment {
  float at[4];
};

#if !defined(__CUDACC__)
namespace detail {

template <std::int32_t N>
matrices<N> emulated_ldmatrix(void const* row, bool transposed, char const* operation, site here) {
  struct slot {
    void const* row;
    matrices<N> loaded;
  } mine = {row, {}};
  running->together(0xffffffffu, operation, here, mine, [&](slot* const* lanes) {
    std::int32_t const first = running->thread() / 32 * 32;
    for (int m = 0; m < N; ++m)
      for (int lane = 0; lane < 32; ++lane) {
        std::uint32_t& loaded = lanes[lane]->loaded.at[m];
        for (int i = 0; i < 2; ++i) {
          element_at const e = ldmatrix_element(lane, i, transposed);
          int const addressing = m * 8 + e.row;
          char const* const line = static_cast<char const*>(lanes[addressing]->row);
          running->check_alignment(line, 16, "a row of ldmatrix", here);
          // The thread that gets an element is the one that reads it, whoever gave the address.
          char const* const from = line + e.column * 2;
          running->touch(block::access::read, first + lane, from, 2, 2, here);
          std::uint16_t bits;
          std::memcpy(&bits, from, 2);
          loaded |= static_cast<std::uint32_t>(bits) << (i * 16);
        }
      }
  });
  return mine.loaded;
}

}  // namespace detail
#endif

/// N (1, 2 or 4) matrices of 8 x 8 from shared memory. Lane l gives the address of row l % 8 of matrix l / 8: 8
/// elements at a multiple of 16 bytes. Lanes from 8 N on are not asked.
template <std::int32_t N, Half T>
PUREKV_DEVICE matrices<N> ldmatrix(shared<T> row, [[maybe_unused]] site here = site::caller()) {
  static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  std::uint32_t const from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row.data()));
  matrices<N> m;
  if constexpr (N == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(m.at[0]) : "r"(from) : "memory");
  else if constexpr (N == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(m.at[0]), "=r"(m.at[1])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m.at[0]), "=r"(m.at[1]), "=r"(m.at[2]), "=r"(m.at[3])
                 : "r"(from)
                 : "memory");
  return m;
#else
  return detail::emulated_ldmatrix<N>(row.data(), false, "ldmatrix", here);
#endif
}

/// The same, each matrix transposed on the way.
template <std::int32_t N, Half T>
PUREKV_DEVICE matrices<N> ldmatrix_transposed(shared<T> row, [[maybe_unused]] site here = site::caller()) {
  static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  std::uint32_t const from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row.data()));
  matrices<N> m;
  if constexpr (N == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(m.at[0]) : "r"(from) : "memory");
  else if constexpr (N == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(m.at[0]), "=r"(m.at[1])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m.at[0]), "=r"(m.at[1]), "=r"(m.at[2]), "=r"(m.at[3])
                 : "r"(from)
                 : "memory");
  return m;
#else
  return detail::emulated_ldmatrix<N>(row.data(), true, "ldmatrix_transposed", here);
#endif
}

/// a b + c: products of 16-bit elements, exact, added in float; sums are truncated, not rounded.
template <Half T>
PUREKV_DEVICE c_fragment mma(a_fragment const& a, b_fragment const& b, c_fragment const& c,
                             [[maybe_unused]] site here = site::caller()) {
#if defined(__CUDACC__)
  c_fragment d;
  if constexpr (std::same_as<T, half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d.at[0]), "=f"(d.at[1]), "=f"(d.at[2]), "=f"(d.at[3])
        : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b.at[0]), "r"(b.at[1]), "f"(c.at[0]),
          "f"(c.at[1]), "f"(c.at[2]), "f"(c.at[3]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d.at[0]), "=f"(d.at[1]), "=f"(d.at[2]), "=f"(d.at[3])
        : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b.at[0]), "r"(b.at[1]), "f"(c.at[0]),
          "f"(c.at[1]), "f"(c.at[2]), "f"(c.at[3]));
  return d;
#else
  struct slot {
    a_fragment const* a;
    b_fragment const* b;
    c_fragment const* c;
    c_fragment d;
  } mine = {&a, &b, &c, {}};
  detail::running->together(0xffffffffu, "mma", here, mine, [](slot* const* lanes) {
    std::uint32_t const *all_a[32], *all_b[32];
    float const* all_c[32];
    float* all_d[32];
    for (int lane = 0; lane < 32; ++lane) {
      all_a[lane] = lanes[lane]->a->at;
      all_b[lane] = lanes[lane]->b->at;
      all_c[lane] = lanes[lane]->c->at;
      all_d[lane] = lanes[lane]->d.at;
    }
    detail::emulated_mma<T>(all_a, all_b, all_c, all_d);
  });
  return mine.d;
#endif
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt
