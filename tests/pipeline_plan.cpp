// SPDX-License-Identifier: Apache-2.0
// What pipeline.hpp does with memory for a plan; tests/pipeline.cpp has the rest.
#include "support/chunked_model.hpp"
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/custom.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pattern/spatial_temporal.hpp>
#include <purekv/presets.hpp>

#include <atomic>
#include <cstring>

using namespace purekv;
using namespace fixtures;

namespace {

std::int32_t everything(std::int32_t left) { return left; }
auto at_most(std::int32_t n) {
  return [n](std::int32_t left) { return left < n ? left : n; };
}

/// A pattern that counts how often it is asked where its keys lie: by whoever plans, and by nobody else.
template <class P> struct counted {
  P pattern;
  std::atomic<int>* calls;
  bool visible(std::int32_t h, std::int32_t q, std::int32_t k) const { return pattern.visible(h, q, k); }
  template <class F> void runs(std::int32_t first, std::int32_t last, F const& emit) const {
    ++*calls;
    pattern.runs(first, last, emit);
  }
};

segment const segments[] = {segment::text(0, 9), segment::video(9, 5, 4, 6), segment::text(129, 200)};
spatial_temporal const video{{segments, 3}};
int constexpr layer_count = 5;

struct plan_of {
  std::vector<layer_plan> layers = std::vector<layer_plan>(layer_count);
  source_band band{1, 2};
  bool banded = false;
  schedule view(bool chunked) const { return {layers.data(), layer_count, &band, banded, chunked}; }
};

/// Every layer by its own score, but for one that keeps all.
plan_of own() {
  plan_of p;
  own_source(p.layers.data(), layer_count, evict_when::after_attending);
  p.layers[3].when = evict_when::never;
  return p;
}
plan_of by_band(evict_when above) {
  plan_of p;
  p.banded = true;
  one_source(p.layers.data(), layer_count, p.band, above);
  return p;
}

/// A chunk, in exactly the memory that the pipeline asks for.
template <class T, class Pipeline> void feed(chunked_model<T>& m, Pipeline& p, chunk_sizes const& sizes, bool sharing) {
  std::size_t const bytes = p.plan_bytes(m.rows(0, sizes).queries(), m.storage.data());
  owned_workspace const memory(bytes);
  REQUIRE(bytes > 0);
  REQUIRE(p.keep_plan(sharing ? memory.view() : workspace{}).ok());
  status const s = m.feed(p, sizes);
  INFO(s.message);
  REQUIRE(s.ok());
  CHECK(memory.guards_untouched());
  REQUIRE(p.keep_plan({}).ok());
}

struct result {
  std::vector<std::vector<float>> outs;
  std::vector<std::vector<std::int32_t>> kept;

