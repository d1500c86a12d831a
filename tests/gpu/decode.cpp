// SPDX-License-Identifier: Apache-2.0
#include <purekv/decode.cuh>
// The header under test comes first.
#include "support/decode_shapes.hpp"
#include "support/gpu.hpp"

#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/custom.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>

using namespace purekv;
using namespace fixtures;

namespace gpu_decode_test {

float const inf = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();

/// A random predicate that is constant on blocks of positions, for the device too.
struct blocks {
  std::uint64_t seed;
  std::int32_t percent, block;
  PUREKV_HD bool operator()(std::int32_t head, std::int32_t q, std::int32_t k) const {
    std::uint64_t x = seed + static_cast<std::uint64_t>(head);
    for (std::int32_t part : {q / block, k / block}) {
      x = x * 31 + static_cast<std::uint64_t>(part);
      x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
      x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
      x = x ^ (x >> 31);
    }
    return static_cast<std::int32_t>(x % 100) < percent;
  }
};

/// Rows must lie at multiples of 16 bytes.
void vary(test::random& random, shape& s) {
  s.gap = random.between(0, 1) * 8;
  s.cache_order = random.between(0, 1) == 0 ? order::head_major : order::token_major;
  s.q_order = random.between(0, 1) == 0 ? order::head_major : order::token_major;
  s.out_order = random.between(0, 1) == 0 ? order::head_major : order::token_major;
  s.poison = random.between(0, 1) == 0 ? beyond::nan : beyond::attractive;
}

/// Decodes on a device of `multiprocessors` (0: as many as it has): agrees with the oracle, writes nothing else, and
/// with too little workspace nothing at all.
template <class TO, class T, class Owned, class P>
attention_output<TO> check(test::random& random, attention_input<T, Owned> const& in, shape const& s, P const& pattern,
                           tap_request const& request = {}, int multiprocessors = 0) {
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  CAPTURE(s.value_dim);
  CAPTURE(s.span[0]);
  CAPTURE(s.queries[0]);
  test::gpu_device device(random);
  gpu exec = device.exec();
  if (multiprocessors > 0) exec.device.multiprocessors = multiprocessors;
  attention_output<TO> actual(in, s, request);
  snapshot inputs;
  inputs.watch(in.q.memory);
  inputs.watch(in.cache.keys);
  inputs.watch(in.cache.values);
  inputs.watch(in.cache.positions);
  inputs.watch(in.sink_logits);
  owned_workspace work(decode_workspace(exec, pattern, in.queries, in.cache.view, actual.taps));
  auto const call = [&](workspace const& memory) {
    return decode(exec, pattern, in.queries, in.cache.view, actual.out.view, actual.taps, memory);
  };
  CHECK(device.status_of([&](gpu const&) { return call(work.one_byte_less()); }).code == errc::workspace_too_small);
  CHECK(actual.untouched());
  device.run([&](gpu const&) { return call(work.view()); });
  CHECK(work.guards_untouched());
  CHECK(actual.out.gaps_untouched());
  CHECK(actual.lse.rest_untouched([&](int, int) { return request.lse ? in.queries.rows.tokens : 0; }));
  CHECK(actual.mass.rest_untouched([&](int sequence, int row) {
    int const kv_head = request.mass_rows == score_rows::heads ? row / (s.heads / s.kv_heads) : row;
    return request.mass ? in.cache.view.length(sequence, kv_head) : 0;
  }));
  CHECK(inputs.unchanged());
  auto reference = oracle::attend(pattern, in.queries, in.cache.view);
  test::allow_tensor_cores<T>(reference);
  compare_with_oracle(in, s, actual, reference, request, test::relative_l2_of_tensor_cores<T, TO>());
  return actual;
}

template <class T, template <class> class Owned, class TO>
void check_steps(test::random& random, std::initializer_list<shape> shapes) {
  for (shape s : shapes) {
    vary(random, s);
    attention_input<T, Owned<T>> const in(random, s);
    check<TO>(random, in, s, dense{}, {.mass = random.between(0, 1) == 0}, random.between(0, 1) * random.between(1, 9));
  }
}

}  // namespace gpu_decode_test

using namespace gpu_decode_test;

