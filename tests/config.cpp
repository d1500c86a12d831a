// SPDX-License-Identifier: Apache-2.0
#include <purekv/config.hpp>

#include <purekv/purekv.hpp>
#include <purekv/thread_team.hpp>

#include <doctest/doctest.h>

#include <string_view>
#include <type_traits>

#define NAME_OF(x) #x
#define TEXT_OF(x) NAME_OF(x)

TEST_CASE("the version is in the name of the inline namespace") {
  constexpr bool same = std::is_same_v<purekv::status, purekv::v0_1::status>;
  CHECK(same);
  CHECK(PUREKV_VERSION_MAJOR == 0);
  CHECK(PUREKV_VERSION_MINOR == 1);
}

TEST_CASE("code lives in the namespace of the instruction set that it is compiled for") {
  constexpr std::string_view isa = TEXT_OF(PUREKV_ISA);
  constexpr bool known = isa == "avx512" || isa == "avx512_bfloat16" || isa == "avx512_amx" || isa == "avx2" ||
                         isa == "neon" || isa == "baseline";
  CHECK(known);
  constexpr bool inside = std::is_same_v<purekv::thread_team, purekv::v0_1::PUREKV_ISA::thread_team>;
  CHECK(inside);
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#if defined(PUREKV_BFLOAT16_DOT) && defined(__AVX512BF16__)
  CHECK(isa == "avx512_bfloat16");
#else
  CHECK(isa == "avx512");
#endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  CHECK(isa == "avx2");
#endif
}
