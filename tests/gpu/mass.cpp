// SPDX-License-Identifier: Apache-2.0
#if defined(__CUDACC__)
#endif
#include <purekv/mass.cuh>
// The header under test comes first.
#include "support/fixtures_attention.hpp"
#include "support/gpu.hpp"

#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/custom.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

using namespace purekv;
using fixtures::shape;
using fixtures::square;

namespace gpu_mass_test {

/// A random predicate, constant on blocks of positions, on every device.
template <bool PerHead> struct scattered {
  std::uint32_t seed;
  std::int32_t percent, block;
  PUREKV_HD bool operator()(std::int32_t head, std::int32_t q, std::int32_t k) const {
    std::uint32_t x = seed + (PerHead ? static_cast<std::uint32_t>(head) * 0x9e3779b9u : 0);
    x = mix(x + static_cast<std::uint32_t>(q / block));
    x = mix(x + static_cast<std::uint32_t>(k / block));
    return x % 100 < static_cast<std::uint32_t>(percent);
  }
  PUREKV_HD static std::uint32_t mix(std::uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
  }
};
using every_head = custom<scattered<false>, no_classifier, false>;
using each_head = custom<scattered<true>>;

using dense_rows = fixtures::owned_contiguous<bfloat16>;
using ragged_rows = fixtures::owned_ragged<half>;

template <class Owned> using element = typename decltype(Owned::view)::element;
template <class Owned> using input = fixtures::attention_input<element<Owned>, Owned>;

/// lse as an attention call would have left it: the oracle's, rounded to float. NaN of queries outside `range`, which
/// nobody may look at.
template <class Owned>
fixtures::owned_scores lse_of(input<Owned> const& in, std::vector<oracle::head_attention> const& reference,
                              query_range const& range) {
  query_view<element<Owned>> const& q = in.queries;
  fixtures::owned_scores lse(1, q.rows.heads, q.rows.tokens, 3);
  for (int s = 0; s < q.batch.sequences; ++s)
    for (int h = 0; h < q.rows.heads; ++h)
      for (int i = 0; i < q.count(s); ++i)
        lse.view.row(0, h)[q.begin(s) + i] =
            range.first(q.count(s)) <= i && i < range.last(q.count(s))
                ? static_cast<float>(reference[fixtures::size(s * q.rows.heads + h)].lse(i))
                : fixtures::nan_of<float>();
  return lse;
}

/// With a given lse, an error of a probability is that of its logit, and that of the difference of the two.
template <class T> std::vector<oracle::head_attention> given_lse(std::vector<oracle::head_attention> reference) {
  test::allow_tensor_cores<T>(reference);
  for (oracle::head_attention& a : reference)
    for (Eigen::Index i = 0; i < a.lse.size(); ++i)
      a.lse_bound(i) = std::isfinite(a.lse(i)) ? oracle::eps * std::abs(a.lse(i)) : 0;
  return reference;
}

struct asked {
  query_range queries{};
  score_rows rows = score_rows::kv_heads;
  mass_reduction by = mass_reduction::sum;
};

template <class Owned, class Bytes, class Call>
void check_call(test::random& random, input<Owned> const& in, shape const& s,
                std::vector<oracle::head_attention> const& reference, fixtures::owned_scores const& lse,
                asked const& ask, Bytes const& bytes, Call const& call) {
  int const rows = ask.rows == score_rows::heads ? s.heads : s.kv_heads, group = s.heads / s.kv_heads;
  fixtures::owned_scores mass(s.sequences(), rows, in.longest() + 2, s.gap);
  test::gpu_device device(random);
  std::size_t const needed = bytes(device.exec());
  REQUIRE(needed < std::size_t{1} << 28);
  fixtures::owned_workspace work(needed);
  if (needed > 0) {
    CHECK(device.status_of([&](gpu const& exec) { return call(exec, mass.view, work.one_byte_less()); }).code ==
          errc::workspace_too_small);
    CHECK(mass.rest_untouched([](int, int) { return 0; }));
  }
  device.run([&](gpu const& exec) { return call(exec, mass.view, work.view()); });
  CHECK(work.guards_untouched());
  CHECK(mass.rest_untouched([&](int sequence, int row) {
    return in.cache.view.length(sequence, ask.rows == score_rows::heads ? row / group : row);
  }));
  fixtures::comparison compared;
  for (int q = 0; q < s.sequences(); ++q)
    for (int r = 0; r < rows; ++r) {
      auto const expected = fixtures::expected_mass(reference, s.heads, s.kv_heads, ask.rows, q, r,
                                                    fixtures::resolve(ask.queries, in.queries.count(q)),
                                                    lse.view.data + in.queries.begin(q), lse.view.row_stride, ask.by);
      for (int t = 0; t < static_cast<int>(expected.value.size()); ++t)
        compared.add(mass.view.row(q, r)[t], expected.value(t), expected.bound(t), "mass", r, q, t);
    }
  INFO(compared.where(), " (", compared.worst(), " times the bound)");
  CHECK(compared.wrong() == 0);
}

/// With the oracle's lse: without a plan and with one, each twice to the same bits, and as the CPU has it.
template <class P, class Owned>
void check(test::random& random, input<Owned> const& in, shape const& s, P const& pattern, asked const& ask,
           bool planned = true) {
  CAPTURE(s.heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.dim);
  CAPTURE(s.span[0]);
  CAPTURE(ask.queries.begin);
  CAPTURE(ask.queries.count);
  CAPTURE(ask.rows == score_rows::heads);
  CAPTURE(ask.by == mass_reduction::maximum);
  auto const exact = oracle::attend(pattern, in.queries, in.cache.view);
  auto const reference = given_lse<element<Owned>>(exact);
  fixtures::owned_scores const lse = lse_of(in, exact, ask.queries);
  fixtures::snapshot inputs;
  inputs.watch(in.q.memory);
  inputs.watch(in.cache.keys);
  inputs.watch(in.cache.values);
  inputs.watch(in.cache.positions);
  inputs.watch(lse.memory);
  {
    CAPTURE("without a plan");
    check_call(
        random, in, s, reference, lse, ask,
        [&](gpu const& exec) {
          return mass_workspace(exec, pattern, in.queries, in.cache.view, ask.queries, ask.rows);
        },
        [&](gpu const& exec, score_view const& out, workspace const& work) {
          return mass(exec, pattern, in.queries, in.cache.view, lse.view.data, lse.view.row_stride, ask.queries,
                      ask.rows, out, work, ask.by);
        });
  }
  if (planned) {
    CAPTURE("with a plan");
    fixtures::owned_workspace memory(plan_workspace(pattern, in.queries, in.cache.view));
    tile_plan made;
    REQUIRE(plan(cpu{}, pattern, in.queries, in.cache.view, memory.view(), made).ok());
    check_call(
        random, in, s, reference, lse, ask, [&](gpu const& exec) { return mass_workspace(exec, made, in.queries); },
        [&](gpu const& exec, score_view const& out, workspace const& work) {
          return mass(exec, pattern, made, in.queries, in.cache.view, lse.view.data, lse.view.row_stride, ask.queries,
                      ask.rows, out, work, ask.by);
        });
  }
  CHECK(inputs.unchanged());
}

asked drawn(test::random& random, query_range const& queries = {}) {
  return {queries, random.between(0, 1) == 0 ? score_rows::heads : score_rows::kv_heads,
          random.between(0, 1) == 0 ? mass_reduction::sum : mass_reduction::maximum};
}

asked const all_kinds[] = {{{}, score_rows::heads, mass_reduction::sum},
                           {{}, score_rows::kv_heads, mass_reduction::sum},
                           {{}, score_rows::heads, mass_reduction::maximum},
                           {{}, score_rows::kv_heads, mass_reduction::maximum}};

shape batch_of(int heads, int kv_heads, int dim) {
  shape s;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.dim = dim;
  s.span = {150, 0, 33, 70, 1};
  s.queries = {60, 0, 33, 1, 1};
  s.scattered = true;
  s.keep_percent = 60;
  return s;
}

}  // namespace gpu_mass_test

