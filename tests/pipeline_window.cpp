// SPDX-License-Identifier: Apache-2.0
// What pipeline.hpp does with layers that have a sliding window; tests/pipeline.cpp has the rest.
#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/cross_layer.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/pipeline.hpp>

#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/budget/fixed.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/protect/sinks.hpp>
#include <purekv/protect/within_window.hpp>

#include <array>

using namespace fixtures;
using purekv::errc;
using purekv::evict_when;
using purekv::half;
using purekv::layer_plan;
using purekv::sliding_window;
using purekv::status;

namespace {

constexpr int window = 12, new_tokens = 3, layers = 3, kv_heads = 2;
std::vector<std::int32_t> const prompts{70, 5, 1, 12};  // tokens of each sequence
int const sequences = static_cast<int>(prompts.size());

using plain_compressor = purekv::compressor<purekv::cross_layer<purekv::group_mean<purekv::accumulated_attention>>,
                                            purekv::fixed, purekv::sinks>;
using compressor = decltype(purekv::windowed(plain_compressor{}, window));

sliding_window const patterns[layers] = {{window}, {INT32_MAX}, {window}};

/// Rows of all sequences for one call of one layer.
template <class T> struct layer_call {
  std::vector<std::int32_t> offset{0}, positions;
  owned_rows<float> q, k, v, out;
  purekv::query_view<float> queries;

  layer_call(generator& random, int heads, int dim, std::vector<std::int32_t> const& first,
             std::vector<std::int32_t> const& count)
      : q(heads, total(count), dim, order::token_major),
        k(kv_heads, total(count), dim, order::token_major),
        v(kv_heads, total(count), dim, order::token_major),
        out(heads, total(count), dim, order::token_major) {
    for (owned_rows<float>* rows : {&q, &k, &v}) rows->fill_normal(random);
    for (std::size_t s = 0; s < count.size(); ++s) {
      for (int i = 0; i < count[s]; ++i) positions.push_back(first[s] + i);
      offset.push_back(offset.back() + count[s]);
    }
    queries = {q.rows(), {sequences, offset.data(), positions.data()}};
  }
  static int total(std::vector<std::int32_t> const& count) { return std::accumulate(count.begin(), count.end(), 0); }

  void push_to(purekv::contiguous_cache<T> const& cache) const {
    for (int s = 0; s < sequences; ++s)
      for (int row = offset[size(s)]; row < offset[size(s) + 1]; ++row)
        for (int h = 0; h < kv_heads; ++h)
          push(
              cache, s, h, positions[size(row)], [&](int c) { return k.view.row(h, row)[c]; },
              [&](int c) { return v.view.row(h, row)[c]; });
  }
};

template <class T> struct layer_caches {
  owned_contiguous<T> full, everything;
  owned_ragged<T> kept;

  layer_caches(int dim, std::int64_t slots)
      : full(sequences, kv_heads, 70, dim),
        everything(sequences, kv_heads, 70 + new_tokens, dim),
        kept(1, 1, {static_cast<std::int32_t>(slots)}, dim) {
    kept.extents.assign(size(sequences * kv_heads), {});
    kept.view.sequences = sequences;
    kept.view.kv_heads = kv_heads;
    kept.view.extents = kept.extents.data();
  }
};

std::vector<std::int32_t> positions_of(auto const& cache, int s, int h) {
  std::vector<std::int32_t> result;
  for (int t = 0; t < cache.length(s, h); ++t) result.push_back(*cache.run(s, h, t).positions);
  return result;
}

template <class T> void check(generator& random, int group, int dim, int budget, int ranks) {
  CAPTURE(group);
  CAPTURE(dim);
  CAPTURE(budget);
  CAPTURE(ranks);
  int const heads = kv_heads * group;
  plain_compressor const plain{.budget = {budget}, .protect = {4}};
  compressor const compressors[layers] = {purekv::windowed(plain, window), purekv::windowed(plain, INT32_MAX),
                                          purekv::windowed(plain, window)};
  std::array<layer_plan, layers> const plans{
      layer_plan{evict_when::deferred, 0}, {evict_when::deferred, 0}, {evict_when::after_attending, 0}};
  purekv::source_band const band{1, 1};
  purekv::pipeline<compressor, sliding_window> p({layers, heads, kv_heads, dim}, {plans.data(), layers, &band, 1},
                                                 compressors, patterns);
  owned_workspace state(p.state_bytes(sequences, 70));
  REQUIRE(p.begin(sequences, prompts.data(), new_tokens, state.view()).ok());

  std::vector<layer_caches<T>> memory;
  std::vector<purekv::layer_storage<T>> storage;
  for (int l = 0; l < layers; ++l) {
    std::int64_t slots = 0;
    for (std::int32_t n : prompts) {
      int const kept = l == 1 ? std::max(budget, 4) : std::min(budget, window);
      CHECK(p.kept_slots(l, n, new_tokens) == kv_heads * (std::min(n, kept) + new_tokens));
      slots += p.kept_slots(l, n, new_tokens);
    }
    memory.emplace_back(dim, slots);
  }
  for (auto& m : memory) storage.push_back({m.full.view, m.kept.view});

  std::vector<std::int32_t> const zeros(size(sequences), 0), ones(size(sequences), 1);
  for (int l = 0; l < layers; ++l) {
    layer_call<T> const call(random, heads, dim, zeros, prompts);
    owned_workspace work(p.template prefill_workspace<T>(purekv::cpu{0, ranks, nullptr, nullptr}, call.queries));
    status const s = status_on_ranks(ranks, [&](purekv::cpu exec) {
      return p.prefill(exec, l, call.queries, call.k.rows(), call.v.rows(), storage.data(), call.out.view, work.view());
    });
    REQUIRE_MESSAGE(s.ok(), s.message);
    call.push_to(memory[size(l)].everything.view);
  }
  for (int l : {0, 2})
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < kv_heads; ++h) {
        auto const kept = positions_of(storage[size(l)].kept, s, h);
        int const prompt = prompts[size(s)], seen = std::min(prompt, window);
        CHECK(static_cast<int>(kept.size()) == std::min(seen, budget));
        if (!kept.empty()) CHECK(kept.front() >= prompt - seen);
      }