TEST_CASE("decode on a GPU: one query") {
  SEEDED(random);
  check_steps<half, owned_contiguous, float>(
      random, {step(1, 1, 64, 1), step(4, 1, 64, 5), step(7, 1, 64, 16), step(8, 2, 128, 63), step(3, 1, 64, 64),
               step(8, 1, 128, 65), step(14, 2, 64, 129), step(40, 2, 64, 300), step(8, 1, 128, 1001)});
  check_steps<bfloat16, owned_ragged, bfloat16>(
      random, {step(7, 1, 64, 1), step(8, 2, 128, 257), step(8, 2, 96, 300), step(4, 1, 72, 65), step(3, 3, 8, 40)});
  check_steps<bfloat16, owned_ragged, half>(random, {step(8, 2, 256, 140), step(4, 4, 200, 33), step(20, 1, 192, 64)});
}

TEST_CASE("decode on a GPU: a few queries, and many") {
  SEEDED(random);
  check_steps<half, owned_contiguous, float>(
      random, {step(4, 2, 64, 200, 2), step(7, 1, 128, 65, 5), step(8, 1, 64, 600, 9), step(3, 1, 40, 90, 64),
               step(8, 2, 256, 70, 9), step(20, 1, 32, 70, 3)});
  for (int queries = 1; queries <= 9; ++queries)
    check_steps<bfloat16, owned_ragged, float>(random, {step(8, 2, 64, 70 + queries, queries)});
}

TEST_CASE("decode on a GPU: ragged batches and caches, sequences with nothing to ask or nothing cached") {
  SEEDED(random);
  shape s = ragged_batch(900);
  for (int keep : {100, 40, 0}) {
    s.keep_percent = keep;
    attention_input<bfloat16, owned_ragged<bfloat16>> const in(random, s);
    check<half>(random, in, s, dense{}, {.mass = true}, 1);
    check<half>(random, in, s, dense{}, {.lse = false, .mass = true, .mass_rows = score_rows::heads});
  }
}

TEST_CASE("decode on a GPU: one long head among short ones, nobody to ask, and nobody to answer") {
  SEEDED(random);
  shape s;
  s.heads = 14;
  s.kv_heads = 2;
  s.dim = 32;
  s.span = {30, 4000, 70, 1};
  s.queries = {1, 1, 2, 1};
  attention_input<bfloat16, owned_ragged<bfloat16>> const in(random, s);
  check<float>(random, in, s, dense{}, {.mass = true});
  s.span = {100};
  s.queries = {0};
  attention_input<bfloat16, owned_ragged<bfloat16>> const silent(random, s);
  check<half>(random, silent, s, dense{}, {.mass = true});
}

TEST_CASE("decode on a GPU: the mass of some queries, by heads or groups, their sum or the largest") {
  SEEDED(random);
  shape const s = many_queries(500);
  attention_input<bfloat16, owned_ragged<bfloat16>> const in(random, s);
  for (auto rows : {score_rows::heads, score_rows::kv_heads})
    for (auto by : {mass_reduction::sum, mass_reduction::maximum})
      for (auto queries : {query_range{1, 3}, last(4)})
        check<half>(random, in, s, dense{},
                    {.lse = random.between(0, 1) == 0,
                     .mass = true,
                     .mass_queries = queries,
                     .mass_rows = rows,
                     .mass_by = by});
}

TEST_CASE("decode on a GPU: patterns, with runs and without") {
  SEEDED(random);
  shape s = three_groups();
  vary(random, s);
  buffer<std::uint8_t> kinds;
  for (int h = 0; h < s.heads; ++h) kinds.push_back(static_cast<std::uint8_t>(h < 2 ? 1 : h < 4 ? 0 : h % 2));
  for (int percent : {0, 10, 90}) {
    attention_input<bfloat16, owned_ragged<bfloat16>> const in(random, s);
    check<half>(random, in, s, custom{blocks{random(), percent, 13}}, {.mass = true});
    check<half>(random, in, s, sinks_and_window{2, 50}, {.mass = true}, 1);
    check<half>(random, in, s, by_head<sliding_window>{{{20}, {300}}, kinds.data(), s.heads},
                {.mass = true, .mass_rows = score_rows::heads});
  }
}

TEST_CASE("decode on a GPU: queries older than what is cached see only what they may") {
  SEEDED(random);
  shape const s = older_queries();
  attention_input<bfloat16, owned_ragged<bfloat16>> const in(random, s);
  check<float>(random, in, s, dense{}, {.mass = true});
  check<float>(random, in, s, sinks_and_window{3, 40}, {.mass = true});
}

