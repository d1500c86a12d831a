// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/pipeline.hpp>
#include <purekv/presets.hpp>
#include <purekv/thread_team.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "support/random.hpp"

#if defined(__clang__)  // vectors are indexed with the library's signed sizes throughout; its headers are not excused
#pragma clang diagnostic ignored "-Wsign-conversion"
#endif

using namespace purekv;

namespace {

// A small model's worth of data and the memory an engine would hold for it.
struct engine {
  model_shape model;
  std::vector<int> prompt;  // tokens of each sequence
  int new_tokens;
  std::vector<std::int32_t> offset{0}, positions;
  std::vector<std::vector<float>> q, k, v, out;  // [layers][...]: [heads, tokens, dim], [tokens, kv_heads, dim], ...

  struct layer_memory {
    std::vector<float> full_keys, full_values, keys, values;
    std::vector<std::int32_t> full_positions, lengths, positions;
    std::vector<extent> extents;
  };
  std::vector<layer_memory> memory;
  std::vector<layer_storage<float>> storage;
  std::vector<std::byte> own_state;  // what a pipeline knows of the prompt, lent to it until the next

  engine(model_shape shape, std::vector<int> tokens, int room, test::random& random)
      : model(shape), prompt(std::move(tokens)), new_tokens(room) {
    for (int n : prompt) {
      offset.push_back(offset.back() + n);
      for (int i = 0; i < n; ++i) positions.push_back(i);
    }
    auto fill = [&](std::vector<std::vector<float>>& rows, int heads, int dim) {
      for (int l = 0; l < model.layers; ++l) {
        rows.emplace_back(static_cast<std::size_t>(heads) * total() * dim);
        for (float& x : rows.back()) x = random.normal();
      }
    };
    fill(q, model.heads, model.dim);
    fill(k, model.kv_heads, model.dim);
    fill(v, model.kv_heads, value_dim());
    out.assign(model.layers, std::vector<float>(static_cast<std::size_t>(model.heads) * total() * value_dim(), -1.f));
  }

  int value_dim() const { return model.value_dim != 0 ? model.value_dim : model.dim; }
  int total() const { return offset.back(); }
  int longest() const { return *std::max_element(prompt.begin(), prompt.end()); }
  int sequences() const { return static_cast<int>(prompt.size()); }

  template <class Pipeline> void allocate(Pipeline const& p) {
    memory.assign(model.layers, {});
    storage.assign(model.layers, {});
    int const rows = sequences() * model.kv_heads;
    for (int l = 0; l < model.layers; ++l) {
      layer_memory& m = memory[l];
      std::size_t const full = static_cast<std::size_t>(rows) * longest();
      std::int64_t slots = 0;
      for (int n : prompt) slots += p.kept_slots(l, n, new_tokens);
      m.full_keys.assign(full * model.dim, NAN);
      m.full_values.assign(full * value_dim(), NAN);
      m.full_positions.assign(full, -7);
      m.lengths.assign(rows, 0);
      m.keys.assign(slots * model.dim, NAN);
      m.values.assign(slots * value_dim(), NAN);
      m.positions.assign(slots, -7);
      m.extents.assign(rows, {});
      storage[l].full = head_major_cache(m.full_keys.data(), m.full_values.data(), m.full_positions.data(),
                                         m.lengths.data(), sequences(), model.kv_heads, longest(), model.dim);
      storage[l].kept = {m.keys.data(),    m.values.data(), m.positions.data(),
                         m.extents.data(), sequences(),     model.kv_heads,
                         model.dim,        slots,           model.dim};
      if (model.value_dim != 0) {
        contiguous_cache<float>& all = storage[l].full;
        all.value_dim = storage[l].kept.value_dim = value_dim();
        all.value_token_stride = storage[l].kept.value_token_stride = value_dim();
        all.value_head_stride = std::ptrdiff_t{longest()} * value_dim();
        all.value_sequence_stride = model.kv_heads * all.value_head_stride;
      }
    }
  }

  query_view<float> queries(int l) const {
    return {head_major<float const>(q[l].data(), model.heads, total(), model.dim),
            {sequences(), offset.data(), positions.data()}};
  }
  rows_view<float const> keys(int l) const {
    return token_major<float const>(k[l].data(), model.kv_heads, total(), model.dim);
  }
  rows_view<float const> values(int l) const {
    return token_major<float const>(v[l].data(), model.kv_heads, total(), value_dim());
  }
  rows_view<float> result(int l) { return head_major(out[l].data(), model.heads, total(), value_dim()); }