using namespace gpu_mass_test;

TEST_CASE("mass on a GPU: all queries, the last w, a range; per head and per KV head") {
  SEEDED(random);
  for (shape s : {square(1, 1, 64, 1), square(4, 1, 64, 17), square(8, 2, 128, 65), square(7, 1, 64, 128),
                  square(6, 3, 72, 129), square(3, 1, 8, 64), square(2, 2, 256, 70), square(4, 1, 88, 127)}) {
    s.gap = 8 * random.between(0, 2);
    s.cache_order = random.between(0, 1) == 0 ? fixtures::order::head_major : fixtures::order::token_major;
    input<dense_rows> const in(random, s);
    int const n = s.queries[0];
    for (query_range const& queries :
         {query_range{}, last(1), last(16), last(n + 5), query_range{n / 3, n / 2}, query_range{0, 0}})
      check(random, in, s, dense{}, drawn(random, queries), queries.from_end);
  }
}

TEST_CASE("mass on a GPU: a query sees its own key and none behind it, wherever blocks and pieces end") {
  SEEDED(random);
  shape const s = square(2, 1, 64, 132);
  input<dense_rows> const in(random, s);
  for (int begin = 62; begin < 66; ++begin) check(random, in, s, dense{}, drawn(random, {begin, 64}));
  for (int begin = 125; begin < 130; ++begin) check(random, in, s, dense{}, drawn(random, {begin, 2}));
}

