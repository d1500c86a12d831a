// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/x86_features.hpp>
#include <purekv/status.hpp>

#include <cstdint>
#include <type_traits>
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

// For programs that are built once for many machines; docs/engines.md says how. Not part of purekv.hpp.

namespace purekv::inline v0_1 {

/// What there is code for, under the names of the inline namespaces (config.hpp). Those of x86 contain each other:
/// baseline is x86-64, avx2 x86-64-v3, avx512 x86-64-v4, avx512_bfloat16 that with PUREKV_BFLOAT16_DOT, avx512_amx that
/// with PUREKV_BFLOAT16_TILES.
enum class isa : std::uint8_t { baseline, avx2, avx512, avx512_bfloat16, avx512_amx, neon };

inline namespace PUREKV_ISA {
/// What this file is compiled for.
inline constexpr isa this_isa = isa::PUREKV_ISA;
#if defined(PUREKV_LEVEL)
static_assert(this_isa == isa::PUREKV_LEVEL, "purekv_dispatch: another option sets the instruction set of this file");
#endif
}  // namespace PUREKV_ISA

PUREKV_HOST_INLINE constexpr char const* name_of(isa level) {
  return level == isa::baseline          ? "baseline"
         : level == isa::avx2            ? "avx2"
         : level == isa::avx512          ? "avx512"
         : level == isa::avx512_bfloat16 ? "avx512_bfloat16"
         : level == isa::avx512_amx      ? "avx512_amx"
                                         : "neon";
}

/// Asks the operating system for AMX's matrix registers, for all threads of the process; false if there are none. Linux
/// gives them only to who has asked. Call it before anything that is compiled with PUREKV_BFLOAT16_TILES; choose() and
/// runs_here() do.
PUREKV_HOST_INLINE bool request_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, the component's number
  return detail::x86_features::here().tiles() && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

/// Whether this machine and its operating system run code that was compiled for `level`. Beside x86 there is one level,
/// that of the whole program.
PUREKV_HOST_INLINE bool runs_here(isa level) {
#if defined(__x86_64__) || defined(__i386__)
  if (level == isa::avx2) return detail::x86_features::here().v3();
  if (level == isa::avx512) return detail::x86_features::here().v4();
  if (level == isa::avx512_bfloat16) return detail::x86_features::here().v4_bfloat16();
  if (level == isa::avx512_amx) return request_tiles();
  return level == isa::baseline;
#else
  return level == this_isa;
#endif
}

/// The functions that one source has for one instruction set, as a table of pointers. That source defines
///   template <> Table purekv::compiled<Table, purekv::this_isa>() { return {...}; }
/// and is compiled once for each level.
template <class Table, isa level> Table compiled();

/// table = compiled<Table, level>() of the best of `levels` that this machine runs, or of the level that `name` names
/// (null and "" name none). The CMake function purekv_dispatch() defines PUREKV_LEVELS as the list for `levels`. On
/// error (no such name, not among `levels`, this machine does not run it) `table` is as it was.
template <class Table, isa... levels> PUREKV_HOST_INLINE status choose(Table& table, char const* name = nullptr) {
  static_assert(std::is_trivially_copyable_v<Table>, "choose: a table holds pointers to functions, and plain values");
  struct entry {
    isa level;
    Table (*make)();
  };
  constexpr entry entries[] = {{levels, &compiled<Table, levels>}...};
  auto const named = [name](isa level) {
    char const *a = name, *b = name_of(level);
    while (*a != '\0' && *a == *b) ++a, ++b;
    return *a == *b;
  };
  bool const any = name == nullptr || *name == '\0';
  bool known = any;
  for (isa level : {isa::baseline, isa::avx2, isa::avx512, isa::avx512_bfloat16, isa::avx512_amx, isa::neon})
    known = known || named(level);
  if (!known)
    return {errc::mismatch,
            "choose: no instruction set has that name: baseline, avx2, avx512, avx512_bfloat16, avx512_amx, neon"};
  entry const* best = nullptr;
  bool compiled_in = any;
  for (entry const& e : entries) {
    if (!any && !named(e.level)) continue;
    compiled_in = true;
    if (runs_here(e.level) && (best == nullptr || e.level > best->level)) best = &e;
  }
  if (!compiled_in) return {errc::mismatch, "choose: the program was not compiled for that instruction set"};
  if (best == nullptr)
    return {errc::unsupported_device,
            any ? "choose: this machine has no instruction set that the program was compiled for"
                : "choose: this machine does not have that instruction set"};
  table = best->make();
  return {};
}

}  // namespace purekv::inline v0_1