  float const* key(int l, int s, int h, int i) const { return keys(l).row(h, offset[s] + i); }
  float const* value(int l, int s, int h, int i) const { return values(l).row(h, offset[s] + i); }
  float const* query(int l, int s, int h, int i) const { return queries(l).rows.row(h, offset[s] + i); }

  template <class Pipeline> status prefill(Pipeline& p, thread_team& team) {
    allocate(p);
    own_state.assign(p.state_bytes(sequences(), longest()) + 64, {});
    return prefill(p, team, own_state);
  }
  template <class Pipeline> status prefill(Pipeline& p, thread_team& team, std::vector<std::byte>& state) {
    if (status const s = p.begin(sequences(), prompt.data(), new_tokens, aligned(state)); !s.ok()) return s;
    for (int l = 0; l < model.layers; ++l)
      if (status const s = prefill_layer(p, team, l); !s.ok()) return s;
    return {};
  }
  template <class Pipeline>
  status prefill_layer(Pipeline& p, thread_team& team, int l, float* lse = nullptr, std::ptrdiff_t lse_stride = 0) {
    int const own = std::min(l, model.layers - 1);  // a call for a layer beyond the model brings the last one's data
    std::vector<std::byte> work(p.template prefill_workspace<float>(cpu{0, team.ranks()}, queries(own)) + 64);
    std::vector<status> results(team.ranks());
    team.run([&](cpu exec) {
      results[exec.rank()] = p.prefill(exec, l, queries(own), keys(own), values(own), storage.data(), result(own),
                                       aligned(work), lse, lse_stride);
    });
    for (status const& s : results) REQUIRE(s.code == results[0].code);
    return results[0];
  }

