// SPDX-License-Identifier: Apache-2.0
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/append.hpp>
#include <purekv/attend.hpp>
#include <purekv/budget/across_heads.hpp>
#include <purekv/budget/fixed.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/compact.hpp>
#include <purekv/compressor.hpp>
#include <purekv/decode.hpp>
#include <purekv/mass.hpp>
#include <purekv/merge.hpp>
#include <purekv/pattern/by_head.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/spatial_temporal.hpp>
#include <purekv/plan.hpp>
#include <purekv/protect/text.hpp>
#include <purekv/select.hpp>

#include <functional>
#include <string>

using namespace fixtures;
using purekv::errc;
using purekv::status;

// Every operation says what is wrong with its arguments, the same on every rank, and leaves every buffer as it was.

namespace {

constexpr int heads = 4, kv_heads = 2, dim = 16;

template <class Call> struct mistake {
  std::string what;
  errc code;
  std::function<void(Call&)> make;
};

/// A default-constructed Call is right and owns its buffers: `buffers()` watches them, `run(exec)` runs it.
template <class Call> void refuses(std::string const& operation, std::vector<mistake<Call>> const& mistakes) {
  for (int ranks : {1, 3}) {
    Call right;
    status const done = status_on_ranks(ranks, [&](purekv::cpu exec) { return right.run(exec); });
    INFO(operation, ": ", std::string(done.message));
    REQUIRE(done.ok());
  }
  for (mistake<Call> const& m : mistakes)
    for (int ranks : {1, 3}) {
      Call call;
      m.make(call);
      snapshot const before = call.buffers();
      call.query();  // what a caller does first; it may say anything, but must return
      status const refused = status_on_ranks(ranks, [&](purekv::cpu exec) { return call.run(exec); });
      INFO(operation, ", ", m.what, ": ", std::string(refused.message));
      CHECK(refused.code == m.code);
      CHECK(before.unchanged());
      CHECK(std::string(refused.message).find(": ") != std::string::npos);
    }
}

/// Two sequences of 20 and 9 cached tokens, of which the last 7 and 9 ask.
shape small_batch() {
  shape s;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.dim = dim;
  s.span = {20, 9};
  s.queries = {7, 9};
  return s;
}

struct attention_arguments {
  shape s = small_batch();
  std::mt19937_64 random{1};
  attention_input<float, owned_contiguous<float>> in{random, s};
  attention_output<float> result{in, s, {.mass = true}};
  owned_workspace memory{1 << 20};
  purekv::query_view<float> q = in.queries;
  purekv::contiguous_cache<float> cache = in.cache.view;
  purekv::rows_view<float> out = result.out.view;
  purekv::attend_taps taps = result.taps;
  purekv::workspace work = memory.view();

  snapshot buffers() const {
    snapshot all;
    all.watch(in.q.memory);
    all.watch(in.offset);
    all.watch(in.positions);
    all.watch(in.cache.keys);
    all.watch(in.cache.values);
    all.watch(in.cache.positions);
    all.watch(in.cache.lengths);
    all.watch(result.out.memory);
    all.watch(result.lse.memory);
    all.watch(result.mass.memory);
    all.watch(result.block_mass.memory);
    return all;
  }
};

/// A pattern that is only defined for the first positions.
struct covers_ten {
  bool visible(std::int32_t, std::int32_t, std::int32_t) const { return true; }
  status check(std::int32_t last) const {
    return last < 10 ? status{} : status{errc::bad_positions, "attend decode mass plan: covers_ten ends at 10"};
  }
};

struct attend_call : attention_arguments {
  void query() const { (void)purekv::attend_workspace(purekv::cpu{}, purekv::dense{}, q, cache, taps); }
  status run(purekv::cpu exec) const { return purekv::attend(exec, purekv::dense{}, q, cache, out, taps, work); }
};
struct decode_call : attention_arguments {
  void query() const { (void)purekv::decode_workspace(purekv::cpu{}, purekv::dense{}, q, cache, taps); }
  status run(purekv::cpu exec) const { return purekv::decode(exec, purekv::dense{}, q, cache, out, taps, work); }
};
struct attend_self_call : attention_arguments {
  owned_rows<float> keys{kv_heads, 16, dim}, values{kv_heads, 16, dim};
  purekv::self_view<float> self{keys.rows(), values.rows()};

  attend_self_call() {
    keys.fill_normal(random);
    values.fill_normal(random);
  }
  void query() const { (void)purekv::attend_workspace(purekv::cpu{}, purekv::dense{}, q, cache, taps); }
  status run(purekv::cpu exec) const { return purekv::attend(exec, purekv::dense{}, q, cache, self, out, taps, work); }
};
struct mass_call : attention_arguments {
  purekv::query_range queries;
  purekv::score_rows rows = purekv::score_rows::kv_heads;

