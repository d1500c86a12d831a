// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What an x86 processor and its operating system say of themselves.
struct x86_features {
  std::uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_edx = 0, leaf71_eax = 0, extended_ecx = 0;
  std::uint32_t saved = 0;  // XCR0: what the system saves

  /// All of x86-64-v3, for the compiler uses all of it: SSE3 to SSE4.2, CMPXCHG16B, MOVBE, POPCNT, FMA, AVX, F16C;
  /// BMI1, AVX2, BMI2; LAHF, LZCNT. The system must save the upper halves of the registers.
  PUREKV_HOST_INLINE constexpr bool v3() const {
    return has(leaf1_ecx, {0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29}) && has(leaf7_ebx, {3, 5, 8}) &&
           has(extended_ecx, {0, 5}) && has(saved, {1, 2});
  }
  /// And all of x86-64-v4: AVX-512 F, DQ, CD, BW, VL, with masks and 32 registers of 512 bits to save.
  PUREKV_HOST_INLINE constexpr bool v4() const {
    return v3() && has(leaf7_ebx, {16, 17, 28, 30, 31}) && has(saved, {5, 6, 7});
  }

  PUREKV_HOST_INLINE constexpr bool v4_bfloat16() const { return v4() && has(leaf71_eax, {5}); }

  /// And AMX's matrix registers, for bfloat16.
  PUREKV_HOST_INLINE constexpr bool tiles() const {
    return v4_bfloat16() && has(leaf7_edx, {22, 24}) && has(saved, {17, 18});
  }

  PUREKV_HOST_INLINE static x86_features here() {
    x86_features f;
#if defined(__x86_64__) || defined(__i386__)
    std::uint32_t a, b, c, d;
    if (__get_cpuid_count(1, 0, &a, &b, &c, &d) != 0) f.leaf1_ecx = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) f.leaf7_ebx = b, f.leaf7_edx = d;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) f.leaf71_eax = a;
    if (__get_cpuid_count(0x80000001u, 0, &a, &b, &c, &d) != 0) f.extended_ecx = c;
    if (has(f.leaf1_ecx, {27})) __asm__("xgetbv" : "=a"(f.saved), "=d"(d) : "c"(0));
#endif
    return f;
  }

 private:
  template <int n> PUREKV_HOST_INLINE static constexpr bool has(std::uint32_t word, int const (&bits)[n]) {
    for (int bit : bits)
      if ((word >> bit & 1) == 0) return false;
    return true;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
