// SPDX-License-Identifier: Apache-2.0
#include <purekv/decode.hpp>
// The header under test comes first.
#include "support/decode_shapes.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>

using namespace fixtures;
using purekv::bfloat16;
using purekv::half;

namespace {

struct decode_operation {
  static std::size_t bytes(auto const&... in) { return purekv::decode_workspace(in...); }
  static purekv::status run(auto const&... in) { return purekv::decode(in...); }
};
template <class TO> operation_check<decode_operation, TO> const check{};

template <class TQ, class Owned, class TO> void check_steps(generator& random, std::initializer_list<shape> shapes) {
  for (shape s : shapes) {
    s.gap = between(random, 0, 1) * between(random, 1, 9);
    s.cache_order = between(random, 0, 1) == 0 ? order::head_major : order::token_major;
    s.poison = between(random, 0, 1) == 0 ? beyond::nan : beyond::attractive;
    attention_input<TQ, Owned> const in(random, s);
    check<TO>(in, s, purekv::dense{}, {.mass = between(random, 0, 1) == 0});
  }
}

}  // namespace

TEST_CASE("decode: one query, float") {
  SEEDED(random);
  check_steps<float, owned_contiguous<float>, float>(
      random, {step(1, 1, 64, 1), step(4, 1, 64, 5), step(7, 1, 64, 16), step(8, 2, 128, 63), step(3, 1, 64, 65),
               step(8, 1, 128, 127), step(14, 2, 64, 129), step(70, 1, 64, 300), step(28, 4, 128, 1001),
               step(2, 2, 64, 5003), step(9, 3, 1, 17), step(4, 2, 5, 64), step(4, 4, 72, 300), step(8, 1, 80, 15),
               step(3, 3, 100, 129), step(7, 1, 96, 1024)});
}

TEST_CASE("decode: 16-bit caches") {
  SEEDED(random);
  check_steps<float, owned_contiguous<half>, float>(
      random, {step(7, 1, 64, 1), step(28, 4, 128, 777), step(8, 2, 64, 300), step(4, 1, 72, 65), step(3, 1, 1, 40)});
  check_steps<bfloat16, owned_ragged<bfloat16>, bfloat16>(
      random, {step(4, 1, 64, 2), step(14, 2, 128, 600), step(8, 8, 64, 300), step(4, 2, 100, 65)});
}

TEST_CASE("decode: a few queries") {
  SEEDED(random);
  check_steps<float, owned_contiguous<float>, float>(
      random, {step(4, 2, 64, 200, 2), step(7, 1, 128, 65, 5), step(8, 1, 64, 1300, 17), step(3, 1, 40, 90, 64)});
}

TEST_CASE("decode: dims of models, for every number of rows in registers") {
  SEEDED(random);
  for (int dim : {32, 72, 80, 96, 112, 192, 256, 7, 130})
    for (int group = 1; group <= 8; ++group) {
      shape const s = step(group, 1, dim, between(random, 1, 140));
      attention_input<half, owned_ragged<half>> const halves(random, s);
      check<float>(halves, s, purekv::dense{}, {}, {1, 2});
      attention_input<float, owned_contiguous<float>> const floats(random, s);
      check<float>(floats, s, purekv::dense{}, {}, {1, 2});
    }
}

TEST_CASE("decode: ragged batches and caches, sequences with nothing to ask or nothing cached") {
  SEEDED(random);
  shape s = ragged_batch(2000);
  for (int keep : {100, 40, 0}) {
    s.keep_percent = keep;
    attention_input<half, owned_ragged<half>> const in(random, s);
    check<half>(in, s, purekv::dense{}, {.mass = true});
    check<half>(in, s, purekv::dense{}, {.lse = false, .mass = true, .mass_rows = purekv::score_rows::heads});
  }
}

TEST_CASE("decode: the mass tap may take the largest probability instead of the sum") {
  SEEDED(random);
  shape const s = many_queries(1100);
  attention_input<half, owned_ragged<half>> const in(random, s);
  for (auto rows : {purekv::score_rows::heads, purekv::score_rows::kv_heads})
    for (auto queries : {purekv::query_range{}, purekv::last(4)})
      check<half>(
          in, s, purekv::dense{},
          {.mass = true, .mass_queries = queries, .mass_rows = rows, .mass_by = purekv::mass_reduction::maximum});
}