  static workspace aligned(std::vector<std::byte>& bytes) {
    auto const at = reinterpret_cast<std::uintptr_t>(bytes.data());
    std::size_t const skip = (64 - at % 64) % 64;
    return {bytes.data() + skip, bytes.size() - 64};
  }
};

// softmax(q . k / sqrt(dim)) of query i over the tokens in `seen`, in double.
std::vector<double> probabilities(engine const& e, int l, int s, int head, int i, std::vector<int> const& seen) {
  int const h = head / (e.model.heads / e.model.kv_heads);
  std::vector<double> p;
  double most = -INFINITY, sum = 0;
  for (int t : seen) {
    double dot = 0;
    for (int d = 0; d < e.model.dim; ++d) dot += double{e.query(l, s, head, i)[d]} * e.key(l, s, h, t)[d];
    p.push_back(dot / std::sqrt(double(e.model.dim)));
    most = std::max(most, p.back());
  }
  for (double& x : p) sum += x = std::exp(x - most);
  for (double& x : p) x /= sum;
  return p;
}

// Largest difference between a layer's output and attention of query i to the tokens seen(i).
template <class Seen> double error(engine const& e, int l, Seen const& seen) {
  double worst = 0;
  int const group = e.model.heads / e.model.kv_heads;
  for (int s = 0; s < e.sequences(); ++s)
    for (int head = 0; head < e.model.heads; ++head)
      for (int i = 0; i < e.prompt[s]; ++i) {
        std::vector<int> const tokens = seen(s, head / group, i);
        std::vector<double> const p = probabilities(e, l, s, head, i, tokens);
        for (int d = 0; d < e.value_dim(); ++d) {
          double expected = 0;
          for (std::size_t t = 0; t < tokens.size(); ++t) expected += p[t] * e.value(l, s, head / group, tokens[t])[d];
          std::size_t const at = (std::size_t(head) * e.total() + e.offset[s] + i) * e.value_dim() + d;
          worst = std::max(worst, std::abs(expected - e.out[l][at]));
        }
      }
  return worst;
}

std::vector<int> up_to(int i) {
  std::vector<int> all(i + 1);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

std::set<int> kept_set(engine const& e, int l, int s, int h) {
  auto const& kept = e.storage[l].kept;
  std::set<int> set;
  for (int t = 0; t < kept.length(s, h); ++t) set.insert(*kept.run(s, h, t).positions);
  return set;
}

// What one source band says: the largest mass that the last 16 queries of any head of any layer of the band give a
// token, max-pooled over 15.
std::vector<double> band_scores(engine const& e, source_band band, int s) {
  int const n = e.prompt[s];
  std::vector<double> most(n, 0);
  for (int l = band.first; l <= band.last; ++l)
    for (int head = 0; head < e.model.heads; ++head) {
      std::vector<double> mass(n, 0);
      for (int i = std::max(0, n - 16); i < n; ++i) {
        std::vector<double> const p = probabilities(e, l, s, head, i, up_to(i));
        for (int t = 0; t <= i; ++t) mass[t] += p[t];
      }
      for (int t = 0; t < n; ++t) most[t] = std::max(most[t], mass[t]);
    }
  std::vector<double> pooled(n);
  for (int t = 0; t < n; ++t) pooled[t] = *std::max_element(most.begin() + std::max(0, t - 14), most.begin() + t + 1);
  return pooled;
}

// Whether a head kept the pinned tokens and the best of the rest, away from near-ties of the scores.
bool keeps_the_best(engine const& e, std::vector<double> const& source, int l, int s, int h, int keep) {
  int const n = e.prompt[s];
  std::vector<double> score(n), ranked;
  for (int t = 0; t < n; ++t) {
    double norm = 0;
    for (int d = 0; d < e.value_dim(); ++d) norm += double{e.value(l, s, h, t)[d]} * e.value(l, s, h, t)[d];
    bool const pinned = t < 4 || t >= n - 16;
    score[t] = pinned ? INFINITY : source[t] * std::sqrt(norm);
    ranked.push_back(score[t]);
  }
  std::sort(ranked.rbegin(), ranked.rend());
  int const count = std::min(n, std::max(keep, std::min(n, 20)));
  std::set<int> const kept = kept_set(e, l, s, h);
  if (static_cast<int>(kept.size()) != count) return false;
  for (int t = 0; t < n; ++t)
    if (kept.count(t) > 0 ? score[t] < ranked[count - 1] * (1 - 1e-5) : score[t] > ranked[count - 1] * (1 + 1e-5))
      return false;
  return true;
}

constexpr double tolerance = 2e-5;  // absolute, for outputs of size 1 from float arithmetic over a few hundred keys

using early = purekv_early<ratio>;

TEST_CASE("a schedule that never evicts attends to everything, in one call or in chunks") {
  test::random random;
  CAPTURE(random.seed());
  model_shape const model{2, 6, 2, 40};
  std::vector<layer_plan> layers(2);
  pipeline p(model, schedule{layers.data(), 2, nullptr, 0}, snapkv<ratio>{.budget = {1, 5}}, dense{});
  REQUIRE(p.check().ok());
  engine e(model, {70, 33}, 5, random);
  thread_team team(2);
  REQUIRE(e.prefill(p, team).ok());
  for (int l = 0; l < 2; ++l) CHECK(error(e, l, [](int, int, int i) { return up_to(i); }) < tolerance);
  CHECK(kept_set(e, 1, 0, 1).size() == 70);

  engine chunked(model, {50}, 0, random);
  engine whole = chunked;
  REQUIRE(whole.prefill(p, team).ok());
  chunked.allocate(p);
  std::vector<std::byte> state(p.state_bytes(1, 50) + 64), work(1 << 20);
  REQUIRE(p.begin(1, chunked.prompt.data(), 0, engine::aligned(state)).ok());
  for (int l = 0; l < 2; ++l)
    for (int begin = 0; begin < 50; begin += 20) {
      int const count = std::min(20, 50 - begin);
      auto part = [&](auto rows) {
        rows.data = rows.row(0, begin);
        rows.tokens = count;
        return rows;
      };
      query_view<float> const q{part(chunked.queries(l).rows), {1, nullptr, chunked.positions.data() + begin}};
      REQUIRE(p.prefill(cpu{}, l, q, part(chunked.keys(l)), part(chunked.values(l)), chunked.storage.data(),
                        part(chunked.result(l)), engine::aligned(work))
                  .ok());
    }
  for (int l = 0; l < 2; ++l)
    for (std::size_t i = 0; i < whole.out[l].size(); ++i)
      CHECK(std::abs(whole.out[l][i] - chunked.out[l][i]) < tolerance);
}

TEST_CASE("one source for the whole stack: deferred below, prune first above, as the formula says") {
  test::random random;
  CAPTURE(random.seed());
  for (int group : {1, 3}) {
    model_shape const model{5, 2 * group, 2, 24, group == 3 ? 17 : 0};
    source_band const band{0, 1};
    std::vector<layer_plan> layers(5);
    one_source(layers.data(), 5, band);
    layers[1].when = evict_when::after_attending;  // the band's last layer is ready when it has attended
    pipeline p(model, schedule{layers.data(), 5, &band, 1}, early{.budget = {1, 4}}, dense{});
    REQUIRE(p.check().ok());
    engine e(model, {131, 9, 0, 64}, 3, random);
    thread_team team(3);
    REQUIRE(e.prefill(p, team).ok());

    for (int s = 0; s < e.sequences(); ++s) {
      std::vector<double> const source = band_scores(e, band, s);
      for (int l = 0; l < 5; ++l)
        for (int h = 0; h < 2; ++h) {
          CAPTURE(l);
          CAPTURE(s);
          CHECK(keeps_the_best(e, source, l, s, h, e.prompt[s] / 4));
          auto const& kept = e.storage[l].kept;
          CHECK(kept.capacity(s, h) == kept.length(s, h) + 3);
          for (int t = 0; t < kept.length(s, h); ++t) {
            int const position = *kept.run(s, h, t).positions;
            CHECK(std::memcmp(kept.run(s, h, t).keys, e.key(l, s, h, position), sizeof(float) * 24) == 0);
            CHECK(std::memcmp(kept.run(s, h, t).values, e.value(l, s, h, position), sizeof(float) * e.value_dim()) ==
                  0);
          }
        }
    }
    for (int l = 0; l < 5; ++l) {
      CHECK(p.released(l));
      auto seen = [&](int s, int h, int i) {
        if (l <= band.last) return up_to(i);
        std::vector<int> tokens;
        std::set<int> const kept = kept_set(e, l, s, h);
        for (int t = 0; t <= i; ++t)
          if (t == i || kept.count(t) > 0) tokens.push_back(t);
        return tokens;
      };
      CHECK(error(e, l, seen) < tolerance);
    }
  }
}

TEST_CASE("a pattern for each layer, and images that see themselves") {
  test::random random;
  CAPTURE(random.seed());
  model_shape const model{4, 6, 2, 24};
  segment const segments[] = {segment::text(0, 40), segment::video(40, 2, 5, 6), segment::text(100, 31)};
  token_layout const layout{segments, 3};
  auto const frame = [&](int i) { return i < 40 || i >= 100 ? -1 : (i - 40) / 30; };
  using windowed = bidirectional<sliding_window>;
  windowed const patterns[] = {{layout, {INT32_MAX}}, {layout, {21}}, {layout, {INT32_MAX}}, {layout, {33}}};
  source_band const band{0, 0};
  std::vector<layer_plan> layers(4);
  layers[1].when = evict_when::never;
  for (int l : {0, 2, 3}) layers[l] = {l == 0 ? evict_when::after_attending : evict_when::before_attending, 0};
  pipeline p(model, schedule{layers.data(), 4, &band, 1}, early{.budget = {1, 4}}, patterns);
  static_assert(std::is_same_v<decltype(p), pipeline<early, windowed>>);
  REQUIRE(p.check().ok());
  engine e(model, {131, 77}, 3, random);
  thread_team team(3);
  REQUIRE(e.prefill(p, team).ok());
  for (int l = 0; l < 4; ++l) {
    CAPTURE(l);
    auto seen = [&](int s, int h, int i) {
      std::set<int> const kept = kept_set(e, l, s, h);
      std::vector<int> tokens;
      for (int t = 0; t < e.prompt[s]; ++t) {
        bool const together = frame(t) >= 0 && frame(t) == frame(i);
        bool const shown = together || (t <= i && i - t < patterns[l].pattern.window);
        if (shown && (t == i || l < 2 || kept.count(t) > 0)) tokens.push_back(t);
      }
      return tokens;
    };
    CHECK(error(e, l, seen) < tolerance);
  }

  // What each layer's pattern shows is what it costs.
  double pairs = 0;
  for (windowed const& pattern : patterns)
    for (int q = 0; q < 131; ++q)
      for (int k = 0; k < 131; ++k) pairs += 6 * pattern.visible(0, q, k);
  CHECK(p.cost(131, 0, 2).full_pairs == doctest::Approx(pairs));

  pipeline<early, windowed> const none(model, schedule{layers.data(), 4, &band, 1}, early{.budget = {1, 4}},
                                       static_cast<windowed const*>(nullptr));
  CHECK(none.check().code == errc::null_data);
}

TEST_CASE("a compressor for each layer") {
  test::random random;
  CAPTURE(random.seed());
  model_shape const model{3, 4, 2, 16};
  std::vector<layer_plan> layers(3);
  own_source(layers.data(), 3, evict_when::after_attending);
  using drawn = compressor<uniform_random, ratio, sinks>;
  drawn const each[] = {{{7}, {1, 2}, {3}}, {{8}, {1, 4}, {}}, {{7}, {1, 2}, {3}}};
  pipeline p(model, schedule{layers.data(), 3, nullptr, 0}, each, dense{});
  static_assert(std::is_same_v<decltype(p), pipeline<drawn, dense>>);
  REQUIRE(p.check().ok());
  engine e(model, {90, 41}, 0, random);
  thread_team team(2);
  REQUIRE(e.prefill(p, team).ok());
  for (int s = 0; s < 2; ++s)
    for (int h = 0; h < 2; ++h) {
      CHECK(kept_set(e, 0, s, h) == kept_set(e, 2, s, h));
      CHECK(kept_set(e, 0, s, h) != kept_set(e, 1, s, h));
      CHECK(static_cast<int>(kept_set(e, 0, s, h).size()) == e.prompt[s] / 2);
      CHECK(static_cast<int>(kept_set(e, 1, s, h).size()) == e.prompt[s] / 4);
      CHECK(kept_set(e, 0, s, h).count(2) == 1);
    }
  CHECK(p.kept_tokens(0, 90) == 45);
  CHECK(p.kept_tokens(1, 90) == 22);

  drawn const broken[] = {each[0], each[1], {{7}, {3, 2}, {}}};
  CHECK(pipeline(model, schedule{layers.data(), 3, nullptr, 0}, broken, dense{}).check().code == errc::bad_policy);
  CHECK(pipeline(model, schedule{layers.data(), 3, nullptr, 0}, static_cast<drawn const*>(nullptr), dense{})
            .check()
            .code == errc::null_data);
}

TEST_CASE("an estimator inside cross_layer carries each source layer's own data") {
  test::random random;
  CAPTURE(random.seed());
  model_shape const model{4, 4, 2, 16};
  source_band const band{1, 1};
  std::vector<layer_plan> layers(4);
  one_source(layers.data(), 4, band);
  using drawn = compressor<cross_layer<uniform_random>, ratio, none>;
  std::vector<drawn> each(4, drawn{.budget = {1, 3}});
  auto const kept_with = [&](int at, std::uint64_t seed) {
    std::vector<drawn> compressors = each;
    compressors[at].estimator.source.seed = seed;
    pipeline p(model, schedule{layers.data(), 4, &band, 1}, compressors.data(), dense{});
    test::random same(random.seed());
    engine e(model, {120}, 0, same);
    thread_team team(1);
    REQUIRE(e.prefill(p, team).ok());
    return kept_set(e, 3, 0, 1);
  };
  auto const before = kept_with(1, 0);
  CHECK(before == kept_with(3, 5));
  CHECK(before != kept_with(1, 5));
}

TEST_CASE("an engine that attends by itself: the same caches") {
  test::random random;
  CAPTURE(random.seed());
  for (auto const above : {evict_when::before_attending, evict_when::dropping}) {
    model_shape const model{5, 6, 2, 24, 17};
    source_band const band{1, 2};
    std::vector<layer_plan> layers(5);
    one_source(layers.data(), 5, band, above);
    if (above != evict_when::dropping) layers[4] = {evict_when::never, -1};
    pipeline p(model, schedule{layers.data(), 5, &band, 1}, early{.budget = {1, 4}}, dense{});
    engine e(model, {131, 9, 64}, 3, random);
    engine own = e;
    thread_team team(3);
    int const last = above == evict_when::dropping ? 3 : 5;
    std::ptrdiff_t const stride = e.total() + 1;
    std::vector<std::vector<float>> lse(last, std::vector<float>(6 * stride, NAN));
    auto const begin = [&](engine& each) {
      each.allocate(p);
      each.own_state.assign(p.state_bytes(3, 131) + 64, {});
      REQUIRE(p.begin(3, each.prompt.data(), 3, engine::aligned(each.own_state)).ok());
    };
    begin(e);
    for (int l = 0; l < last; ++l) REQUIRE(e.prefill_layer(p, team, l, lse[l].data(), stride).ok());
    begin(own);
    for (int l = 0; l < last; ++l) {
      bool const read = band.first <= l && l <= band.last;
      std::vector<std::byte> work(p.prefill_workspace<float>(cpu{0, 3}, own.queries(l)) + 64);
      std::vector<status> results(3);
      team.run([&](cpu exec) {
        results[exec.rank()] = p.cache_prompt(exec, l, own.queries(l), own.keys(l), own.values(l), own.storage.data(),
                                              read ? lse[l].data() : nullptr, stride, engine::aligned(work));
      });
      for (status const& s : results) REQUIRE(s.ok());
      CHECK(std::ranges::all_of(own.out[l], [](float x) { return x == -1.0f; }));
    }
    // What a layer attended to is what its log-sum-exp is of, also above the source.
    for (int l = 0; l < last; ++l)
      for (int s = 0; s < 3; ++s)
        for (int head = 0; head < 6; ++head) {
          int const i = e.prompt[s] - 1;
          std::set<int> seen = kept_set(e, l, s, head / 3);
          if (l <= band.last || layers[l].when == evict_when::never)
            for (int t : up_to(i)) seen.insert(t);
          double sum = 0;
          for (int t : seen) {
            double dot = 0;
            for (int d = 0; d < 24; ++d) dot += double{e.query(l, s, head, i)[d]} * e.key(l, s, head / 3, t)[d];
            sum += std::exp(dot / std::sqrt(24.0));
          }
          CHECK(lse[l][head * stride + e.offset[s] + i] == doctest::Approx(std::log2(sum)).epsilon(1e-4));
        }
    for (int l = 0; l < last; ++l)
      for (int s = 0; s < 3; ++s)
        for (int h = 0; h < 2; ++h) {
          CAPTURE(l);
          REQUIRE(kept_set(e, l, s, h) == kept_set(own, l, s, h));
          auto const &a = e.storage[l].kept, &b = own.storage[l].kept;
          for (int t = 0; t < a.length(s, h); ++t) {
            CHECK(std::equal(a.run(s, h, t).keys, a.run(s, h, t).keys + 24, b.run(s, h, t).keys));
            CHECK(std::equal(a.run(s, h, t).values, a.run(s, h, t).values + 17, b.run(s, h, t).values));
          }
        }
    // Without the log-sum-exp that its estimator needs a source layer is refused, and nothing kept has changed.
    engine lacking = own;
    begin(lacking);
    std::vector<std::byte> work(p.prefill_workspace<float>(cpu{}, own.queries(0)) + 64);
    auto const cache = [&](int l) {
      return p.cache_prompt(cpu{}, l, lacking.queries(l), lacking.keys(l), lacking.values(l), lacking.storage.data(),
                            nullptr, 0, engine::aligned(work));
    };
    REQUIRE(cache(0).ok());
    CHECK(cache(1).code == errc::null_data);
    for (int l = 0; l < 5; ++l) CHECK(kept_set(lacking, l, 0, 0).empty());
  }
}

TEST_CASE("every layer by its own score, and decoding from what is kept") {
  test::random random;
  CAPTURE(random.seed());
  model_shape const model{2, 8, 2, 64};
  std::vector<layer_plan> layers(2);
  own_source(layers.data(), 2, evict_when::after_attending);
  pipeline p(model, schedule{layers.data(), 2, nullptr, 0}, early{.budget = {1, 5}}, dense{});
  engine e(model, {150}, 2, random);
  thread_team team(2);
  std::vector<std::byte> state(p.state_bytes(1, 150) + 64);
  e.allocate(p);
  REQUIRE(e.prefill(p, team, state).ok());
  for (int l = 0; l < 2; ++l) {
    std::vector<double> const source = band_scores(e, {l, l}, 0);
    for (int h = 0; h < 2; ++h) CHECK(keeps_the_best(e, source, l, 0, h, 30));
  }

  engine next(model, {1}, 0, random);  // one more token
  next.positions[0] = 150;
  std::vector<float> out(8 * 64);
  std::vector<std::byte> work(p.decode_workspace(cpu{}, 1, next.queries(1), e.storage.data()) + 64);
  REQUIRE(p.decode(cpu{}, 1, next.queries(1), next.keys(1), next.values(1), e.storage.data(),
                   head_major(out.data(), 8, 1, 64), engine::aligned(work))
              .ok());
  auto const& kept = e.storage[1].kept;
  for (int head = 0; head < 8; ++head) {
    int const h = head / 4, n = kept.length(0, h);
    REQUIRE(n == 31);
    std::vector<double> p_(n), expected(64, 0.0);
    double sum = 0;
    for (int t = 0; t < n; ++t) {
      double dot = 0;
      for (int d = 0; d < 64; ++d) dot += double{next.query(1, 0, head, 0)[d]} * kept.run(0, h, t).keys[d];
      sum += p_[t] = std::exp(dot / 8);
    }
    for (int t = 0; t < n; ++t)
      for (int d = 0; d < 64; ++d) expected[d] += p_[t] / sum * kept.run(0, h, t).values[d];
    for (int d = 0; d < 64; ++d) CHECK(std::abs(expected[d] - out[head * 64 + d]) < tolerance);
  }

  // The second new token fits, the third does not, and leaves the cache as it was.
  auto decode_again = [&](int position) {
    next.positions[0] = position;
    return p.decode(cpu{}, 1, next.queries(1), next.keys(1), next.values(1), e.storage.data(),
                    head_major(out.data(), 8, 1, 64), engine::aligned(work));
  };
  CHECK(decode_again(150).code == errc::bad_positions);
  CHECK(kept.length(0, 0) == 31);
  CHECK(decode_again(151).ok());
  auto const before = e.memory[1].keys;
  CHECK(decode_again(152).code == errc::capacity_exceeded);
  CHECK(kept.length(0, 0) == 32);
  CHECK(std::memcmp(before.data(), e.memory[1].keys.data(), before.size() * sizeof(float)) == 0);
}

TEST_CASE("results do not depend on the number of threads") {
  test::random random;
  CAPTURE(random.seed());
  model_shape const model{4, 7, 1, 33};
  source_band const band{1, 2};
  std::vector<layer_plan> layers(4);
  one_source(layers.data(), 4, band);
  engine first(model, {203, 40}, 1, random);
  engine second = first;
  for (int ranks : {2, 5}) {
    pipeline p(model, schedule{layers.data(), 4, &band, 1}, purekv_deep<across_heads<ratio>>{.budget = {{1, 5}}},
               dense{});
    thread_team one(1), many(ranks);
    REQUIRE(first.prefill(p, one).ok());
    REQUIRE(second.prefill(p, many).ok());
    for (int l = 0; l < 4; ++l) {
      CHECK(std::memcmp(first.out[l].data(), second.out[l].data(), first.out[l].size() * sizeof(float)) == 0);
      CHECK(first.memory[l].positions == second.memory[l].positions);
    }
  }
}

TEST_CASE("bad calls give their status and leave what is kept alone") {
  test::random random;
  CAPTURE(random.seed());
  model_shape const model{3, 4, 2, 16};
  source_band const band{0, 1};
  std::vector<layer_plan> layers(3);
  one_source(layers.data(), 3, band);
  schedule const plan{layers.data(), 3, &band, 1};
  pipeline p(model, plan, early{.budget = {1, 5}}, dense{});
  engine e(model, {100}, 1, random);
  thread_team team(2);
  std::vector<std::byte> state(p.state_bytes(1, 100) + 64);
  e.allocate(p);

  CHECK(e.prefill_layer(p, team, 0).code == errc::not_ready);  // before begin
  CHECK(p.begin(1, e.prompt.data(), 1, {state.data(), 8}).code == errc::workspace_too_small);
  CHECK(p.begin(0, e.prompt.data(), 1, engine::aligned(state)).code == errc::bad_shape);
  CHECK(p.begin(1, nullptr, 1, engine::aligned(state)).code == errc::null_data);
  REQUIRE(p.begin(1, e.prompt.data(), 1, engine::aligned(state)).ok());

  status const early_call = e.prefill_layer(p, team, 2);
  CHECK(early_call.code == errc::not_ready);
  CHECK(std::string(early_call.message).find("source of this layer has not been scored") != std::string::npos);
  CHECK(e.prefill_layer(p, team, 1).code == errc::not_ready);  // layer 0 of the band was left out
  CHECK(e.prefill_layer(p, team, 3).code == errc::bad_shape);

  auto call = [&](query_view<float> q, rows_view<float const> k, rows_view<float const> v, std::size_t bytes) {
    std::vector<std::byte> work(bytes + 64);
    return p.prefill(cpu{}, 0, q, k, v, e.storage.data(), e.result(0), engine::aligned(work));
  };
  std::size_t const enough = p.prefill_workspace<float>(cpu{}, e.queries(0));
  query_view<float> chunk = e.queries(0);
  chunk.rows.tokens = 50;
  chunk.batch.offset = nullptr;
  rows_view<float const> k = e.keys(0), v = e.values(0);
  k.tokens = v.tokens = 50;
  rows_view<float> out = e.result(0);
  out.tokens = 50;
  std::vector<std::byte> work(enough + 64);
  status const chunked = p.prefill(cpu{}, 0, chunk, k, v, e.storage.data(), out, engine::aligned(work));
  CHECK(chunked.code == errc::bad_policy);
  CHECK(std::string(chunked.message).find("in chunks") != std::string::npos);
  CHECK(call(e.queries(0), k, v, enough).code == errc::mismatch);
  CHECK(call(e.queries(0), e.keys(0), e.values(0), enough - 64).code == errc::workspace_too_small);
  rows_view<float const> none = e.keys(0);
  none.data = nullptr;
  CHECK(call(e.queries(0), none, e.values(0), enough).code == errc::null_data);

  rows_view<float const> narrow = e.values(0);
  narrow.dim = 8;
  CHECK(call(e.queries(0), e.keys(0), narrow, enough).code == errc::mismatch);
  e.storage[0].full.value_dim = 8;
  e.storage[0].full.value_token_stride = 16;
  e.storage[0].full.value_head_stride = 16 * 100;
  CHECK(call(e.queries(0), e.keys(0), e.values(0), enough).code == errc::mismatch);
  e.storage[0].full.value_dim = 0;

  e.storage[0].full.tokens = 99;
  CHECK(call(e.queries(0), e.keys(0), e.values(0), enough).code == errc::capacity_exceeded);
  e.storage[0].full.tokens = 100;
  std::int64_t const slots = e.storage[0].kept.slots;
  REQUIRE(e.prefill_layer(p, team, 0).ok());
  CHECK(e.prefill_layer(p, team, 0).code == errc::bad_policy);  // twice
  e.storage[0].kept.slots = slots - 1;
  CHECK(e.prefill_layer(p, team, 1).code == errc::capacity_exceeded);  // layer 0 is evicted here
  e.storage[0].kept.slots = slots;
  CHECK(!p.released(0));
  for (auto const& m : e.memory)
    CHECK(std::all_of(m.positions.begin(), m.positions.end(), [](int x) { return x == -7; }));
  CHECK(p.decode(cpu{}, 1, e.queries(1), e.keys(1), e.values(1), e.storage.data(), e.result(1), {}).code ==
        errc::not_ready);
  REQUIRE(e.prefill_layer(p, team, 1).ok());
  CHECK(p.released(0));
  REQUIRE(e.prefill_layer(p, team, 2).ok());

  CHECK(pipeline<early, dense>(model_shape{3, 4, 3, 16}, plan, early{.budget = {1, 5}}, dense{}).check().code ==
        errc::bad_shape);
  CHECK(pipeline<early, dense>(model_shape{2, 4, 2, 16}, plan, early{.budget = {1, 5}}, dense{}).check().code ==
        errc::mismatch);
  CHECK(pipeline<early, dense>(model_shape{3, 4, 2, 16, -1}, plan, early{.budget = {1, 5}}, dense{}).check().code ==
        errc::bad_shape);
  CHECK(pipeline<early, dense>(model, plan, early{.budget = {6, 5}}, dense{}).check().code == errc::bad_policy);
  CHECK(pipeline<snapkv<ratio>, dense>(model, plan, snapkv<ratio>{.budget = {1, 5}}, dense{}).check().code ==
        errc::bad_policy);
}

TEST_CASE("describe says what each layer does, the peak and the steady bytes, and the pairs computed") {
  model_shape const model{30, 9, 3, 64};
  source_band const band{0, 10};
  std::vector<layer_plan> layers(30);
  one_source(layers.data(), 30, band);
  pipeline p(model, schedule{layers.data(), 30, &band, 1}, early{.budget = {1, 5}}, dense{});
  std::int64_t const slot = 2 * 64 * 2 + 4;
  pipeline_cost const c = p.cost(1000, 10, 2);
  CHECK(c.full_bytes == 30 * 3 * 1010 * slot);
  CHECK(c.steady_bytes == 30 * 3 * 210 * slot);
  // The worst moment is layer 10: eleven whole prompts and eleven kept ones.
  CHECK(c.peak_bytes == 11 * 3 * (1000 + 210) * slot);
  double const all = 9 * 1000.0 * 1001 / 2;
  CHECK(c.full_pairs == doctest::Approx(30 * all));
  CHECK(c.pairs == doctest::Approx((11 + 19 * 0.2) * all));
  std::string const words = p.describe(1000, 10, 2);
  CHECK(words.find("layers 0-10: attend to all, evict when layers 0-10 have been scored\n") != std::string::npos);
  CHECK(words.find("layers 11-29: evict by layers 0-10, then attend to what is kept\n") != std::string::npos);
  CHECK(words.find("peak " + std::to_string(c.peak_bytes) + " bytes (") != std::string::npos);
  CHECK(words.find("pairs computed 49 %") != std::string::npos);

  model_shape const latent{30, 9, 3, 64, 48};
  CHECK(pipeline(latent, schedule{layers.data(), 30, &band, 1}, early{.budget = {1, 5}}, dense{})
            .cost(1000, 10, 2)
            .full_bytes == 30 * 3 * 1010 * ((64 + 48) * 2 + 4));
}

}  // namespace