TEST_CASE("mass on a GPU: ragged caches and batches") {
  SEEDED(random);
  shape const s = batch_of(6, 2, 64);
  input<ragged_rows> const in(random, s);
  for (asked ask : all_kinds) {
    check(random, in, s, dense{}, ask);
    ask.queries = last(16);
    check(random, in, s, dense{}, ask);
  }
}

TEST_CASE("mass on a GPU: sparse patterns") {
  SEEDED(random);
  for (int block : {1, 7, 64}) {
    std::uint32_t const seed = static_cast<std::uint32_t>(random());
    shape s = square(4, 2, 64, 230);
    s.queries = {140};
    s.keep_percent = 80;
    input<ragged_rows> const in(random, s);
    check(random, in, s, each_head{{seed, 30, block}}, drawn(random));
    check(random, in, s, each_head{{seed, 30, block}}, drawn(random, last(40)));
#if !defined(__CUDACC__)  // every pattern is four kernels, and nvcc is slow
    check(random, in, s, every_head{{seed, 30, block}}, drawn(random));
#endif
    check(random, in, s, sinks_and_window{3, 10 * block}, drawn(random));
  }
}

TEST_CASE("mass on a GPU: heads of several kinds") {
  SEEDED(random);
  shape s = square(6, 2, 64, 200);
  s.queries = {150};
  input<ragged_rows> const in(random, s);
  fixtures::buffer<std::uint8_t> kind_of = {0, 0, 0, 1, 0, 1};
  by_head<sinks_and_window> const pattern{{{3, 20}, {0, 140}}, kind_of.data(), 6};
  for (asked const& ask : all_kinds) check(random, in, s, pattern, ask);
}

TEST_CASE("mass on a GPU: images see themselves in both directions, videos in space and time") {
  SEEDED(random);
  fixtures::buffer<segment> segments(std::begin(fixtures::mixed_media), std::end(fixtures::mixed_media));
  token_layout const layout{segments.data(), static_cast<std::int32_t>(segments.size())};
  shape s = square(6, 2, 40, fixtures::mixed_media_tokens);
  s.queries = {200};
  s.scattered = true;
  s.keep_percent = 60;
  input<ragged_rows> const in(random, s);
  check(random, in, s, bidirectional<sliding_window>{layout, {30}}, drawn(random));
  check(random, in, s, bidirectional<sliding_window>{layout, {30}}, drawn(random, last(50)));
#if !defined(__CUDACC__)
  check(random, in, s, spatial_temporal{layout}, drawn(random));
#endif
}

