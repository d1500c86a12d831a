// SPDX-License-Identifier: Apache-2.0
#define PUREKV_BFLOAT16_DOT_IN_SOFTWARE
#include <purekv/attend.hpp>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

#include <limits>

using namespace fixtures;
using purekv::bfloat16;
using cache_of_pairs = owned_contiguous<bfloat16>;

namespace {

static_assert(purekv::detail::in_pairs<bfloat16, bfloat16> && !purekv::detail::in_pairs<float, bfloat16>);

purekv::dense const dense{};

struct attend_operation {
  static std::size_t bytes(auto const&... in) { return purekv::attend_workspace(in...); }
  static purekv::status run(auto const&... in) { return purekv::attend(in...); }
};
operation_check<attend_operation, float> const check{};

template <class P> void check_shapes(generator& random, P const& pattern, std::initializer_list<shape> shapes) {
  for (shape s : shapes) {
    s.cache_order = between(random, 0, 1) == 0 ? order::head_major : order::token_major;
    s.gap = between(random, 0, 1) * between(random, 1, 9);
    s.poison = between(random, 0, 1) == 0 ? beyond::nan : beyond::attractive;
    attention_input<bfloat16, cache_of_pairs> const in(random, s);
    check(in, s, pattern, {.mass = true, .block_mass = true});
  }
}

}  // namespace

TEST_CASE("attend in pairs of bfloat16: dims odd and even, groups 1, 3, 4, 7 and 8") {
  SEEDED(random);
  check_shapes(random, dense,
               {square(1, 1, 1, 1), square(4, 2, 2, 9), square(8, 1, 5, 64), square(7, 1, 31, 65), square(3, 1, 33, 17),
                square(4, 4, 64, 130), square(8, 1, 80, 129), square(7, 1, 96, 65), square(4, 1, 127, 40),
                square(14, 2, 128, 200), square(2, 1, 256, 33)});
}

TEST_CASE("attend in pairs of bfloat16: a scale above and below 1, a cap, sinks, values of another width") {
  SEEDED(random);
  for (float scale : {0.0f, 0.01f, 3.0f, -1.0f})
    for (float cap : {0.0f, 4.0f}) {
      shape s = square(8, 2, 48, 90);
      s.scale = scale;
      s.soft_cap = cap;
      s.sinks = cap != 0;
      s.value_dim = between(random, 1, 70);
      attention_input<bfloat16, cache_of_pairs> const in(random, s);
      check(in, s, dense);
    }
}

TEST_CASE("attend in pairs of bfloat16: patterns, a ragged batch and a pruned cache") {
  SEEDED(random);
  shape s;
  s.heads = 7;
  s.kv_heads = 1;
  s.dim = 40;
  s.span = {0, 5, 64, 1, 130};
  s.queries = {0, 5, 20, 1, 70};
  s.keep_percent = 60;
  check_shapes(random, dense, {s});
  check_shapes(random, purekv::sinks_and_window{4, 32}, {s, square(8, 2, 64, 200)});
  purekv::token_layout const layout{mixed_media, std::size(mixed_media)};
  check_shapes(random, purekv::spatial_temporal{.layout = layout}, {square(4, 1, 64, mixed_media_tokens)});
}

TEST_CASE("attend in pairs of bfloat16: keys that are no numbers or infinite") {
  SEEDED(random);
  shape const s = square(4, 2, 37, 70);
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (float bad : {nan, inf, -inf, std::numeric_limits<float>::max()}) {
    attention_input<bfloat16, cache_of_pairs> in(random, s);
    auto const run = in.cache.view.run(0, between(random, 0, 1), between(random, 0, 69));
    const_cast<bfloat16*>(run.keys)[between(random, 0, 36)] = bfloat16(bad);
    check(in, s, dense);
  }
}

TEST_CASE("a pair of bfloat16 adds exact products in order, and takes subnormals for zero") {
  SEEDED(random);
  using purekv::detail::vec;
  auto const pair = [](float first, float second) {
    bfloat16 const both[] = {bfloat16(first), bfloat16(second)};
    float bits;
    std::memcpy(&bits, both, sizeof bits);
    return purekv::detail::splat(bits);
  };
  auto const added = [&](float sum, float a0, float a1, float b0, float b1) {
    return purekv::detail::add_pairs(purekv::detail::splat(sum), pair(a0, a1), pair(b0, b1))[0];
  };
  for (int i = 0; i < 1000; ++i) {
    float const a0 = float(bfloat16(normal(random))), a1 = float(bfloat16(normal(random)));
    float const b0 = float(bfloat16(normal(random))), b1 = float(bfloat16(normal(random))), sum = normal(random);
    CHECK(added(sum, a0, a1, b0, b1) == std::fma(a0, b0, std::fma(a1, b1, sum)));
  }
  float const tiny = 0x1p-130f;
  CHECK(added(0, tiny, 0, 0x1p126f, 0) == 0);
  CHECK(added(tiny, 0, 0, 0, 0) == 0);
  CHECK(added(0x1p-126f, 0x1p-64f, 0, -0x1p-63f, 0) == 0);
}