  mass_call() {
    for (float& x : result.lse.memory) x = 1;
  }
  void query() const { (void)purekv::mass_workspace(purekv::cpu{}, purekv::dense{}, q, cache, queries, rows); }
  status run(purekv::cpu exec) const {
    return purekv::mass(exec, purekv::dense{}, q, cache, taps.lse, taps.lse_stride, queries, rows, taps.mass, work);
  }
};
struct plan_call : attention_arguments {
  purekv::tile_plan mutable tiles{};
  void query() const { (void)purekv::plan_workspace(purekv::dense{}, q, cache); }
  status run(purekv::cpu exec) const {
    purekv::tile_plan mine{};
    return purekv::plan(exec, purekv::dense{}, q, cache, work, mine);
  }
};

/// Shapes, positions, cache and workspace, whatever the operation.
template <class Call> std::vector<mistake<Call>> wrong_inputs() {
  return {
      {"zero heads", errc::bad_shape, [](Call& c) { c.q.rows.heads = c.out.heads = 0; }},
      {"negative heads", errc::bad_shape, [](Call& c) { c.q.rows.heads = c.out.heads = -4; }},
      {"heads not a multiple of kv_heads", errc::bad_shape, [](Call& c) { c.q.rows.heads = c.out.heads = 3; }},
      {"fewer heads than kv_heads", errc::bad_shape, [](Call& c) { c.q.rows.heads = c.out.heads = 1; }},
      {"zero kv_heads", errc::bad_shape, [](Call& c) { c.cache.kv_heads = 0; }},
      {"dim 0", errc::bad_shape, [](Call& c) { c.q.rows.dim = c.cache.dim = c.out.dim = 0; }},
      {"dims that differ", errc::mismatch, [](Call& c) { c.q.rows.dim = c.out.dim = dim - 1; }},
      {"negative tokens", errc::bad_shape, [](Call& c) { c.q.rows.tokens = c.out.tokens = -1; }},
      {"no sequences", errc::bad_shape, [](Call& c) { c.q.batch.sequences = c.cache.sequences = 0; }},
      {"sequences that differ", errc::mismatch, [](Call& c) { c.cache.sequences = 1; }},
      {"positions null", errc::null_data, [](Call& c) { c.q.batch.positions = nullptr; }},
      {"offset null", errc::null_data, [](Call& c) { c.q.batch.offset = nullptr; }},
      {"offset does not end at the tokens", errc::mismatch, [](Call& c) { c.in.offset[2] = 15; }},
      {"offset does not start at 0", errc::mismatch, [](Call& c) { c.in.offset[0] = 1; }},
      {"offset descends", errc::bad_shape, [](Call& c) { c.in.offset[1] = 17; }},
      {"positions equal", errc::bad_positions, [](Call& c) { c.in.positions[3] = c.in.positions[2]; }},
      {"positions descend", errc::bad_positions, [](Call& c) { c.in.positions[9] = 0; }},
      {"a negative position", errc::bad_positions, [](Call& c) { c.in.positions[0] = -1; }},
      {"keys null", errc::null_data, [](Call& c) { c.cache.keys = nullptr; }},
      {"values null", errc::null_data, [](Call& c) { c.cache.values = nullptr; }},
      {"cached positions null", errc::null_data, [](Call& c) { c.cache.positions = nullptr; }},
      {"lengths null", errc::null_data, [](Call& c) { c.cache.lengths = nullptr; }},
      {"a negative length", errc::bad_shape, [](Call& c) { c.in.cache.lengths[1] = -1; }},
      {"a length beyond the capacity", errc::bad_shape, [](Call& c) { c.in.cache.lengths[2] = c.cache.tokens + 1; }},
      {"a negative value dim", errc::bad_shape, [](Call& c) { c.cache.value_dim = -1; }},
      {"values whose tokens overlap", errc::bad_shape,
       [](Call& c) {
         c.cache.value_dim = dim;
         c.cache.value_sequence_stride = c.cache.sequence_stride;
         c.cache.value_head_stride = c.cache.head_stride;
         c.cache.value_token_stride = dim - 1;
       }},
      {"cached tokens overlap", errc::bad_shape, [](Call& c) { c.cache.token_stride = dim - 1; }},
      {"cached heads overlap", errc::bad_shape, [](Call& c) { c.cache.head_stride -= 1; }},
      {"cached sequences overlap", errc::bad_shape, [](Call& c) { c.cache.sequence_stride -= dim; }},
      {"cache sizes overflow", errc::bad_shape, [](Call& c) { c.cache.sequence_stride = PTRDIFF_MAX / 2; }},
      {"no workspace", errc::workspace_too_small, [](Call& c) { c.work = {}; }},
      {"too little workspace", errc::workspace_too_small, [](Call& c) { c.work.bytes = 3; }},
      {"a workspace that is not aligned", errc::workspace_too_small,
       [](Call& c) {
         c.work = {static_cast<char*>(c.work.data) + 4, c.work.bytes - 4};
       }},
  };
}

/// The queries themselves, which a plan does not read.
template <class Call> std::vector<mistake<Call>> wrong_queries() {
  return {
      {"queries null", errc::null_data, [](Call& c) { c.q.rows.data = nullptr; }},
      {"query rows overlap", errc::bad_shape, [](Call& c) { c.q.rows.head_stride = dim - 1; }},
      {"query tokens overlap", errc::bad_shape, [](Call& c) { c.q.rows.token_stride = 0; }},
      {"query strides overflow", errc::bad_shape, [](Call& c) { c.q.rows.token_stride = PTRDIFF_MAX / 4; }},
      {"a scale that is not finite", errc::bad_shape, [](Call& c) { c.q.scale = std::nanf(""); }},
      {"a soft cap that is NaN", errc::bad_shape, [](Call& c) { c.q.soft_cap = std::nanf(""); }},
      {"a soft cap that is inf", errc::bad_shape, [](Call& c) { c.q.soft_cap = HUGE_VALF; }},
      {"a negative soft cap", errc::bad_shape, [](Call& c) { c.q.soft_cap = -30; }},
      {"a soft cap whose reciprocal overflows", errc::bad_shape, [](Call& c) { c.q.soft_cap = 1e-40f; }},
      {"a sink that is NaN", errc::bad_shape,
       [](Call& c) {
         static float const sinks[heads] = {0, 1, -HUGE_VALF, std::nanf("")};
         c.q.sink_logits = sinks;
       }},
      {"a sink that is inf", errc::bad_shape,
       [](Call& c) {
         static float const sinks[heads] = {HUGE_VALF};
         c.q.sink_logits = sinks;
       }},
  };
}

template <class Call> std::vector<mistake<Call>> wrong_outputs() {
  return {
      {"out heads differ", errc::mismatch, [](Call& c) { c.out.heads = 2; }},
      {"out tokens differ", errc::mismatch, [](Call& c) { c.out.tokens = 15; }},
      {"out dim differs", errc::mismatch, [](Call& c) { c.out.dim = 8; }},
      {"out is not as wide as the values", errc::mismatch,
       [](Call& c) {
         c.cache.value_dim = 8;
         c.cache.value_sequence_stride = c.cache.sequence_stride;
         c.cache.value_head_stride = c.cache.head_stride;
         c.cache.value_token_stride = dim;
       }},
      {"out null", errc::null_data, [](Call& c) { c.out.data = nullptr; }},
      {"out rows overlap", errc::bad_shape, [](Call& c) { c.out.head_stride = dim - 1; }},
      {"out tokens overlap", errc::bad_shape, [](Call& c) { c.out.token_stride = dim; }},
      {"lse rows overlap", errc::bad_shape, [](Call& c) { c.taps.lse_stride = 15; }},
  };
}

template <class Call> std::vector<mistake<Call>> wrong_masses() {
  return {
      {"mass of other sequences", errc::mismatch, [](Call& c) { c.taps.mass.sequences = 1; }},
      {"mass of other rows", errc::mismatch, [](Call& c) { c.taps.mass.rows = heads; }},
      {"mass of too few tokens", errc::mismatch, [](Call& c) { c.taps.mass.tokens = 19; }},
      {"mass rows overlap", errc::bad_shape, [](Call& c) { c.taps.mass.row_stride = 19; }},
      {"mass sequences overlap", errc::bad_shape, [](Call& c) { c.taps.mass.sequence_stride = 39; }},
  };
}

/// A tap for blocks, changed.
template <class Call, class Change> auto block_mass_with(Change const& change) {
  return [=](Call& c) {
    c.taps.block_mass = c.result.block_mass.view;
    change(c.taps.block_mass);
  };
}
template <class Call> std::vector<mistake<Call>> wrong_block_masses() {
  using view = purekv::score_view;
  return {
      {"block_mass of other sequences", errc::mismatch, block_mass_with<Call>([](view& v) { v.sequences = 1; })},
      {"block_mass of other rows", errc::mismatch, block_mass_with<Call>([](view& v) { v.rows = heads; })},
      {"block_mass of too few blocks", errc::mismatch, block_mass_with<Call>([](view& v) { v.tokens = 0; })},
      {"block_mass rows overlap", errc::bad_shape, block_mass_with<Call>([](view& v) { v.row_stride = 0; })},
  };
}

template <class T> std::vector<T> operator+(std::vector<T> a, std::vector<T> const& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

TEST_CASE("attend refuses") {
  using call = attend_call;
  refuses<call>("attend", wrong_inputs<call>() + wrong_queries<call>() + wrong_outputs<call>() + wrong_masses<call>() +
                              wrong_block_masses<call>() +
                              std::vector<mistake<call>>{
                                  {"a negative range of queries", errc::bad_shape,
                                   [](call& c) {
                                     c.taps.mass_queries = {-1, 3};
                                   }},
                                  {"a range of less than no queries", errc::bad_shape,
                                   [](call& c) {
                                     c.taps.mass_queries = {0, -3};
                                   }},
                              });
}

TEST_CASE("decode refuses") {
  refuses<decode_call>(
      "decode", wrong_inputs<decode_call>() + wrong_queries<decode_call>() + wrong_outputs<decode_call>() +
                    wrong_masses<decode_call>() +
                    std::vector<mistake<decode_call>>{{"block_mass, which it does not give out", errc::mismatch,
                                                       block_mass_with<decode_call>([](purekv::score_view&) {})}});
}

TEST_CASE("attend with self refuses") {
  using call = attend_self_call;
  refuses<call>("attend",
                wrong_inputs<call>() + wrong_queries<call>() + wrong_outputs<call>() + wrong_masses<call>() +
                    std::vector<mistake<call>>{
                        {"self keys null", errc::null_data, [](call& c) { c.self.keys.data = nullptr; }},
                        {"self values null", errc::null_data, [](call& c) { c.self.values.data = nullptr; }},
                        {"self keys of other heads", errc::mismatch, [](call& c) { c.self.keys.heads = 1; }},
                        {"self values of other tokens", errc::mismatch, [](call& c) { c.self.values.tokens = 15; }},
                        {"self values of another dim", errc::mismatch, [](call& c) { c.self.values.dim = 8; }},
                        {"self keys of another dim", errc::mismatch, [](call& c) { c.self.keys.dim = 8; }},
                    });
}

TEST_CASE("mass refuses") {
  using call = mass_call;
  refuses<call>("mass", wrong_inputs<call>() + wrong_queries<call>() + wrong_masses<call>() +
                            std::vector<mistake<call>>{
                                {"lse null", errc::null_data, [](call& c) { c.taps.lse = nullptr; }},
                                {"lse rows overlap", errc::bad_shape, [](call& c) { c.taps.lse_stride = 15; }},
                                {"mass null", errc::null_data, [](call& c) { c.taps.mass.data = nullptr; }},
                                {"a negative range of queries", errc::bad_shape,
                                 [](call& c) {
                                   c.queries = {-1, 3};
                                 }},
                            });
}

TEST_CASE("attend refuses a plan made for something else") {
  for (int change = 0; change < 4; ++change) {
    attention_arguments a, other;
    switch (change) {
      case 0:
        other.q.rows.heads = 2;
        break;
      case 1:
        other.q.rows.tokens = 8, other.in.offset = {0, 7, 8};
        break;
      case 2:
        other.cache.kv_heads = 1;
        break;
      default:
        other.q.batch = {1, nullptr, other.in.positions.data()}, other.cache.sequences = 1;
    }
    if (change == 3) other.q.rows.tokens = 7;
    owned_workspace memory(1 << 16);
    purekv::tile_plan tiles{};
    REQUIRE(purekv::plan(purekv::cpu{}, purekv::dense{}, other.q, other.cache, memory.view(), tiles).ok());
    snapshot const before = a.buffers();
    status const refused = purekv::attend(purekv::cpu{}, purekv::dense{}, tiles, a.q, a.cache, a.out, a.taps, a.work);
    CAPTURE(change);
    CHECK(refused.code == errc::mismatch);
    CHECK(before.unchanged());
  }
}

TEST_CASE("plan refuses") { refuses<plan_call>("plan", wrong_inputs<plan_call>()); }

TEST_CASE("a pattern that does not cover the positions is refused") {
  attention_arguments a;
  snapshot const before = a.buffers();
  purekv::tile_plan tiles{};
  purekv::cpu const one{};
  CHECK(purekv::attend(one, covers_ten{}, a.q, a.cache, a.out, a.taps, a.work).code == errc::bad_positions);
  CHECK(purekv::decode(one, covers_ten{}, a.q, a.cache, a.out, a.taps, a.work).code == errc::bad_positions);
  CHECK(purekv::plan(one, covers_ten{}, a.q, a.cache, a.work, tiles).code == errc::bad_positions);
  CHECK(purekv::mass(one, covers_ten{}, a.q, a.cache, a.result.lse.view.data, 16, {}, purekv::score_rows::kv_heads,
                     a.taps.mass, a.work)
            .code == errc::bad_positions);
  purekv::segment const text[] = {purekv::segment::text(0, 19)};
  purekv::spatial_temporal short_layout{};
  short_layout.layout = {text, 1};
  CHECK(purekv::attend(one, short_layout, a.q, a.cache, a.out, a.taps, a.work).code == errc::bad_positions);
  CHECK(before.unchanged());
}

TEST_CASE("layouts that make no sense, and tables for other heads, are refused before anything is written") {
  attention_arguments a;
  snapshot const before = a.buffers();
  purekv::cpu const one{};
  auto const code = [&](auto const& pattern) {
    purekv::tile_plan tiles{};
    tiles.tiles_per_head = -1;
    CHECK(purekv::plan_workspace(pattern, a.q, a.cache) == 0);
    auto const planned = purekv::plan(one, pattern, a.q, a.cache, a.work, tiles);
    CHECK(tiles.tiles_per_head == -1);
    CHECK(purekv::decode(one, pattern, a.q, a.cache, a.out, a.taps, a.work).code == planned.code);
    CHECK(purekv::attend(one, pattern, a.q, a.cache, a.out, a.taps, a.work).code == planned.code);
    return planned.code;
  };
  auto const over = [&](std::vector<purekv::segment> const& segments) {
    return code(purekv::spatial_temporal{{segments.data(), static_cast<int>(segments.size())}});
  };
  using purekv::segment;
  CHECK(over({segment::text(0, 5), segment::video(5, 2, 0, 3), segment::text(5, 90)}) == errc::bad_shape);
  CHECK(over({segment::text(0, 5), segment::video(5, 0, 2, 3), segment::text(5, 90)}) == errc::bad_shape);
  CHECK(over({segment::text(0, 5), segment::video(4, 2, 2, 3), segment::text(16, 90)}) == errc::bad_shape);
  CHECK(over({segment::text(0, 5), segment::video(6, 2, 2, 3), segment::text(18, 90)}) == errc::bad_shape);
  CHECK(over({segment::text(0, 5), segment::video(5, 1, 2, 3)}) == errc::bad_positions);
  std::vector<std::uint8_t> const kinds(64);
  CHECK(code(purekv::by_head<purekv::dense, 1>{{{}}, kinds.data(), a.q.rows.heads + 1}) == errc::mismatch);
  CHECK(before.unchanged());
}

TEST_CASE("sizes that overflow 64 bits need SIZE_MAX bytes of workspace") {
  attention_arguments a;
  a.q.rows.heads = INT32_MAX - 1;
  a.q.rows.tokens = INT32_MAX;
  a.q.batch = {1, nullptr, a.in.positions.data()};
  a.cache.sequences = 1;
  a.cache.kv_heads = 1;
  a.q.rows.dim = a.cache.dim = INT32_MAX;
  CHECK(purekv::attend(purekv::cpu{}, purekv::dense{}, a.q, a.cache, a.out, {}, a.work).code == errc::bad_shape);
}

namespace {

struct append_call {
  std::mt19937_64 random{1};
  owned_contiguous<float> owned{2, kv_heads, 12, dim};
  owned_rows<float> keys{kv_heads, 8, dim}, values{kv_heads, 8, dim};
  std::vector<std::int32_t> offset{0, 3, 8}, positions{4, 5, 6, 2, 3, 4, 8, 9};
  purekv::rows_view<float const> k, v;
  purekv::batch_view batch{2, offset.data(), positions.data()};
  purekv::contiguous_cache<float> cache = owned.view;

  append_call() {
    keys.fill_normal(random);
    values.fill_normal(random);
    k = keys.rows();
    v = values.rows();
    for (int s = 0; s < 2; ++s)
      for (int h = 0; h < kv_heads; ++h)
        for (int t = 0; t < (s == 0 ? 4 : 2); ++t)
          push(
              cache, s, h, t, [](int) { return 1.0f; }, [](int) { return 2.0f; });
  }
  snapshot buffers() const {
    snapshot all;
    all.watch(owned.keys);
    all.watch(owned.values);
    all.watch(owned.positions);
    all.watch(owned.lengths);
    return all;
  }
  void query() const {}
  status run(purekv::cpu exec) const { return purekv::append(exec, k, v, batch, cache); }
};

}  // namespace

TEST_CASE("append refuses") {
  using call = append_call;
  refuses<call>(
      "append",
      {{"zero heads", errc::bad_shape, [](call& c) { c.k.heads = c.v.heads = 0; }},
       {"heads of the keys differ", errc::mismatch, [](call& c) { c.k.heads = 1; }},
       {"heads of the values differ", errc::mismatch, [](call& c) { c.v.heads = 1; }},
       {"dim 0", errc::bad_shape, [](call& c) { c.k.dim = c.v.dim = c.cache.dim = 0; }},
       {"another dim", errc::mismatch, [](call& c) { c.k.dim = c.v.dim = 8; }},
       {"value dim differs", errc::mismatch, [](call& c) { c.v.dim = 8; }},
       {"tokens differ", errc::mismatch, [](call& c) { c.v.tokens = 7; }},
       {"sequences differ", errc::mismatch, [](call& c) { c.cache.sequences = 1; }},
       {"keys null", errc::null_data, [](call& c) { c.k.data = nullptr; }},
       {"values null", errc::null_data, [](call& c) { c.v.data = nullptr; }},
       {"positions null", errc::null_data, [](call& c) { c.batch.positions = nullptr; }},
       {"offset null", errc::null_data, [](call& c) { c.batch.offset = nullptr; }},
       {"cache null", errc::null_data, [](call& c) { c.cache.keys = nullptr; }},
       {"rows overlap", errc::bad_shape, [](call& c) { c.k.token_stride = 3; }},
       {"offset does not end at the tokens", errc::mismatch, [](call& c) { c.offset[2] = 7; }},
       {"offset descends", errc::bad_shape, [](call& c) { c.offset[1] = 9; }},
       {"positions equal", errc::bad_positions, [](call& c) { c.positions[5] = c.positions[4]; }},
       {"position already cached", errc::bad_positions, [](call& c) { c.positions[3] = 1; }},
       {"position cached by one head only", errc::bad_positions,
        [](call& c) { c.owned.positions[2 * 12 + 1 * 12 + 1] = 2; }},
       {"a negative position in an empty head", errc::bad_positions,
        [](call& c) {
          c.owned.lengths[0] = c.owned.lengths[1] = 0;
          c.positions[0] = -3;
        }},
       {"the last sequence does not fit", errc::capacity_exceeded, [](call& c) { c.cache.set_length(1, 1, 8); }},
       {"strides of the cache overlap", errc::bad_shape, [](call& c) { c.cache.token_stride = 1; }}});
}

namespace {

struct merge_call {
  owned_rows<float> a{heads, 5, dim}, b{heads, 5, dim}, out{heads, 5, dim};
  owned_scores lse_a{1, heads, 5}, lse_b{1, heads, 5}, lse{1, heads, 5};
  std::vector<purekv::partial<float>> parts;
  purekv::partial<float> const* list = nullptr;
  int count = 2;
  purekv::rows_view<float> to = out.view;
  float* lse_to = lse.view.data;
  std::ptrdiff_t lse_stride = 5;

  merge_call() {
    std::mt19937_64 random{1};
    a.fill_normal(random);
    b.fill_normal(random);
    for (owned_scores* s : {&lse_a, &lse_b})
      for (float& x : s->memory) x = normal(random);
    parts = {{a.rows(), lse_a.view.data, 5}, {b.rows(), lse_b.view.data, 5}};
    list = parts.data();
  }
  snapshot buffers() const {
    snapshot all;
    for (auto const* rows : {&a, &b, &out}) all.watch(rows->memory);
    for (auto const* scores : {&lse_a, &lse_b, &lse}) all.watch(scores->memory);
    return all;
  }
  void query() const {}
  status run(purekv::cpu exec) const { return purekv::merge(exec, list, count, to, lse_to, lse_stride); }
};

}  // namespace

TEST_CASE("merge refuses") {
  using call = merge_call;
  refuses<call>(
      "merge",
      {{"nothing to merge", errc::bad_shape, [](call& c) { c.count = 0; }},
       {"parts null", errc::null_data, [](call& c) { c.list = nullptr; }},
       {"zero heads", errc::bad_shape, [](call& c) { c.to.heads = c.parts[0].out.heads = c.parts[1].out.heads = 0; }},
       {"dim 0", errc::bad_shape, [](call& c) { c.to.dim = c.parts[0].out.dim = c.parts[1].out.dim = 0; }},
       {"a part of other heads", errc::mismatch, [](call& c) { c.parts[1].out.heads = 2; }},
       {"a part of other tokens", errc::mismatch, [](call& c) { c.parts[0].out.tokens = 4; }},
       {"a part of another dim", errc::mismatch, [](call& c) { c.parts[1].out.dim = 8; }},
       {"a part null", errc::null_data, [](call& c) { c.parts[1].out.data = nullptr; }},
       {"a part without lse", errc::null_data, [](call& c) { c.parts[1].lse = nullptr; }},
       {"out null", errc::null_data, [](call& c) { c.to.data = nullptr; }},
       {"out rows overlap", errc::bad_shape, [](call& c) { c.to.token_stride = dim - 1; }},
       {"lse rows overlap", errc::bad_shape, [](call& c) { c.lse_stride = 4; }},
       {"lse rows of a part overlap", errc::bad_shape, [](call& c) { c.parts[0].lse_stride = 4; }}});
}

namespace {

struct unscored {
  static constexpr purekv::score_rows rows = purekv::score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static std::int64_t scratch(purekv::layer_shape) { return 0; }
  template <class G, class Input> void score(G const& team, Input const&, purekv::score_out, float*) const {
    team.sync();
  }
};

struct cached_tokens {
  owned_contiguous<float> owned{2, kv_heads, 12, dim};
  purekv::contiguous_cache<float> cache = owned.view;

  cached_tokens() {
    for (int s = 0; s < 2; ++s)
      for (int h = 0; h < kv_heads; ++h)
        for (int t = 0; t < (s == 0 ? 10 : 6); ++t)
          push(
              cache, s, h, t, [&](int c) { return float(t + c); }, [&](int c) { return float(h - c); });
  }
  void watch(snapshot& all) const {
    all.watch(owned.keys);
    all.watch(owned.values);
    all.watch(owned.positions);
    all.watch(owned.lengths);
  }
};

struct no_change {
  template <class Policy> void operator()(Policy&) const {}
};
struct fixed_4 {
  void operator()(purekv::fixed& budget) const { budget.tokens = 4; }
};
purekv::segment const ten_tokens = purekv::segment::text(0, 10), nine_tokens = purekv::segment::text(0, 9);
struct text_of_10 {
  void operator()(purekv::text& protect) const { protect.layout = {&ten_tokens, 1}; }
};

template <class B, class P, class SetBudget = no_change, class SetProtect = no_change>
struct select_call : cached_tokens {
  purekv::compressor<unscored, B, P> compressor{};
  owned_scores scored{2, kv_heads, 10};
  purekv::score_view scores = scored.view;
  owned_selection kept{4, 32};
  purekv::selection out = kept.view;
  owned_workspace memory{1 << 16};
  purekv::workspace work = memory.view();

  select_call() {
    SetBudget{}(compressor.budget);
    SetProtect{}(compressor.protect);
    for (std::size_t i = 0; i < scored.memory.size(); ++i) scored.memory[i] = static_cast<float>(i * 7 % 11);
  }
  snapshot buffers() const {
    snapshot all;
    watch(all);
    all.watch(scored.memory);
    all.watch(kept.offset);
    all.watch(kept.token);
    return all;
  }
  void query() const { (void)purekv::select_workspace(purekv::cpu{}, compressor, cache); }
  status run(purekv::cpu exec) const { return purekv::select(exec, compressor, scores, cache, out, work); }
};

struct half_of_it {
  static std::int32_t keep(purekv::budget_input in) { return (in.tokens + 1) / 2; }
  static status check() { return {}; }
};
struct pin_nothing {
  static bool pinned(std::int32_t, std::int32_t) { return false; }
  static status check(std::int32_t) { return {}; }
};

}  // namespace

TEST_CASE("select refuses") {
  using call = select_call<half_of_it, pin_nothing>;
  refuses<call>(
      "select",
      {{"scores null", errc::null_data, [](call& c) { c.scores.data = nullptr; }},
       {"scores of other sequences", errc::mismatch, [](call& c) { c.scores.sequences = 1; }},
       {"scores of other rows", errc::mismatch, [](call& c) { c.scores.rows = 1; }},
       {"scores of too few tokens", errc::mismatch, [](call& c) { c.scores.tokens = 9; }},
       {"score rows overlap", errc::bad_shape, [](call& c) { c.scores.row_stride = 9; }},
       {"zero kv_heads", errc::bad_shape, [](call& c) { c.cache.kv_heads = 0; }},
       {"cache null", errc::null_data, [](call& c) { c.cache.positions = nullptr; }},
       {"a selection of other rows", errc::mismatch, [](call& c) { c.out.rows = 2; }},
       {"a selection of another scope", errc::mismatch, [](call& c) { c.out.scope = purekv::selection_scope::layer; }},
       {"a selection without offsets", errc::null_data, [](call& c) { c.out.offset = nullptr; }},
       {"a selection without tokens", errc::null_data, [](call& c) { c.out.token = nullptr; }},
       {"a selection that is too small", errc::capacity_exceeded, [](call& c) { c.out.capacity = 15; }},
       {"no workspace", errc::workspace_too_small, [](call& c) { c.work = {}; }}});
}

TEST_CASE("select refuses budgets that cannot be met and layouts that do not cover the cache") {
  using share = select_call<purekv::ratio, pin_nothing>;
  refuses<share>("select with ratio", {{"nothing", errc::bad_policy,
                                        [](share& c) {
                                          c.compressor.budget = {0, 5};
                                        }},
                                       {"more than all", errc::bad_policy,
                                        [](share& c) {
                                          c.compressor.budget = {6, 5};
                                        }},
                                       {"less than nothing", errc::bad_policy,
                                        [](share& c) {
                                          c.compressor.budget = {-1, 5};
                                        }},
                                       {"less than nothing in reverse", errc::bad_policy,
                                        [](share& c) {
                                          c.compressor.budget = {1, -5};
                                        }},
                                       {"a share of nothing", errc::bad_policy, [](share& c) {
                                          c.compressor.budget = {1, 0};
                                        }}});
  using number = select_call<purekv::fixed, pin_nothing, fixed_4>;
  refuses<number>("select with fixed",
                  {{"0 tokens", errc::bad_policy, [](number& c) { c.compressor.budget = {0}; }},
                   {"-1 tokens", errc::bad_policy, [](number& c) { c.compressor.budget = {-1}; }}});
  using shared = select_call<purekv::across_heads<purekv::ratio>, pin_nothing>;
  refuses<shared>(
      "select across heads",
      {{"more than all", errc::bad_policy,
        [](shared& c) {
          c.compressor.budget.budget = {2, 1};
        }},
       {"a floor above the budget", errc::bad_policy, [](shared& c) { c.compressor.budget.floor_numerator = 6; }},
       {"a negative floor", errc::bad_policy, [](shared& c) { c.compressor.budget.floor_numerator = -1; }}});
  using covered = select_call<half_of_it, purekv::text, no_change, text_of_10>;
  refuses<covered>("select with pinned text", {{"layout too short", errc::bad_positions,
                                                [](covered& c) {
                                                  c.compressor.protect.layout = {&nine_tokens, 1};
                                                }},
                                               {"layout null", errc::null_data, [](covered& c) {
                                                  c.compressor.protect.layout = {nullptr, 1};
                                                }}});
}

namespace {

struct compact_call : cached_tokens {
  owned_selection kept{4, 32};
  purekv::selection selected = kept.view;
  std::vector<float> track = std::vector<float>(48, 1);
  purekv::token_track tracks[1] = {{track.data(), sizeof(float)}};
  int track_count = 1;

  compact_call() {
    kept.offset = {0, 3, 4, 4, 6};
    kept.view.offset = kept.offset.data();
    selected.offset = kept.offset.data();
    std::int32_t const tokens[] = {1, 5, 9, 0, 2, 5};
    std::copy(std::begin(tokens), std::end(tokens), kept.token.begin());
  }
  snapshot buffers() const {
    snapshot all;
    watch(all);
    all.watch(kept.offset);
    all.watch(kept.token);
    all.watch(track);
    return all;
  }
  void query() const {}
  status run(purekv::cpu exec) const { return purekv::compact(exec, selected, cache, tracks, track_count); }
};

struct compact_to_call : compact_call {
  owned_ragged<purekv::half> target{2, kv_heads, {3, 1, 2, 2}, dim};
  purekv::ragged_cache<purekv::half> to = target.view;

  snapshot buffers() const {
    snapshot all = compact_call::buffers();
    all.watch(target.keys);
    all.watch(target.values);
    all.watch(target.positions);
    all.watch(target.extents);
    return all;
  }
  status run(purekv::cpu exec) const { return purekv::compact(exec, selected, cache, to); }
};

template <class Call> std::vector<mistake<Call>> wrong_selections() {
  return {{"rows differ", errc::mismatch, [](Call& c) { c.selected.rows = 3; }},
          {"rows of another scope", errc::mismatch, [](Call& c) { c.selected.scope = purekv::selection_scope::layer; }},
          {"offset null", errc::null_data, [](Call& c) { c.selected.offset = nullptr; }},
          {"tokens null", errc::null_data, [](Call& c) { c.selected.token = nullptr; }},
          {"offset descends", errc::bad_shape, [](Call& c) { c.kept.offset[2] = 2; }},
          {"offset exceeds the capacity", errc::bad_shape, [](Call& c) { c.selected.capacity = 5; }},
          {"tokens equal", errc::bad_positions, [](Call& c) { c.kept.token[1] = 1; }},
          {"tokens descend", errc::bad_positions, [](Call& c) { c.kept.token[5] = 1; }},
          {"a token that is not cached", errc::bad_positions, [](Call& c) { c.kept.token[5] = 6; }},
          {"a negative token", errc::bad_positions, [](Call& c) { c.kept.token[0] = -1; }},
          {"cache null", errc::null_data, [](Call& c) { c.cache.values = nullptr; }},
          {"dim 0", errc::bad_shape, [](Call& c) { c.cache.dim = 0; }},
          {"a length beyond the capacity", errc::bad_shape, [](Call& c) { c.owned.lengths[3] = 13; }}};
}

}  // namespace

TEST_CASE("compact refuses") {
  using call = compact_call;
  refuses<call>("compact",
                wrong_selections<call>() +
                    std::vector<mistake<call>>{
                        {"a track null", errc::null_data, [](call& c) { c.tracks[0].data = nullptr; }},
                        {"a track without bytes", errc::bad_shape, [](call& c) { c.tracks[0].row_bytes = 0; }},
                        {"a negative number of tracks", errc::bad_shape, [](call& c) { c.track_count = -1; }}});
}

TEST_CASE("compact to another cache refuses") {
  using call = compact_to_call;
  refuses<call>("compact",
                wrong_selections<call>() +
                    std::vector<mistake<call>>{
                        {"too little room", errc::capacity_exceeded, [](call& c) { c.target.extents[0].capacity = 2; }},
                        {"another dim", errc::mismatch, [](call& c) { c.to.dim = 8; }},
                        {"other heads", errc::mismatch, [](call& c) { c.to.kv_heads = 1; }},
                        {"other sequences", errc::mismatch, [](call& c) { c.to.sequences = 1; }},
                        {"target null", errc::null_data, [](call& c) { c.to.keys = nullptr; }},
                        {"extents overlap", errc::bad_shape, [](call& c) { c.target.extents[1].begin = 1; }},
                        {"an extent at the end of the world", errc::bad_shape,
                         [](call& c) { c.target.extents[3].begin = INT64_MAX; }},
                    });
}