TEST_CASE("decode on a GPU: what nobody sees ends, or begins, within a tile") {
  SEEDED(random);
  // Tokens in tiles behind the newest query have a mass of 0.
  attention_input<bfloat16, owned_ragged<bfloat16>> early(random, step(4, 2, 64, 300, 3));
  for (int i = 0; i < 3; ++i) early.positions[size(i)] = 100 + i;
  check<half>(random, early, step(4, 2, 64, 300, 3), dense{}, {.mass = true});
  // The window begins with the last token of a tile.
  attention_input<bfloat16, owned_ragged<bfloat16>> const edge(random, step(4, 2, 64, 300));
  check<half>(random, edge, step(4, 2, 64, 300), sinks_and_window{1, 300 - 127}, {.mass = true});
}

TEST_CASE("decode on a GPU: images see themselves in both directions") {
  SEEDED(random);
  buffer<segment> const segments(std::begin(mixed_media), std::end(mixed_media));
  token_layout const layout{segments.data(), static_cast<std::int32_t>(segments.size())};
  for (int keep : {100, 50}) {
    shape const s = images(keep);
    attention_input<bfloat16, owned_ragged<bfloat16>> const in(random, s);
    check<bfloat16>(random, in, s, bidirectional<sliding_window>{layout, {30}}, {.mass = true});
  }
}

TEST_CASE("decode on a GPU: large logits, NaN and inf") {
  SEEDED(random);
  for (float scale : {0.0f, 100.0f}) {
    shape s = step(4, 2, 64, 500, 3);
    s.scale = scale;
    attention_input<half, owned_contiguous<half>> in(random, s);
    check<float>(random, in, s, dense{}, {.mass = true});
    spoil(random, in);
    check<float>(random, in, s, dense{}, {.mass = true});
  }
  shape const s = step(4, 2, 64, 300);
  attention_input<half, owned_contiguous<half>> in(random, s);
  for (half& x : in.q.memory) x = half(not_a_number);
  auto const blind = check<float>(random, in, s, dense{}, {.mass = true});
  CHECK(blind.out.view.row(3, 0)[0] == 0);
  CHECK(blind.lse.view.row(0, 3)[0] == -inf);
}

TEST_CASE("decode on a GPU: logits beyond the range of floats") {
  SEEDED(random);
  shape s = step(2, 1, 16, 90, 2);
  attention_input<bfloat16, owned_ragged<bfloat16>> in(random, s);
  for (int t = 0; t < 90; ++t) in.cache.view.run(0, 0, t).keys[0] = bfloat16(0.0f);
  for (int t : {3, 70}) in.cache.view.run(0, 0, t).keys[0] = bfloat16(t == 3 ? 3e38f : -3e38f);
  for (int t : {0, 1}) {
    in.q.view.row(0, t)[0] = bfloat16(3e38f);
    in.q.view.row(1, t)[0] = bfloat16(1e-3f);
  }
  check<float>(random, in, s, dense{}, {.mass = true});
}

TEST_CASE("decode on a GPU: a value counts only for those who see it, whatever it holds") {
  SEEDED(random);
  struct {
    int group, dim, queries, tokens, multiprocessors;
  } const all[] = {{1, 64, 3, 200, 1},
                   {7, 128, 9, 200, 1},
                   {20, 64, 3, 200, 1},
                   {4, 200, 3, 200, 1},
                   {4, 64, 3, 700, 40}};  // in the last of several parts
  for (auto const& n : all) {
    shape s = step(2 * n.group, 2, n.dim, random.between(n.tokens - 100, n.tokens), n.queries);
    s.keep_percent = 90;
    attention_input<bfloat16, owned_ragged<bfloat16>> in(random, s);
    auto const value = [&](int head, int from_end, int c) -> bfloat16& {
      return in.cache.view.run(0, head, in.cache.view.length(0, head) - 1 - from_end).values[c];
    };
    value(1, 0, 7) = bfloat16(not_a_number);
    value(0, 1, n.dim - 1) = bfloat16(-inf);
    check<half>(random, in, s, dense{}, {.mass = true}, n.multiprocessors);
    value(0, random.between(62, 80), 0) = bfloat16(inf);
    check<half>(random, in, s, sinks_and_window{3, 60}, {}, 1);
  }
}

TEST_CASE("decode on a GPU: soft cap and sinks") {
  SEEDED(random);
  for_caps_and_sinks(400, [&](shape const& s) {
    attention_input<bfloat16, owned_ragged<bfloat16>> in(random, s);
    check<half>(random, in, s, dense{}, {.mass = true});
    spoil_ends(in);
    check<half>(random, in, s, sinks_and_window{1, 20}, {.mass = true});
  });
}