TEST_CASE("mass on a GPU: soft cap and sinks, groups of any size") {
  SEEDED(random);
  for (int group : {1, 4, 7, 8}) {
    shape s = batch_of(2 * group, 2, 40);
    s.span = {150, 0, 33};
    s.queries = {60, 0, 33};
    s.sinks = true;
    s.soft_cap = group == 4 ? 0.01f : 2.0f;
    input<ragged_rows> in(random, s);
    in.cache.view.run(0, 1, random.between(0, in.cache.view.length(0, 1) - 1)).keys[3] = half(HUGE_VALF);
    check(random, in, s, dense{}, drawn(random));
    check(random, in, s, sinks_and_window{3, 20}, drawn(random, last(16)));
  }
}

TEST_CASE("mass on a GPU: NaN keys and queries get nothing, infinite ones are clamped") {
  SEEDED(random);
  shape const s = square(4, 2, 64, 100);
  input<dense_rows> in(random, s);
  float const nan = std::numeric_limits<float>::quiet_NaN(), inf = HUGE_VALF;
  in.cache.view.run(0, 0, 11).keys[5] = bfloat16(nan);
  in.cache.view.run(0, 1, 20).keys[5] = bfloat16(inf);
  in.cache.view.run(0, 1, 21).keys[5] = bfloat16(-inf);
  in.q.view.row(2, 70)[9] = bfloat16(nan);
  for (asked const& ask : all_kinds) check(random, in, s, dense{}, ask, false);
}