  std::vector<std::int32_t> at = prompts;
  for (int step = 0; step < new_tokens; ++step) {
    for (int l = 0; l < layers; ++l) {
      layer_call<T> const call(random, heads, dim, at, ones);
      owned_workspace work(
          p.decode_workspace(purekv::cpu{0, ranks, nullptr, nullptr}, l, call.queries, storage.data()));
      status const s = status_on_ranks(ranks, [&](purekv::cpu exec) {
        return p.decode(exec, l, call.queries, call.k.rows(), call.v.rows(), storage.data(), call.out.view,
                        work.view());
      });
      REQUIRE_MESSAGE(s.ok(), s.message);
      auto const& everything = memory[size(l)].everything.view;
      call.push_to(everything);
      if (l == 1 || budget < window) continue;
      auto const expected = oracle::attend(patterns[l], call.queries, everything);
      comparison out;
      for (int b = 0; b < sequences; ++b)
        for (int h = 0; h < heads; ++h) {
          oracle::head_attention const& a = expected[size(b * heads + h)];
          for (int c = 0; c < dim; ++c)
            out.add(call.out.view.row(h, b)[c], a.out(0, c), a.out_bound(0, c), "out", h, b, c);
        }
      INFO(out.where());
      CHECK(out.wrong() == 0);
    }
    for (std::int32_t& position : at) ++position;
  }
}

}  // namespace

TEST_CASE("a layer with a window keeps no more than its window, and decodes as if it had kept everything") {
  SEEDED(random);
  for (int group : {1, 4, 7, 8}) {
    check<float>(random, group, between(random, 1, 70), window, 1);
    check<half>(random, group, 64, 40, 3);
    check<float>(random, group, 24, 5, 1);
  }
}

TEST_CASE("a layer that prunes first must not evict by its window: its prompt still sees what is older") {
  SEEDED(random);
  compressor const c = purekv::windowed(plain_compressor{.budget = {5}, .protect = {1}}, window);
  std::array<layer_plan, 2> const plans{layer_plan{evict_when::deferred, 0}, {evict_when::before_attending, 0}};
  purekv::source_band const band{0, 0};
  purekv::pipeline<compressor, sliding_window> p({2, 2, kv_heads, 8}, {plans.data(), 2, &band, 1}, c,
                                                 sliding_window{window});
  owned_workspace state(p.state_bytes(sequences, 70));
  REQUIRE(p.begin(sequences, prompts.data(), new_tokens, state.view()).ok());
  std::vector<layer_caches<float>> memory;
  std::vector<purekv::layer_storage<float>> storage;
  for (int l = 0; l < 2; ++l) memory.emplace_back(8, 500);
  for (auto& m : memory) storage.push_back({m.full.view, m.kept.view});
  for (int l = 0; l < 2; ++l) {
    layer_call<float> const call(random, 2, 8, std::vector<std::int32_t>(size(sequences), 0), prompts);
    owned_workspace work(p.prefill_workspace<float>(purekv::cpu{}, call.queries));
    snapshot before;
    before.watch(call.out.memory);
    before.watch(memory[size(l)].kept.keys);
    before.watch(memory[size(l)].full.keys);
    status const s = p.prefill(purekv::cpu{}, l, call.queries, call.k.rows(), call.v.rows(), storage.data(),
                               call.out.view, work.view());
    CHECK(s.code == (l == 0 ? errc::ok : errc::bad_policy));
    CHECK(before.unchanged() == (l == 1));
  }
}