TEST_CASE("decode on a GPU: of an empty cache and a sink remains the sink") {
  SEEDED(random);
  shape const s = only_a_sink();
  attention_input<bfloat16, owned_ragged<bfloat16>> const in(random, s);
  auto const actual = check<float>(random, in, s, dense{});
  CHECK(actual.out.view.row(0, 0)[9] == 0);
  CHECK(actual.lse.view.row(0, 0)[0] == doctest::Approx(in.sink_logits[0] * 1.442695f));
}

TEST_CASE("decode on a GPU: values of another width than the keys") {
  SEEDED(random);
  for (auto [dim, value_dim] : {std::pair{192, 128}, {40, 24}, {8, 72}, {24, 8}})
    for (int group : {1, 4, 8}) {
      shape s = step(2 * group, 2, dim, random.between(1, 300), 1);
      s.value_dim = value_dim;
      vary(random, s);
      {
        attention_input<half, owned_contiguous<half>> in(random, s);
        in.cache.view.run(0, 1, 0).values[value_dim - 1] = half(not_a_number);
        check<half>(random, in, s, dense{}, {.mass = true});
      }
      s.span = {200, 0, 20};
      s.queries = {2, 0, 3};
      s.keep_percent = 60;
      attention_input<bfloat16, owned_ragged<bfloat16>> const in(random, s);
      check<half>(random, in, s, sinks_and_window{2, 25}, {.mass = true});
    }
}

TEST_CASE("decode on a GPU: the same bits in every run") {
  SEEDED(random);
  shape s;
  s.heads = 8;
  s.kv_heads = 2;
  s.span = {900, 3, 70};
  s.queries = {2, 1, 1};
  attention_input<half, owned_contiguous<half>> const in(random, s);
  auto const first = check<float>(random, in, s, dense{}, {.mass = true});
  for (int run = 0; run < 3; ++run) CHECK(check<float>(random, in, s, dense{}, {.mass = true}).same_bits_as(first));
}

namespace gpu_decode_test {

/// The plan of a batch: every set of rows has all tiles of its heads, cut as evenly as may be.
template <class P>
std::vector<detail::decode_split> check_plan(test::random& random, shape const& s, P const& pattern,
                                             int multiprocessors) {
  attention_input<bfloat16, owned_ragged<bfloat16>> const in(random, s);
  using shape_of = detail::decode_tile<bfloat16, 64>;
  test::gpu_device device(random);
  gpu exec = device.exec();
  exec.device.multiprocessors = multiprocessors;
  detail::decode_bounds bounds;
  REQUIRE(detail::decode_bounds::find(exec, in.queries, in.cache.view, bounds).ok());
  int const heads = s.sequences() * s.kv_heads, group = s.heads / s.kv_heads;
  buffer<detail::decode_head> of_head(size(heads));
  buffer<detail::decode_split> splits(size(bounds.splits));
  buffer<std::int32_t> shown(size(detail::slots_in(in.cache.view) / shape_of::keys + heads)), visibility(shown.size());
  buffer<std::int32_t> count(1);
  detail::decode_tables const tables{of_head.data(), splits.data(), count.data(), shown.data(), visibility.data()};
  device.run([&](gpu const&) {
    return detail::plan_splits(exec, pattern, in.queries, in.cache.view, bounds, shape_of::fewest_tiles, tables);
  });

  auto const sets = [&](int head) {
    int const rows = s.queries[size(head / s.kv_heads)] * group;
    return (rows + shape_of::rows - 1) / shape_of::rows;
  };
  auto const splits_of = [&](int part) {
    int all = 0;
    for (int i = 0; i < heads; ++i) all += sets(i) * ((of_head[size(i)].tiles + part - 1) / part);
    return all;
  };
  int busy = 0, most = 1, row_parts = 0, longest = 0;
  for (int i = 0; i < heads; ++i) {
    busy += of_head[size(i)].tiles > 0 ? sets(i) : 0;
    most = std::max(most, of_head[size(i)].tiles);
    CHECK(of_head[size(i)].row_part == row_parts);
    row_parts += of_head[size(i)].parts * s.queries[size(i / s.kv_heads)] * group;
  }
  CHECK(row_parts <= bounds.row_parts);
  int const limit = std::max(bounds.target, busy + std::min(busy, bounds.target));
  int part = shape_of::fewest_tiles;
  while (part < most && splits_of(part) > limit) ++part;
  REQUIRE(count[0] == splits_of(part));
  REQUIRE(count[0] <= bounds.splits);
  int at = 0;
  for (int i = 0; i < heads; ++i)
    for (int set = 0; set < sets(i); ++set) {
      int tile = 0;
      for (int p = 0; p < of_head[size(i)].parts; ++p, ++at) {
        detail::decode_split const& split = splits[size(at)];
        CHECK(split.sequence * s.kv_heads + split.kv_head == i);
        CHECK(split.set == set);
        CHECK(split.part == p);
        CHECK(split.first() == tile);
        CHECK(split.last() > tile);
        longest = std::max(longest, split.last() - tile);
        tile = split.last();
      }
      CHECK(tile == of_head[size(i)].tiles);
    }
  CHECK(at == count[0]);
  CHECK(longest <= part);
  splits.resize(size(count[0]));
  return {splits.begin(), splits.end()};
}

}  // namespace gpu_decode_test