TEST_CASE("decode: patterns") {
  SEEDED(random);
  shape const s = three_groups();
  for (int percent : {0, 10, 90}) {
    scattered const predicate{random(), percent, 13};
    attention_input<float, owned_ragged<float>> const in(random, s);
    check<float>(in, s, pattern_of<true>(predicate), {.mass = true});
    check<float>(in, s, purekv::sinks_and_window{2, 50}, {.mass = true});
  }
}

TEST_CASE("decode: queries older than what is cached see only what they may") {
  SEEDED(random);
  shape const s = older_queries();
  attention_input<float, owned_ragged<float>> const in(random, s);
  check<float>(in, s, purekv::dense{}, {.mass = true});
}

TEST_CASE("decode: large logits, NaN and inf") {
  SEEDED(random);
  for (float scale : {0.0f, 100.0f}) {
    shape s = step(4, 2, 64, 500, 3);
    s.scale = scale;
    attention_input<float, owned_contiguous<float>> in(random, s);
    check<float>(in, s, purekv::dense{}, {.mass = true});
    spoil(random, in);
    // The first of the three queries does not see it; of large logits nobody can say which probabilities are 0.
    if (scale == 0) in.cache.view.run(0, 1, 498).values[7] = nan_of<float>();
    check<float>(in, s, purekv::dense{});
  }
  shape const s = step(4, 2, 64, 300);
  attention_input<float, owned_contiguous<float>> in(random, s);
  for (float& x : in.q.memory) x = nan_of<float>();
  auto const blind = check<float>(in, s, purekv::dense{}, {.mass = true});
  CHECK(blind.out.view.row(3, 0)[0] == 0);
  CHECK(blind.lse.view.row(0, 3)[0] == -std::numeric_limits<float>::infinity());
}

TEST_CASE("decode: soft cap and sinks") {
  SEEDED(random);
  for_caps_and_sinks(1100, [&](shape const& s) {
    attention_input<half, owned_ragged<float>> in(random, s);
    check<float>(in, s, purekv::dense{}, {.mass = true}, {1, 3});
    check<float>(in, s, purekv::sinks_and_window{1, 20}, {.mass = true}, {1, 3});
    spoil_ends(in);
    check<float>(in, s, purekv::dense{}, {.mass = true}, {1, 3});
  });
}

TEST_CASE("decode: of an empty cache and a sink remains the sink") {
  SEEDED(random);
  shape const s = only_a_sink();
  attention_input<float, owned_ragged<float>> const in(random, s);
  auto const actual = check<float>(in, s, purekv::dense{});
  CHECK(actual.out.view.row(0, 0)[9] == 0);
  CHECK(actual.lse.view.row(0, 0)[0] == doctest::Approx(in.sink_logits[0] * 1.442695f));
}

TEST_CASE("decode: images see themselves in both directions") {
  SEEDED(random);
  purekv::token_layout const layout{mixed_media, 5};
  for (int keep : {100, 50}) {
    shape const s = images(keep);
    attention_input<float, owned_ragged<half>> const in(random, s);
    scattered const predicate{random(), 40, 8};
    auto const any = pattern_of<true>(predicate);
    check<float>(in, s, purekv::bidirectional<>{layout}, {.mass = true});
    check<float>(in, s, purekv::bidirectional<purekv::sliding_window>{layout, {30}}, {.mass = true});
    check<float>(in, s, purekv::bidirectional<any_pattern<true>>{layout, any}, {.mass = true});
  }
}

TEST_CASE("decode: values of another width than the keys") {
  SEEDED(random);
  for (auto [dim, value_dim] : {std::pair{192, 128}, {576, 512}, {40, 24}, {5, 70}, {24, 1}})
    for (int group : {1, 4, 7, 8}) {
      shape s = step(2 * group, 2, dim, between(random, 1, 700), 1);
      s.value_dim = value_dim;
      s.gap = between(random, 0, 1) * between(random, 1, 9);
      s.cache_order = between(random, 0, 1) == 0 ? order::head_major : order::token_major;
      {
        attention_input<half, owned_contiguous<half>> in(random, s);
        check<float>(in, s, purekv::dense{}, {.mass = true}, {1, 3});
        in.cache.view.run(0, 1, 0).values[value_dim - 1] = nan_of<half>();
        check<float>(in, s, purekv::dense{}, {}, {1, 3});
      }
      s.span = {600, 0, 20};
      s.queries = {2, 0, 3};
      s.keep_percent = 60;
      attention_input<float, owned_ragged<bfloat16>> const in(random, s);
      check<float>(in, s, purekv::sinks_and_window{2, 25}, {.mass = true}, {1, 3});
    }
}
