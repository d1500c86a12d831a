// SPDX-License-Identifier: Apache-2.0
// What pipeline.hpp does where layers drop tokens; tests/pipeline.cpp has the rest.
#include <purekv/pattern/dense.hpp>
#include <purekv/pipeline.hpp>
#include <purekv/presets.hpp>
#include <purekv/protect/none.hpp>
#include <purekv/thread_team.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "support/oracle.hpp"
#include "support/random.hpp"

#if defined(__clang__)  // vectors are indexed with the library's signed sizes throughout; its headers are not excused
#pragma clang diagnostic ignored "-Wsign-conversion"
#endif

using namespace purekv;

namespace {

using rows_of_sequences = std::vector<std::vector<int>>;  // [sequences] ascending indices into the prompt

// What an engine would hold of a small model: the vectors of every row in every layer, of which a layer gets some.
template <class T> struct stack {
  struct call_data {
    std::vector<std::int32_t> offset{0}, positions;
    std::vector<float> q, k, v, out;  // [tokens, heads, dim], ...
  };
  struct layer_memory {
    std::vector<T> full_keys, full_values, keys, values;
    std::vector<std::int32_t> full_positions, lengths, positions;
    std::vector<extent> extents;
  };

  model_shape model;
  std::vector<int> prompt;  // tokens of each sequence
  int new_tokens = 2, first_position = 0, step = 1;
  std::vector<std::vector<float>> q, k, v;  // [layers]: [tokens of the batch, heads, dim], ...
  std::vector<call_data> calls;             // [layers] the latest
  std::vector<layer_memory> memory;
  std::vector<layer_storage<T>> storage;
  std::vector<std::byte> state;

  stack(model_shape shape, std::vector<int> tokens, test::random& random) : model(shape), prompt(std::move(tokens)) {
    auto fill = [&](std::vector<std::vector<float>>& rows, int heads) {
      for (int l = 0; l < model.layers; ++l) {
        rows.emplace_back(static_cast<std::size_t>(begin_of(sequences())) * heads * model.dim);
        random.fill_normal(rows.back());
      }
    };
    fill(q, model.heads);
    fill(k, model.kv_heads);
    fill(v, model.kv_heads);
    calls.resize(model.layers);
  }

  int sequences() const { return static_cast<int>(prompt.size()); }
  int begin_of(int s) const { return std::accumulate(prompt.begin(), prompt.begin() + s, 0); }
  int longest() const { return *std::max_element(prompt.begin(), prompt.end()); }
  int position(int row) const { return first_position + step * row; }
  float const* key(int l, int s, int h, int row) const {
    return &k[l][((begin_of(s) + row) * std::size_t(model.kv_heads) + h) * model.dim];
  }
  float const* value(int l, int s, int h, int row) const {
    return &v[l][((begin_of(s) + row) * std::size_t(model.kv_heads) + h) * model.dim];
  }

  rows_of_sequences all_rows() const {
    rows_of_sequences rows;
    for (int n : prompt) {
      rows.emplace_back(n);
      std::iota(rows.back().begin(), rows.back().end(), 0);
    }
    return rows;
  }

  query_view<float> queries(int l) const {
    call_data const& c = calls[l];
    return {token_major<float const>(c.q.data(), model.heads, c.offset.back(), model.dim),
            {sequences(), c.offset.data(), c.positions.data()}};
  }

  template <class Pipeline> status begin(Pipeline& p) {
    memory.assign(model.layers, {});
    storage.assign(model.layers, {});
    int const heads = sequences() * model.kv_heads;
    for (int l = 0; l < model.layers; ++l) {
      layer_memory& m = memory[l];
      std::size_t const full = static_cast<std::size_t>(heads) * longest();
      std::int64_t slots = 0;
      for (int n : prompt) slots += p.kept_slots(l, n, new_tokens);
      m.full_keys.assign(full * model.dim, T(NAN));
      m.full_values.assign(full * model.dim, T(NAN));
      m.full_positions.assign(full, -7);
      m.lengths.assign(heads, 0);
      m.keys.assign(slots * model.dim, T(NAN));
      m.values.assign(slots * model.dim, T(NAN));
      m.positions.assign(slots, -7);
      m.extents.assign(heads, {});
      if (p.needs_full(l))
        storage[l].full = head_major_cache(m.full_keys.data(), m.full_values.data(), m.full_positions.data(),
                                           m.lengths.data(), sequences(), model.kv_heads, longest(), model.dim);
      storage[l].kept = {.keys = m.keys.data(),
                         .values = m.values.data(),
                         .positions = m.positions.data(),
                         .extents = m.extents.data(),
                         .sequences = sequences(),
                         .kv_heads = model.kv_heads,
                         .dim = model.dim,
                         .slots = slots,
                         .token_stride = model.dim};
    }
    std::size_t const bytes = p.state_bytes(sequences(), longest());
    state.assign(bytes + 64, std::byte{0x5a});
    return p.begin(sequences(), prompt.data(), new_tokens, aligned(state, bytes));
  }

  // Hands these rows to the layer. workspace: as much as the query says, or fewer bytes.
  template <class Pipeline>
  status call(Pipeline& p, thread_team& team, int l, rows_of_sequences const& rows, std::size_t fewer = 0) {
    call_data& c = calls[l] = {};
    for (int s = 0; s < sequences(); ++s) {
      for (int row : rows[s]) {
        auto copy = [&](std::vector<float> const& from, std::vector<float>& to, int heads) {
          auto const at = from.begin() + std::ptrdiff_t{begin_of(s) + row} * heads * model.dim;
          to.insert(to.end(), at, at + std::ptrdiff_t{heads} * model.dim);
        };
        copy(q[l], c.q, model.heads);
        copy(k[l], c.k, model.kv_heads);
        copy(v[l], c.v, model.kv_heads);
        c.positions.push_back(position(row));
      }
      c.offset.push_back(static_cast<int>(c.positions.size()));
    }
    c.out.assign(c.q.size(), -1.f);
    return call(p, team, l, fewer);
  }
  template <class Pipeline> status call(Pipeline& p, thread_team& team, int l, std::size_t fewer = 0) {
    call_data& c = calls[l];
    int const tokens = c.offset.back();
    std::size_t const bytes = p.template prefill_workspace<T>(cpu{0, team.ranks()}, queries(l));
    std::vector<std::byte> work(bytes + 64);
    std::vector<status> results(team.ranks());
    team.run([&](cpu exec) {
      results[exec.rank()] = p.prefill(
          exec, l, queries(l), token_major<float const>(c.k.data(), model.kv_heads, tokens, model.dim),
          token_major<float const>(c.v.data(), model.kv_heads, tokens, model.dim), storage.data(),
          token_major(c.out.data(), model.heads, tokens, model.dim), aligned(work, bytes - std::min(fewer, bytes)));
    });
    for (status const& s : results) REQUIRE(s.code == results[0].code);
    return results[0];
  }

  template <class Pipeline> rows_of_sequences kept_rows(Pipeline const& p) const {
    rows_of_sequences rows;
    selection const kept = p.kept_rows();
    for (int s = 0; s < kept.rows; ++s) rows.emplace_back(kept.tokens(s), kept.tokens(s) + kept.count(s));
    return rows;
  }

  template <class Pipeline> status prefill(Pipeline& p, thread_team& team) {
    if (status const s = begin(p); !s.ok()) return s;
    for (int l = 0; l < model.layers; ++l)
      if (status const s = call(p, team, l, p.drops(l) ? kept_rows(p) : all_rows()); !s.ok()) return s;
    return {};
  }

  static workspace aligned(std::vector<std::byte>& bytes, std::size_t count) {
    auto const at = reinterpret_cast<std::uintptr_t>(bytes.data());
    return {bytes.data() + (64 - at % 64) % 64, count};
  }
};

// The compressor written out: the vote of the last 8 queries, mean over the group.
template <class B, class P> using voted = compressor<cross_layer<group_mean<window_attention<8>>>, B, P>;

// What every row of a sequence is worth to the layers that drop: the mean over the KV heads of
// max over the band's layers (mean over the group (mass of the last 8 queries)).
template <class T> std::vector<double> row_scores(stack<T> const& e, source_band band, int s) {
  int const n = e.prompt[s], group = e.model.heads / e.model.kv_heads, dim = e.model.dim;
  std::vector<double> score(n, 0);
  for (int h = 0; h < e.model.kv_heads; ++h) {
    std::vector<double> most(n, 0);
    for (int l = band.first; l <= band.last; ++l) {
      std::vector<double> mass(n, 0);
      for (int head = h * group; head < (h + 1) * group; ++head)
        for (int i = std::max(0, n - 8); i < n; ++i) {
          std::vector<double> weight(i + 1);
          float const* const query = &e.q[l][((e.begin_of(s) + i) * std::size_t(e.model.heads) + head) * dim];
          for (int t = 0; t <= i; ++t)
            for (int d = 0; d < dim; ++d)
              weight[t] += double{query[d]} * oracle::exact(T(e.key(l, s, h, t)[d])) / std::sqrt(double(dim));
          double const top = *std::max_element(weight.begin(), weight.end());
          double sum = 0;
          for (double& w : weight) sum += w = std::exp(w - top);
          for (int t = 0; t <= i; ++t) mass[t] += weight[t] / sum / group;
        }
      for (int t = 0; t < n; ++t) most[t] = std::max(most[t], mass[t]);
    }
    for (int t = 0; t < n; ++t) score[t] += most[t] / e.model.kv_heads;
  }
  return score;
}

// Whether `rows` are the pinned ones, the last and the best of the others, away from near-ties.
template <class Protect>
bool keeps_the_best(std::vector<double> score, std::vector<int> const& rows, int keep, Protect const& protect) {
  int const n = static_cast<int>(score.size());
  int pinned = 0;
  for (int t = 0; t < n; ++t)
    if (t == n - 1 || protect.pinned(t, n - 1)) {
      score[t] = INFINITY;
      ++pinned;
    }
  std::size_t const count = std::min(n, std::max(keep, pinned));
  if (rows.size() != count || !std::is_sorted(rows.begin(), rows.end())) return false;
  if (count == 0) return true;
  std::vector<double> ranked = score;
  std::sort(ranked.rbegin(), ranked.rend());
  double const least = ranked[count - 1];
  for (int t = 0; t < n; ++t) {
    bool const kept = std::binary_search(rows.begin(), rows.end(), t);
    if (kept ? score[t] < least * (1 - 1e-5) : score[t] > least * (1 + 1e-5)) return false;
  }
  return true;
}

// A layer that dropped: its cache holds these rows and nothing else, and each row attended to those up to it.
template <class T> void check_dropped_layer(stack<T>& e, int l, rows_of_sequences const& rows) {
  auto const& kept = e.storage[l].kept;
  for (int s = 0; s < e.sequences(); ++s)
    for (int h = 0; h < e.model.kv_heads; ++h) {
      REQUIRE(kept.length(s, h) == static_cast<int>(rows[s].size()));
      CHECK(kept.capacity(s, h) == kept.length(s, h) + e.new_tokens);
      for (int t = 0; t < kept.length(s, h); ++t) {
        auto const run = kept.run(s, h, t);
        CHECK(run.positions[0] == e.position(rows[s][t]));
        bool same = true;
        for (int d = 0; d < e.model.dim; ++d) {
          same = same && oracle::exact(run.keys[d]) == oracle::exact(T(e.key(l, s, h, rows[s][t])[d]));
          same = same && oracle::exact(run.values[d]) == oracle::exact(T(e.value(l, s, h, rows[s][t])[d]));
        }
        CHECK(same);
      }
    }
  auto const expected = oracle::attend(dense{}, e.queries(l), kept);
  for (int s = 0; s < e.sequences(); ++s)
    for (int head = 0; head < e.model.heads; ++head) {
      oracle::head_attention const& a = expected[s * std::size_t(e.model.heads) + head];
      for (int i = 0; i < static_cast<int>(rows[s].size()); ++i)
        for (int d = 0; d < e.model.dim; ++d) {
          std::size_t const token = e.calls[l].offset[s] + i;
          float const seen = e.calls[l].out[(token * e.model.heads + head) * e.model.dim + d];
          CHECK(std::abs(seen - a.out(i, d)) <= a.out_bound(i, d) + 1e-6);
        }
    }
}

std::vector<layer_plan> dropping_above(int layers, source_band const& band) {
  std::vector<layer_plan> plan(layers);
  one_source(plan.data(), layers, band, evict_when::dropping);
  return plan;
}

TEST_CASE_TEMPLATE("above the source the kept rows go on alone, one set for all heads, as the formula says", T, float,
                   half, bfloat16) {
  SEEDED(random);
  for (int group : {1, 4, 7, 8}) {
    CAPTURE(group);
    model_shape const model{4, 2 * group, 2, 21};
    source_band const band{0, 1};
    auto const layers = dropping_above(4, band);
    any_of<sinks, recent> const pinned{{2}, {5}};
    pipeline p(model, schedule{layers.data(), 4, &band, 1},
               voted<ratio, any_of<sinks, recent>>{.budget = {1, 5}, .protect = pinned}, dense{});
    REQUIRE(p.check().ok());
    stack<T> e(model, {97, 9, 0, 1, 50}, random);
    thread_team team(3);
    REQUIRE(e.prefill(p, team).ok());

    rows_of_sequences const rows = e.kept_rows(p);
    REQUIRE(rows.size() == 5);
    for (int s = 0; s < 5; ++s) {
      CAPTURE(s);
      CHECK(keeps_the_best(row_scores(e, band, s), rows[s], e.prompt[s] / 5, pinned));
      CHECK(p.kept_tokens(3, e.prompt[s]) == static_cast<int>(rows[s].size()));
    }
    for (int l : {2, 3}) check_dropped_layer(e, l, rows);
    for (int l : {0, 1}) {  // below, every head still keeps its own
      CHECK(p.released(l));
      CHECK(e.storage[l].kept.length(0, 1) == 19);
    }

    // One more token attends to what the layer keeps, and itself.
    stack<T> next(model, {1, 1, 1, 1, 1}, random);
    next.first_position = 97;
    std::vector<float> out(next.q[3].size());
    std::vector<std::int32_t> const offset{0, 1, 2, 3, 4, 5}, positions(5, 97);
    query_view<float> const q{token_major<float const>(next.q[3].data(), model.heads, 5, model.dim),
                              {5, offset.data(), positions.data()}};
    auto rows_view_of = [&](std::vector<float> const& x) { return token_major(x.data(), 2, 5, model.dim); };
    std::size_t const bytes = p.decode_workspace(cpu{}, 3, q, e.storage.data());
    std::vector<std::byte> work(bytes + 64);
    REQUIRE(p.decode(cpu{}, 3, q, rows_view_of(next.k[3]), rows_view_of(next.v[3]), e.storage.data(),
                     token_major(out.data(), model.heads, 5, model.dim), stack<T>::aligned(work, bytes))
                .ok());
    auto const expected = oracle::attend(dense{}, q, e.storage[3].kept);
    for (int s = 0; s < 5; ++s) {
      CHECK(e.storage[3].kept.length(s, 0) == static_cast<int>(rows[s].size()) + 1);
      for (int head = 0; head < model.heads; ++head)
        for (int d = 0; d < model.dim; ++d) {
          auto const& a = expected[s * std::size_t(model.heads) + head];
          float const seen = out[(s * std::size_t(model.heads) + head) * model.dim + d];
          CHECK(std::abs(seen - a.out(0, d)) <= a.out_bound(0, d) + 1e-6);
        }
    }
  }
}

TEST_CASE("layers between the source and the first that drops may do what they like") {
  SEEDED(random);
  model_shape const model{6, 4, 2, 16};
  source_band const band{0, 1};
  auto layers = dropping_above(6, band);
  layers[2].when = evict_when::before_attending;
  layers[3] = {evict_when::never, -1};
  pipeline p(model, schedule{layers.data(), 6, &band, 1}, voted<ratio, sinks>{.budget = {1, 4}}, dense{});
  REQUIRE(p.check().ok());
  stack<float> e(model, {60, 31}, random);
  thread_team team(2);
  REQUIRE(e.prefill(p, team).ok());
  rows_of_sequences const rows = e.kept_rows(p);
  for (int s = 0; s < 2; ++s) CHECK(keeps_the_best(row_scores(e, band, s), rows[s], e.prompt[s] / 4, sinks{}));
  for (int l : {4, 5}) check_dropped_layer(e, l, rows);
  check_dropped_layer(e, 3, e.all_rows());  // it keeps and sees everything
  CHECK(e.storage[2].kept.length(0, 1) == 15);
}

TEST_CASE("with everything kept, dropping is full attention, bit for bit") {
  SEEDED(random);
  model_shape const model{3, 6, 2, 40};
  source_band const band{0, 0};
  auto const layers = dropping_above(3, band);
  std::vector<layer_plan> const keep_all(3);
  pipeline dropping(model, schedule{layers.data(), 3, &band, 1}, voted<ratio, none>{.budget = {1, 1}}, dense{});
  pipeline full(model, schedule{keep_all.data(), 3, nullptr, 0}, voted<ratio, none>{.budget = {1, 1}}, dense{});
  stack<half> e(model, {75, 0, 1, 33}, random);
  stack<half> whole = e;
  thread_team team(2);
  REQUIRE(e.prefill(dropping, team).ok());
  REQUIRE(whole.prefill(full, team).ok());
  CHECK(e.kept_rows(dropping) == e.all_rows());
  for (int l = 0; l < 3; ++l) {
    CHECK(e.calls[l].out == whole.calls[l].out);
    CHECK(e.memory[l].positions == whole.memory[l].positions);
  }
}

TEST_CASE("the last row goes on whatever it is worth; gaps in the positions stay") {
  SEEDED(random);
  model_shape const model{2, 2, 1, 8};
  source_band const band{0, 0};
  auto const layers = dropping_above(2, band);
  pipeline p(model, schedule{layers.data(), 2, &band, 1}, voted<ratio, none>{.budget = {1, 2}}, dense{});
  stack<float> e(model, {20}, random);
  e.first_position = 5;
  e.step = 3;
  for (int d = 0; d < 8; ++d) e.k[0][19 * 8 + d] = -9 * e.q[0][(19 * 2 + 0) * 8 + d] - 9 * e.q[0][(19 * 2 + 1) * 8 + d];
  std::vector<double> const score = row_scores(e, band, 0);
  REQUIRE(std::min_element(score.begin(), score.end()) - score.begin() == 19);  // worth least
  thread_team team(1);
  REQUIRE(e.prefill(p, team).ok());
  rows_of_sequences const rows = e.kept_rows(p);
  CHECK(rows[0].back() == 19);
  CHECK(keeps_the_best(score, rows[0], 10, none{}));
  check_dropped_layer(e, 1, rows);
}

TEST_CASE("a budget that heads share drops as the budget that it wraps") {
  SEEDED(random);
  model_shape const model{3, 4, 2, 16};
  source_band const band{0, 1};
  auto const layers = dropping_above(3, band);
  schedule const plan{layers.data(), 3, &band, 1};
  pipeline shared(model, plan, voted<across_heads<ratio>, recent>{.budget = {{1, 3}}}, dense{});
  pipeline alone(model, plan, voted<ratio, recent>{.budget = {1, 3}}, dense{});
  stack<float> e(model, {90}, random);
  thread_team team(2);
  REQUIRE(e.prefill(alone, team).ok());
  rows_of_sequences const rows = e.kept_rows(alone);
  REQUIRE(e.prefill(shared, team).ok());
  CHECK(e.kept_rows(shared) == rows);
  CHECK(rows[0].size() == 30);
}

TEST_CASE("rows and results do not depend on the number of threads") {
  SEEDED(random);
  model_shape const model{4, 7, 1, 33};
  source_band const band{1, 2};
  auto const layers = dropping_above(4, band);
  stack<float> first(model, {203, 40}, random);
  stack<float> second = first;
  for (int ranks : {2, 5, 32}) {
    pipeline p(model, schedule{layers.data(), 4, &band, 1}, purekv_deep<ratio>{.budget = {1, 5}}, dense{});
    thread_team one(1), many(ranks);
    REQUIRE(first.prefill(p, one).ok());
    rows_of_sequences const rows = first.kept_rows(p);
    REQUIRE(second.prefill(p, many).ok());
    CHECK(second.kept_rows(p) == rows);
    for (int l = 0; l < 4; ++l) CHECK(first.calls[l].out == second.calls[l].out);
  }
}

TEST_CASE("bad calls give their status and leave every buffer alone") {
  SEEDED(random);
  model_shape const model{3, 4, 2, 16};
  source_band const band{0, 1};
  auto const layers = dropping_above(3, band);
  pipeline p(model, schedule{layers.data(), 3, &band, 1}, voted<ratio, sinks>{.budget = {1, 5}}, dense{});
  stack<float> e(model, {100, 30}, random);
  thread_team team(2);
  CHECK(p.kept_rows().rows == 0);
  REQUIRE(e.begin(p).ok());
  CHECK(p.kept_rows().rows == 0);
  CHECK(e.call(p, team, 2, {{3}, {4}}).code == errc::not_ready);
  CHECK(e.call(p, team, 0, {{0, 1, 2}, {0}}).code == errc::bad_policy);  // a prompt in chunks
  REQUIRE(e.call(p, team, 0, e.all_rows()).ok());
  CHECK(e.call(p, team, 2, {{3}, {4}}).code == errc::not_ready);
  CHECK(p.kept_rows().rows == 0);
  REQUIRE(e.call(p, team, 1, e.all_rows()).ok());
  rows_of_sequences const rows = e.kept_rows(p);
  REQUIRE(rows[0].size() == 20);
  REQUIRE(rows[1].size() == 6);

  auto refused = [&](errc code, char const* sentence, auto const& call) {
    status const s = call();
    CHECK(s.code == code);
    CHECK(std::string(s.message).find(sentence) != std::string::npos);
    auto const& m = e.memory[2];
    auto empty = [](extent const& x) { return x.begin == 0 && x.length == 0 && x.capacity == 0; };
    CHECK(std::all_of(m.extents.begin(), m.extents.end(), empty));
    CHECK(std::all_of(m.positions.begin(), m.positions.end(), [](int x) { return x == -7; }));
    CHECK(std::all_of(m.keys.begin(), m.keys.end(), [](float x) { return std::isnan(x); }));
    CHECK(std::all_of(m.values.begin(), m.values.end(), [](float x) { return std::isnan(x); }));
    auto const& out = e.calls[2].out;
    CHECK(std::all_of(out.begin(), out.end(), [](float x) { return x == -1.f; }));
    CHECK(e.kept_rows(p) == rows);
  };
  refused(errc::mismatch, "gets the rows of kept_rows()", [&] { return e.call(p, team, 2, e.all_rows()); });
  rows_of_sequences other = rows;
  other[0].pop_back();
  refused(errc::mismatch, "no more and no less", [&] { return e.call(p, team, 2, other); });
  for (int row = 0; other[1].size() == rows[1].size(); ++row)  // as many rows in all
    if (std::count(other[1].begin(), other[1].end(), row) == 0) other[1].push_back(row);
  std::sort(other[1].begin(), other[1].end());
  refused(errc::mismatch, "no more and no less", [&] { return e.call(p, team, 2, other); });
  REQUIRE(e.call(p, team, 2, other).code == errc::mismatch);
  e.calls[2].offset[0] = 1;
  refused(errc::mismatch, "offset does not run from 0", [&] { return e.call(p, team, 2); });
  e.first_position = 1;
  refused(errc::bad_positions, "other positions", [&] { return e.call(p, team, 2, rows); });
  e.first_position = 0;
  refused(errc::workspace_too_small, "prefill_workspace()", [&] { return e.call(p, team, 2, rows, 64); });
  --e.storage[2].kept.slots;
  refused(errc::capacity_exceeded, "fewer slots", [&] { return e.call(p, team, 2, rows); });
  ++e.storage[2].kept.slots;
  REQUIRE(e.call(p, team, 2, rows).ok());
  check_dropped_layer(e, 2, rows);
  CHECK(e.call(p, team, 2, rows).code == errc::bad_policy);  // twice

  REQUIRE(e.begin(p).ok());  // the next prompt
  CHECK(p.kept_rows().rows == 0);
}

TEST_CASE("describe and cost count what is left of the work") {
  model_shape const model{30, 9, 3, 64};
  source_band const band{0, 10};
  auto const layers = dropping_above(30, band);
  pipeline p(model, schedule{layers.data(), 30, &band, 1}, purekv_early<ratio>{.budget = {1, 10}}, dense{});
  pipeline_cost const c = p.cost(1000, 10, 2);
  std::int64_t const slot = 2 * 64 * 2 + 4;
  CHECK(c.rows == 11 * 1000 + 19 * 100);
  CHECK(c.full_rows == 30 * 1000);
  CHECK(c.pairs == doctest::Approx((11 + 19 * 0.01) * c.full_pairs / 30));
  CHECK(c.steady_bytes == 30 * 3 * 110 * slot);
  CHECK(c.peak_bytes == 11 * 3 * (1000 + 110) * slot);
  std::string const words = p.describe(1000, 10, 2);
  CHECK(words.find("layers 11-29: compute only the tokens kept by layers 0-10\n") != std::string::npos);
  CHECK(words.find("pairs computed 37 %, rows computed 43 %") != std::string::npos);

  std::vector<layer_plan> pruning(30);
  one_source(pruning.data(), 30, band);
  pipeline first(model, schedule{pruning.data(), 30, &band, 1}, purekv_early<ratio>{.budget = {1, 10}}, dense{});
  CHECK(first.cost(1000, 10, 2).rows == 30 * 1000);
}

}  // namespace