TEST_CASE("decode on a GPU: a long head among short ones is cut into as many parts as there is room for") {
  SEEDED(random);
  shape s;
  s.heads = 8;
  s.kv_heads = 2;
  s.dim = 8;
  s.span = {20000, 0, 5, 300, 17, 1, 64, 900};
  s.queries = {1, 0, 2, 1, 1, 1, 20, 16};  // the last are a set of rows to the row
  for (int multiprocessors : {1, 4, 40}) {
    auto const splits = check_plan(random, s, dense{}, multiprocessors);
    auto const of_long = std::count_if(splits.begin(), splits.end(), [](auto const& one) { return one.sequence == 0; });
    CHECK(of_long >= multiprocessors);
  }
  s.span.assign(300, 100);
  s.queries.assign(300, 1);
  check_plan(random, s, dense{}, 4);
}

TEST_CASE("decode on a GPU: of a head only the tiles that a pattern shows are cut, what is hidden costs nothing") {
  SEEDED(random);
  shape s;
  s.heads = 4;
  s.kv_heads = 2;
  s.dim = 8;
  s.span = {20000, 40};
  s.queries = {1, 2};
  auto const splits = check_plan(random, s, sinks_and_window{4, 1000}, 4);
  int tiles = 0;
  for (detail::decode_split const& split : splits) tiles += split.last() - split.first();
  CHECK(tiles <= 2 * (1 + 1000 / 64 + 2) + 2);
  s.queries = {0, 0};
  CHECK(check_plan(random, s, sinks_and_window{4, 1000}, 4).empty());
}

TEST_CASE("decode on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  shape const s = step(4, 2, 64, 70, 2);
  attention_input<half, owned_contiguous<half>> const in(random, s);
  attention_output<float> const actual(in, s, {.mass = true});
  test::gpu_device device(random);
  owned_workspace work(decode_workspace(device.exec(), dense{}, in.queries, in.cache.view, actual.taps));
  auto const code = [&](auto const& change) {
    gpu exec = device.exec();
    auto q = in.queries;
    auto cache = in.cache.view;
    auto out = actual.out.view;
    auto taps = actual.taps;
    change(exec, q, cache, out, taps);
    return device.status_of([&](gpu const&) { return decode(exec, dense{}, q, cache, out, taps, work.view()); }).code;
  };
  CHECK(code([](auto& exec, auto&, auto&, auto&, auto&) { exec.device = {}; }) == errc::unsupported_device);
  CHECK(code([](auto& exec, auto&, auto&, auto&, auto&) { exec.device.shared_bytes = 30000; }) ==
        errc::unsupported_device);
  CHECK(code([](auto&, auto& q, auto&, auto&, auto&) { q.rows.data += 1; }) == errc::bad_pointer);
  CHECK(code([](auto&, auto& q, auto&, auto&, auto&) { q.rows.token_stride += 4; }) == errc::bad_pointer);
  CHECK(code([](auto&, auto&, auto& cache, auto&, auto&) { cache.values += 4; }) == errc::bad_pointer);
  CHECK(code([](auto&, auto& q, auto& cache, auto& out, auto&) { q.rows.dim = cache.dim = out.dim = 60; }) ==
        errc::bad_shape);
  CHECK(code([](auto&, auto& q, auto&, auto&, auto&) { q.batch.positions = nullptr; }) == errc::null_data);
  CHECK(code([](auto&, auto& q, auto&, auto&, auto&) { q.soft_cap = -1; }) == errc::bad_shape);
  CHECK(code([](auto&, auto&, auto&, auto& out, auto&) { out.dim = 56; }) == errc::mismatch);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& taps) { taps.lse_stride = 1; }) == errc::bad_shape);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& taps) { taps.mass.rows = 4; }) == errc::mismatch);
  CHECK(code([](auto&, auto&, auto&, auto&, auto& taps) { taps.mass_queries.begin = -1; }) == errc::bad_shape);
  CHECK(actual.untouched());
  CHECK(work.guards_untouched());
}