TEST_CASE("mass on a GPU: logits beyond floats are the largest float, and weigh what is left of it") {
  SEEDED(random);
  shape s = square(2, 1, 64, 70);
  float const largest = std::numeric_limits<float>::max();
  for (float scale : {0x1p9f, -0x1p9f, 1.0f}) {  // 1: the products themselves are infinite
    s.scale = scale;
    input<dense_rows> in(random, s);
    float const size = scale == 1.0f ? 0x1p63f : 0x1p59f;
    auto const positive = [&](int token) { return token % 3 == 0 && token < 32; };  // and warps with none of them
    for (int t = 0; t < 70; ++t)
      for (int c = 0; c < 64; ++c) {
        for (int h = 0; h < 2; ++h) in.q.view.row(h, t)[c] = bfloat16(size);
        in.cache.view.run(0, 0, t).keys[c] = bfloat16(positive(t) == (scale > 0) ? size : -size);
      }
    for (float lse : {largest, -largest, HUGE_VALF, -HUGE_VALF}) {
      fixtures::buffer<float> const of_queries(140, lse);
      fixtures::owned_scores mass_of(1, 1, 70);
      test::gpu_device device(random);
      device.run([&](gpu const& exec) {
        return mass(exec, dense{}, in.queries, in.cache.view, of_queries.data(), 70, {}, score_rows::kv_heads,
                    mass_of.view, {});
      });
      int wrong = 0;
      for (int t = 0; t < 70; ++t) {
        float const seen = static_cast<float>(2 * (70 - t));
        float const expected = lse == largest    ? (positive(t) ? seen : 0)
                               : lse == -largest ? (positive(t) ? HUGE_VALF : seen)
                                                 : 0;
        wrong += mass_of.view.row(0, 0)[t] != expected;
      }
      CAPTURE(scale);
      CAPTURE(lse);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("mass on a GPU: few keys and many queries are shared out") {
  SEEDED(random);
  shape s = square(2, 1, 64, 800);
  s.keep_percent = 12;
  input<ragged_rows> const in(random, s);
  test::gpu_device device(random);
  auto const bytes = [&](query_range const& queries) {
    return mass_workspace(device.exec(), dense{}, in.queries, in.cache.view, queries);
  };
  CHECK(bytes({}) > 0);
  CHECK(bytes(last(511)) == 0);
#if !defined(__CUDACC__)
  CHECK(bytes(last(512)) == bytes({}));
#endif
  for (asked const& ask : all_kinds) check(random, in, s, dense{}, ask, ask.rows == score_rows::heads);
  check(random, in, s, sinks_and_window{3, 300}, drawn(random, {100, 700}));
}

TEST_CASE("mass on a GPU: more heads than a block keeps apart") {
  SEEDED(random);
  shape const s = square(70, 1, 64, 40);
  input<dense_rows> const in(random, s);
  check(random, in, s, dense{}, {}, false);
  check(random, in, s, dense{}, {{}, score_rows::heads}, true);
}

TEST_CASE("mass on a GPU: summed over its tokens, a head's mass is its number of queries") {
  SEEDED(random);
  shape const s = batch_of(8, 2, 64);
  input<ragged_rows> in(random, s);
  // The first queries of a sequence may see no key.
  auto const reference = oracle::attend(dense{}, in.queries, in.cache.view);
  fixtures::owned_scores const lse = lse_of(in, reference, {});
  fixtures::owned_scores masses(s.sequences(), s.heads, in.longest());
  test::gpu_device device(random);
  device.run([&](gpu const& exec) {
    return mass(exec, dense{}, in.queries, in.cache.view, lse.view.data, lse.view.row_stride, {}, score_rows::heads,
                masses.view, {});
  });
  for (int b = 0; b < s.sequences(); ++b)
    for (int h = 0; h < s.heads; ++h) {
      double sum = 0;
      int queries = 0;
      for (int t = 0; t < in.cache.view.length(b, h / 4); ++t) sum += masses.view.row(b, h)[t];
      for (int i = 0; i < in.queries.count(b); ++i) queries += !reference[fixtures::size(b * s.heads + h)].empty(i);
      CHECK(sum == doctest::Approx(queries).epsilon(1e-4));
    }
}

TEST_CASE("mass on a GPU: as the CPU has it, from the lse of its attention") {
  SEEDED(random);
  shape const s = batch_of(4, 2, 64);
  input<ragged_rows> const in(random, s);
  fixtures::attention_output<float> tapped(in, s, {});
  fixtures::owned_workspace work(attend_workspace(cpu{}, dense{}, in.queries, in.cache.view, tapped.taps));
  REQUIRE(attend(cpu{}, dense{}, in.queries, in.cache.view, tapped.out.view, tapped.taps, work.view()).ok());
  for (asked const& ask : all_kinds) {
    int const rows = ask.rows == score_rows::heads ? 4 : 2;
    fixtures::owned_scores by_cpu(s.sequences(), rows, in.longest()), by_gpu(s.sequences(), rows, in.longest());
    auto const call = [&](auto const& exec, fixtures::owned_scores const& to, workspace const& memory) {
      return mass(exec, dense{}, in.queries, in.cache.view, tapped.taps.lse, tapped.taps.lse_stride, last(20), ask.rows,
                  to.view, memory, ask.by);
    };
    fixtures::owned_workspace more(mass_workspace(cpu{}, dense{}, in.queries, in.cache.view, last(20), ask.rows));
    REQUIRE(call(cpu{}, by_cpu, more.view()).ok());
    test::gpu_device device(random);
    device.run([&](gpu const& exec) { return call(exec, by_gpu, {}); });
    for (std::size_t i = 0; i < by_cpu.memory.size(); ++i)
      CHECK(by_gpu.memory[i] == doctest::Approx(by_cpu.memory[i]).epsilon(1e-4));
  }
}

TEST_CASE("mass on a GPU: the same bits in every run") {
  SEEDED(random);
  shape const s = square(2, 1, 64, 1100);
  input<dense_rows> in(random, s);
  in.cache.lengths[0] = 100;
  fixtures::buffer<float> lse(2200);
  for (float& x : lse) x = 5 + random.normal();
  std::vector<float> first;
  for (int run = 0; run < 2; ++run) {
    fixtures::owned_scores masses(1, 2, 100);
    test::gpu_device device(random);
    fixtures::owned_workspace work(
        mass_workspace(device.exec(), dense{}, in.queries, in.cache.view, {}, score_rows::heads));
    device.run([&](gpu const& exec) {
      return mass(exec, dense{}, in.queries, in.cache.view, lse.data(), 1100, {}, score_rows::heads, masses.view,
                  work.view());
    });
    std::vector<float> const got(masses.memory.begin(), masses.memory.end());
    if (run == 0) first = got;
    CHECK(std::memcmp(first.data(), got.data(), got.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("mass on a GPU: tiles of a plan that a device left unused are not looked at") {
  SEEDED(random);
  shape const s = batch_of(4, 2, 64);
  input<ragged_rows> const in(random, s);
  sinks_and_window const pattern{3, 20};
  fixtures::owned_workspace memory(plan_workspace(pattern, in.queries, in.cache.view));
  tile_plan made;
  REQUIRE(plan(cpu{}, pattern, in.queries, in.cache.view, memory.view(), made).ok());
  REQUIRE(made.per_kv_head);
  fixtures::buffer<query_tile> tiles;
  fixtures::buffer<std::int32_t> used;
  for (int h = 0; h < 2; ++h) {
    for (int t = 0; t < made.tiles_per_head; ++t) tiles.push_back(made.tile(h, t));
    for (int t = 0; t < 3; ++t) tiles.push_back(made.tile(h, made.tiles_per_head - 1));
    used.push_back(made.tiles_per_head);
  }
  tile_plan longer = made;
  longer.tiles = tiles.data();
  longer.tiles_per_head += 3;
  longer.tiles_used = used.data();
  auto const exact = oracle::attend(pattern, in.queries, in.cache.view);
  check_call(
      random, in, s, given_lse<half>(exact), lse_of(in, exact, {}), {},
      [&](gpu const& exec) { return mass_workspace(exec, longer, in.queries); },
      [&](gpu const& exec, score_view const& out, workspace const& work) {
        fixtures::owned_scores const lse = lse_of(in, exact, {});
        return mass(exec, pattern, longer, in.queries, in.cache.view, lse.view.data, lse.view.row_stride, {},
                    score_rows::kv_heads, out, work);
      });
}

TEST_CASE("mass on a GPU writes no token for which there is no room") {
  SEEDED(random);
  input<dense_rows> const in(random, square(2, 1, 64, 90));
  fixtures::buffer<float> const lse(180, 3.0f);
  fixtures::owned_scores masses(1, 1, 90);
  masses.view.tokens = 70;
  test::gpu_device device(random);
  device.run([&](gpu const& exec) {
    return mass(exec, dense{}, in.queries, in.cache.view, lse.data(), 90, {}, score_rows::kv_heads, masses.view, {});
  });
  CHECK(masses.rest_untouched([](int, int) { return 70; }));
}

TEST_CASE("mass on a GPU refuses what it can see, and writes nothing") {
  SEEDED(random);
  shape const s = square(4, 2, 64, 30);
  input<ragged_rows> const in(random, s);
  fixtures::buffer<float> const lse(120, 3.0f);
  fixtures::owned_scores masses(1, 2, 30);
  fixtures::owned_workspace memory(plan_workspace(dense{}, in.queries, in.cache.view));
  tile_plan made;
  REQUIRE(plan(cpu{}, dense{}, in.queries, in.cache.view, memory.view(), made).ok());
  test::gpu_device device(random);
  struct arguments {
    gpu exec;
    query_view<half> q;
    ragged_cache<half> cache;
    tile_plan plan;
    float const* lse;
    std::ptrdiff_t lse_stride;
    query_range range;
    score_rows rows;
    score_view out;
    mass_reduction by;
  };
  // Either overload says the same.
  auto const refused = [&](errc code, auto const& change) {
    arguments a{device.exec(),        in.queries,  in.cache.view,      made, lse.data(), 30, {},
                score_rows::kv_heads, masses.view, mass_reduction::sum};
    change(a);
    CHECK(device
              .status_of([&](gpu const&) {
                return mass(a.exec, dense{}, a.q, a.cache, a.lse, a.lse_stride, a.range, a.rows, a.out, {}, a.by);
              })
              .code == code);
    CHECK(device
              .status_of([&](gpu const&) {
                return mass(a.exec, dense{}, a.plan, a.q, a.cache, a.lse, a.lse_stride, a.range, a.rows, a.out, {},
                            a.by);
              })
              .code == code);
  };
  refused(errc::unsupported_device, [](arguments& a) { a.exec.device = {}; });
  refused(errc::unsupported_device, [](arguments& a) { a.exec.device.major = 7; });
  refused(errc::null_data, [](arguments& a) { a.q.rows.data = nullptr; });
  refused(errc::null_data, [](arguments& a) { a.lse = nullptr; });
  refused(errc::null_data, [](arguments& a) { a.out.data = nullptr; });
  refused(errc::null_data, [](arguments& a) { a.cache.extents = nullptr; });
  refused(errc::null_data, [](arguments& a) { a.q.batch.positions = nullptr; });
  refused(errc::bad_shape, [](arguments& a) { a.q.rows.heads = 3; });
  refused(errc::bad_shape, [](arguments& a) { a.lse_stride = 29; });
  refused(errc::bad_shape, [](arguments& a) { a.range.begin = -1; });
  refused(errc::bad_shape, [](arguments& a) { a.rows = static_cast<score_rows>(2); });
  refused(errc::bad_shape, [](arguments& a) { a.by = static_cast<mass_reduction>(2); });
  refused(errc::bad_shape, [](arguments& a) { a.q.rows.dim = a.cache.dim = 60; });
  refused(errc::bad_shape, [](arguments& a) {
    a.q.rows.dim = a.cache.dim = 264;
    a.q.rows.token_stride = a.cache.token_stride = 4 * 264;
    a.q.rows.head_stride = 264;
  });
  refused(errc::bad_shape, [](arguments& a) { a.q.soft_cap = -1; });
  refused(errc::bad_pointer, [](arguments& a) { a.q.rows.data += 1; });
  refused(errc::bad_pointer, [](arguments& a) { a.cache.keys += 4; });
  refused(errc::bad_pointer, [](arguments& a) { a.cache.token_stride += 4; });
  refused(errc::mismatch, [](arguments& a) { a.cache.dim = 56; });
  refused(errc::mismatch, [](arguments& a) { a.rows = score_rows::heads; });
  refused(errc::mismatch, [](arguments& a) { a.out.sequences = 2; });
  CHECK(masses.rest_untouched([](int, int) { return 0; }));
  made.heads = 2;
  CHECK(device
            .status_of([&](gpu const& exec) {
              return mass(exec, dense{}, made, in.queries, in.cache.view, lse.data(), 30, {}, score_rows::kv_heads,
                          masses.view, {});
            })
            .code == errc::mismatch);
  CHECK(masses.rest_untouched([](int, int) { return 0; }));
}

TEST_CASE("mass on a GPU without queries is 0, without tokens nothing") {
  SEEDED(random);
  shape s = square(2, 1, 64, 40);
  s.queries = {0};
  input<dense_rows> in(random, s);
  for (asked const& ask : all_kinds) check(random, in, s, dense{}, ask);
  in.cache.lengths[0] = 0;
  check(random, in, s, dense{}, {});
}
