// SPDX-License-Identifier: Apache-2.0
#include <purekv/dispatch.hpp>

#include <doctest/doctest.h>

#include <string>

// tests/odr chooses among files that are compiled for several instruction sets; here is one that says it were.

using purekv::isa;

namespace {

struct table {
  int level;
};

int made = 0;

table make(int level) {
  ++made;
  return {level};
}

bool const v3 = purekv::runs_here(isa::avx2), v4 = purekv::runs_here(isa::avx512);
bool const pairs = purekv::runs_here(isa::avx512_bfloat16), tiles = purekv::runs_here(isa::avx512_amx);

}  // namespace

template <> table purekv::compiled<table, isa::baseline>() { return make(0); }
template <> table purekv::compiled<table, isa::avx2>() { return make(1); }
template <> table purekv::compiled<table, isa::avx512>() { return make(2); }
template <> table purekv::compiled<table, isa::avx512_bfloat16>() { return make(3); }
template <> table purekv::compiled<table, isa::avx512_amx>() { return make(4); }
template <> table purekv::compiled<table, isa::neon>() { return make(5); }

TEST_CASE("choose: the best that this machine runs, whatever the order of the list") {
  int const best = purekv::runs_here(isa::neon) ? 5 : tiles ? 4 : pairs ? 3 : v4 ? 2 : v3 ? 1 : 0;
  for (char const* none : {static_cast<char const*>(nullptr), ""}) {
    table t{-1};
    made = 0;
    CHECK(
        purekv::choose<table, isa::baseline, isa::avx2, isa::avx512_amx, isa::avx512_bfloat16, isa::avx512, isa::neon>(
            t, none)
            .ok());
    CHECK(t.level == best);
    CHECK(made == 1);  // that of another level might already use its instructions
    t.level = -1;
    CHECK(
        purekv::choose<table, isa::neon, isa::avx512, isa::avx512_bfloat16, isa::avx512_amx, isa::avx2, isa::baseline>(
            t, none)
            .ok());
    CHECK(t.level == best);
  }
  table own{-1};
  CHECK(purekv::choose<table, purekv::this_isa>(own).ok());
  CHECK(own.level == static_cast<int>(purekv::this_isa));
}

TEST_CASE("choose: a level by its name, or a clear refusal that changes nothing") {
  for (isa level : {isa::baseline, isa::avx2, isa::avx512, isa::avx512_bfloat16, isa::avx512_amx, isa::neon}) {
    table t{-1};
    purekv::status const s =
        purekv::choose<table, isa::baseline, isa::avx2, isa::avx512, isa::avx512_bfloat16, isa::avx512_amx, isa::neon>(
            t, purekv::name_of(level));
    CAPTURE(purekv::name_of(level));
    CHECK(s.ok() == purekv::runs_here(level));
    CHECK(t.level == (s.ok() ? static_cast<int>(level) : -1));
    if (!s.ok()) CHECK(std::string(s.message) == "choose: this machine does not have that instruction set");
    if (!s.ok()) CHECK(s.code == purekv::errc::unsupported_device);
  }
  made = 0;
  table t{-1};
  auto const refused = [&](purekv::status const& s, purekv::errc code, char const* message) {
    CHECK(s.code == code);
    CHECK(std::string(s.message) == message);
  };
  for (char const* name : {"avx", "avx2 ", "avx5122", "AVX2", "x"})
    refused(purekv::choose<table, isa::baseline, isa::avx2>(t, name), purekv::errc::mismatch,
            "choose: no instruction set has that name: baseline, avx2, avx512, avx512_bfloat16, avx512_amx, neon");
  refused(purekv::choose<table, isa::baseline, isa::avx2>(t, "avx512"), purekv::errc::mismatch,
          "choose: the program was not compiled for that instruction set");
  constexpr isa foreign = purekv::this_isa == isa::neon ? isa::avx2 : isa::neon;
  refused(purekv::choose<table, foreign>(t), purekv::errc::unsupported_device,
          "choose: this machine has no instruction set that the program was compiled for");
  CHECK(t.level == -1);
  CHECK(made == 0);
}

#if defined(__x86_64__)
TEST_CASE("runs_here says what the compiler's own query says") {
  CHECK(purekv::runs_here(isa::baseline));
  CHECK(v3 == (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")));
  CHECK(v4 == (v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl")));
  CHECK(pairs == (v4 && __builtin_cpu_supports("avx512bf16")));
}
#endif

TEST_CASE("every bit counts, those of the operating system too") {
  using features = purekv::detail::x86_features;
  constexpr std::uint32_t bits1 = 1u | 1u << 9 | 1u << 12 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 22 | 1u << 23 |
                                  1u << 27 | 1u << 28 | 1u << 29,
                          bits7 = 1u << 3 | 1u << 5 | 1u << 8,
                          more7 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31, extended = 1u | 1u << 5;
  features f;
  CHECK_FALSE(f.v3());
  f.leaf1_ecx = bits1, f.leaf7_ebx = bits7 | more7, f.extended_ecx = extended, f.saved = 0xe7;
  CHECK(f.v4());
  CHECK_FALSE(f.v4_bfloat16());
  f.leaf71_eax = 1u << 5;
  CHECK(f.v4_bfloat16());
  CHECK_FALSE(f.tiles());
  f.leaf7_edx = 1u << 22 | 1u << 24, f.saved = 0x600e7;
  CHECK(f.tiles());
  for (std::uint32_t saved : {0xe7u, 0x200e7u, 0x400e7u}) {  // a system that keeps no tiles, or only half of them
    f.saved = saved;
    CHECK_FALSE(f.tiles());
  }
  f.saved = 0x600e7;
  for (std::uint32_t lacks : {22u, 24u}) {
    f.leaf7_edx ^= 1u << lacks;
    CHECK_FALSE(f.tiles());
    f.leaf7_edx ^= 1u << lacks;
  }
  f.saved = 0x07;  // a system that knows no AVX-512
  CHECK(f.v3());
  CHECK_FALSE(f.v4());
  CHECK_FALSE(f.v4_bfloat16());
  f.saved = 0x03;  // nor AVX
  CHECK_FALSE(f.v3());
  f.saved = 0xe7;
  auto const needed = [&](std::uint32_t features::*word, std::uint32_t mask, bool (features::*level)() const) {
    for (int bit = 0; bit < 32; ++bit) {
      features lacks = f;
      lacks.*word &= ~(1u << bit);
      CAPTURE(bit);
      CHECK((lacks.*level)() == ((mask >> bit & 1) == 0));
    }
  };
  needed(&features::leaf1_ecx, bits1, &features::v3);
  needed(&features::leaf7_ebx, bits7, &features::v3);
  needed(&features::extended_ecx, extended, &features::v3);
  needed(&features::saved, 0x06, &features::v3);
  needed(&features::leaf1_ecx, bits1, &features::v4);
  needed(&features::leaf7_ebx, bits7 | more7, &features::v4);
  needed(&features::extended_ecx, extended, &features::v4);
  needed(&features::saved, 0xe6, &features::v4);
}