  /// To the bit: NaN marks what was not written.
  bool operator==(result const& other) const {
    bool same = kept == other.kept && outs.size() == other.outs.size();
    for (std::size_t l = 0; same && l < outs.size(); ++l)
      same = std::memcmp(outs[l].data(), other.outs[l].data(), outs[l].size() * sizeof(float)) == 0;
    return same;
  }
};

template <class T> result result_of(chunked_model<T> const& m) {
  result r{{}, m.kept()};
  for (auto const& layer : m.layers) r.outs.push_back(layer.out.memory);
  return r;
}

template <class T, class Compressor, class P, class Next>
result run(chunked_model<T>& m, schedule const& plan, Compressor const& c, P const& pattern, Next const& next,
           bool sharing) {
  pipeline p(m.model, plan, c, pattern);
  REQUIRE(m.begin(p).ok());
  for (bool first = true; first || m.fed != m.prompt; first = false) {
    chunk_sizes sizes;
    for (std::size_t s = 0; s < m.fed.size(); ++s) sizes.push_back(next(m.prompt[s] - m.fed[s]));
    feed(m, p, sizes, sharing);
  }
  return result_of(m);
}

template <class T> void check_same_bits(generator& random, int heads, int kv_heads, int ranks) {
  chunked_model<T> m(random, {layer_count, heads, kv_heads, 16}, {101, 67});
  m.ranks = ranks;
  auto const check = [&](auto const& pattern) {
    auto const both = [&](schedule const& plan, auto const& c, auto const& next) {
      CHECK(run(m, plan, c, pattern, next, true) == run(m, plan, c, pattern, next, false));
    };
    both(own().view(false), h2o<ratio>{.budget = {1, 4}}, everything);
    both(own().view(true), h2o<ratio>{.budget = {1, 4}}, at_most(38));
    both(own().view(true), snapkv<ratio>{.budget = {1, 4}}, at_most(19));
    compressor<cross_layer<group_mean<accumulated_attention>>, ratio, none> const c{{}, {1, 4}, {}};
    both(by_band(evict_when::before_attending).view(false), c, everything);
    both(by_band(evict_when::after_attending).view(true), c, at_most(50));
  };
  check(video);
  check(sliding_window{23});
  check(custom{[](std::int32_t h, std::int32_t q, std::int32_t k) { return (q * 7 + k * 5 + h) % 3 != 0; }});
}

TEST_CASE("layers that share a plan give the bits of layers that plan by themselves") {
  SEEDED(random);
  check_same_bits<float>(random, 4, 2, 1);
  check_same_bits<half>(random, 7, 1, 3);
}

TEST_CASE("the first layer plans for all, attention and mass, and once for every chunk") {
  SEEDED(random);
  std::atomic<int> calls{0};
  counted<spatial_temporal> const pattern{video, &calls};
  chunked_model<float> m(random, {layer_count, 4, 2, 16}, {90, 61});
  plan_of const plan = own();
  pipeline p(m.model, plan.view(true), h2o<ratio>{.budget = {1, 4}}, pattern);
  REQUIRE(m.begin(p).ok());
  for (chunk_sizes const& sizes : {chunk_sizes{50, 20}, chunk_sizes{40, 41}}) {
    owned_workspace const memory(p.plan_bytes(m.rows(0, sizes).queries(), m.storage.data()));
    REQUIRE(p.keep_plan(memory.view()).ok());
    for (int l = 0; l < layer_count; ++l) {
      calls = 0;
      // Mass that is put together chunk by chunk is planned sequence by sequence: not counted here.
      auto const c = m.rows(l, sizes);
      owned_workspace const work(p.prefill_workspace(cpu{}, l, c.queries(), m.storage.data()));
      if (l > 0 && plan.layers[size(l)].when == evict_when::never) CHECK(calls == 0);
      calls = 0;
      REQUIRE(p.prefill(cpu{}, l, c.queries(), c.k.rows(), c.v.rows(), m.storage.data(), c.out.view, work.view()).ok());
      if (plan.layers[size(l)].when == evict_when::never) CHECK(calls == 0);
      if (l == 0) CHECK(calls > 0);
    }
    for (std::size_t s = 0; s < m.fed.size(); ++s) m.fed[s] += sizes[s];
  }

  p = pipeline(m.model, plan.view(false), h2o<ratio>{.budget = {1, 4}}, pattern);
  REQUIRE(m.begin(p).ok());
  owned_workspace const memory(p.plan_bytes(m.rows(0, m.prompt).queries(), m.storage.data()));
  REQUIRE(p.keep_plan(memory.view()).ok());
  for (int l = 0; l < layer_count; ++l) {
    calls = 0;
    REQUIRE(m.prefill(p, l, m.rows(l, m.prompt)).ok());
    CHECK((calls > 0) == (l == 0));
  }
}

TEST_CASE("a layer whose positions differ gets a plan of its own") {
  SEEDED(random);
  plan_of const plan = own();
  schedule const whole = plan.view(false);
  chunked_model<float> m(random, {layer_count, 4, 2, 16}, {80});
  pipeline p(m.model, whole, h2o<ratio>{.budget = {1, 4}}, sliding_window{15});
  auto const run = [&](bool sharing) {
    REQUIRE(m.begin(p).ok());
    owned_workspace const memory(2 * p.plan_bytes(m.rows(0, {80}).queries(), m.storage.data()));
    REQUIRE(p.keep_plan(sharing ? memory.view() : workspace{}).ok());
    result r;
    for (int l = 0; l < layer_count; ++l) {
      auto c = m.rows(l, {80});
      for (std::int32_t i = 0; i < 80; ++i) c.positions[size(i)] = i < 40 ? i : i + l / 2 * 4;
      REQUIRE(m.prefill(p, l, c).ok());
      r.outs.push_back(c.out.memory);
    }
    r.kept = m.kept();
    return r;
  };
  CHECK(run(true) == run(false));
}

TEST_CASE("layers that differ in their pattern plan by themselves") {
  SEEDED(random);
  plan_of const plan = own();
  schedule const whole = plan.view(false);
  sliding_window const patterns[layer_count] = {{9}, {9}, {40}, {9}, {40}};
  chunked_model<float> m(random, {layer_count, 4, 2, 16}, {80});
  pipeline p(m.model, whole, h2o<ratio>{.budget = {1, 4}}, static_cast<sliding_window const*>(patterns));
  REQUIRE(m.begin(p).ok());
  CHECK(p.plan_bytes(m.rows(0, {80}).queries(), m.storage.data()) == 0);
  REQUIRE(m.feed(p, {80}).ok());
  result const alone = result_of(m);

  owned_workspace const memory(1 << 16);
  REQUIRE(m.begin(p).ok());
  REQUIRE(p.keep_plan(memory.view()).ok());
  REQUIRE(m.feed(p, {80}).ok());
  CHECK(result_of(m) == alone);
}

TEST_CASE("a plan's memory that is missing or too small: a status, nothing written, and the prompt goes on") {
  SEEDED(random);
  plan_of const plan = own();
  schedule const whole = plan.view(false);
  chunked_model<float> m(random, {layer_count, 4, 2, 16}, {101});
  pipeline p(m.model, whole, h2o<ratio>{.budget = {1, 4}}, video);
  owned_workspace const small(16);
  CHECK(p.keep_plan(small.view()).code == errc::not_ready);
  result const expected = run(m, whole, h2o<ratio>{.budget = {1, 4}}, video, everything, false);

  REQUIRE(m.begin(p).ok());
  auto const c = m.rows(0, {101});
  std::size_t const bytes = p.plan_bytes(c.queries(), m.storage.data());
  owned_workspace const memory(bytes), less(bytes - 1);
  REQUIRE(p.keep_plan(memory.view()).ok());
  CHECK(p.keep_plan(small.view()).code == errc::workspace_too_small);
  workspace odd = memory.view();
  odd.data = static_cast<std::byte*>(odd.data) + 8;
  CHECK(p.keep_plan(odd).code == errc::workspace_too_small);

  REQUIRE(p.keep_plan(less.view()).ok());
  auto const lengths = m.layers[0].full.lengths;
  auto const out_before = c.out.memory;
  CHECK(m.prefill(p, 0, c).code == errc::workspace_too_small);
  CHECK(less.guards_untouched());
  CHECK(m.layers[0].full.lengths == lengths);
  CHECK(std::memcmp(c.out.memory.data(), out_before.data(), out_before.size() * sizeof(float)) == 0);
  for (float const x : m.layers[0].full.keys) REQUIRE(x != x);

  // The loan ends with begin(): nobody writes to it any more.
  REQUIRE(p.keep_plan(memory.view()).ok());
  REQUIRE(m.begin(p).ok());
  std::vector<std::byte> const before(static_cast<std::byte*>(memory.view().data),
                                      static_cast<std::byte*>(memory.view().data) + bytes);
  REQUIRE(m.feed(p, {101}).ok());
  CHECK(std::memcmp(before.data(), memory.view().data, bytes) == 0);
  CHECK(result_of(m) == expected);
}

}  // namespace
