// SPDX-License-Identifier: Apache-2.0
// What pipeline.hpp does where the prompt comes in chunks; tests/pipeline.cpp has the rest.
#include "support/chunked_model.hpp"
#include "support/fixtures_attention.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
#include <purekv/pattern/bidirectional.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/sinks_and_window.hpp>
#include <purekv/pattern/sliding_window.hpp>
#include <purekv/presets.hpp>

using namespace purekv;
using namespace fixtures;

namespace {

std::int32_t everything(std::int32_t left) { return left; }
auto at_most(std::int32_t n) {
  return [n](std::int32_t left) { return left < n ? left : n; };
}

/// The schedules of a model whose layers evict after attending.
struct plan_of {
  std::vector<layer_plan> layers;
  std::vector<source_band> bands;
  schedule view(bool chunked) const {
    return {layers.data(), static_cast<std::int32_t>(layers.size()), bands.data(),
            static_cast<std::int32_t>(bands.size()), chunked};
  }
};

plan_of own(int layers) {
  plan_of p{std::vector<layer_plan>(size(layers)), {}};
  own_source(p.layers.data(), layers, evict_when::after_attending);
  return p;
}

plan_of by_band(int layers, source_band const& band) {
  plan_of p{std::vector<layer_plan>(size(layers)), {band}};
  one_source(p.layers.data(), layers, band);
  attend_first(p.layers.data(), layers);
  return p;
}

/// Whether two runs kept the same away from near-ties: the scores, in the order in which heads were scored, agree to
/// `tolerance`, and a token that only one of them kept has a score that close to the lowest kept.
struct run_result {
  std::vector<std::vector<float>> outs;
  std::vector<float> scores;
  std::vector<std::vector<std::int32_t>> kept;
};

template <class T, class E, class B, class Pr, selection_scope S, class P, class Next>
run_result run(chunked_model<T>& m, schedule const& plan, compressor<E, B, Pr, S> const& c, P const& pattern,
               Next const& next) {
  std::vector<float> log;
  compressor<recorded<E>, B, Pr, S> spied{{c.estimator, &log}, c.budget, c.protect};
  pipeline p(m.model, plan, spied, pattern);
  status const done = m.feed_all(p, next);
  REQUIRE_MESSAGE(done.ok(), done.message);
  run_result r{{}, log, m.kept()};
  for (auto const& layer : m.layers) r.outs.push_back(layer.out.memory);
  for (int l = 0; l < m.model.layers; ++l) CHECK(p.released(l));
  return r;
}

double largest_difference(std::vector<float> const& a, std::vector<float> const& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!same_bits(a[i], b[i]))
      worst = std::max(worst, std::abs(double{a[i]} - b[i]) / std::max(1e-6, std::abs(double{b[i]})));
  return worst;
}

void check_alike(run_result const& chunked, run_result const& whole, double tolerance) {
  for (std::size_t l = 0; l < whole.outs.size(); ++l)
    for (std::size_t i = 0; i < whole.outs[l].size(); ++i)
      if (!same_bits(chunked.outs[l][i], whole.outs[l][i]))
        REQUIRE(std::abs(chunked.outs[l][i] - whole.outs[l][i]) < 2e-5);
  CHECK(largest_difference(chunked.scores, whole.scores) <= tolerance);
}

/// Sets agree away from near-ties. first_score(row): where in the log a row of the kept lists has its scores.
template <class T>
void check_kept(chunked_model<T> const& m, plan_of const& plan, run_result const& chunked, run_result const& whole,
                double tolerance) {
  // Rows were scored layer by layer in the order in which the layers evicted.
  schedule const view = plan.view(true);
  std::size_t at = 0;
  int differing = 0;
  for (int turn = 0; turn < m.model.layers; ++turn)
    for (int l = 0; l <= turn; ++l) {
      if (view.evicts_at(l) != turn) continue;
      for (int s = 0; s < m.sequences(); ++s)
        for (int h = 0; h < m.model.kv_heads; ++h, at += size(m.prompt[size(s)])) {
          std::size_t const row = size((l * m.sequences() + s) * m.model.kv_heads + h);
          auto const &a = chunked.kept[row], &b = whole.kept[row];
          REQUIRE(a.size() == b.size());
          if (a == b) continue;
          auto const score = [&](std::int32_t position) {
            auto const first = m.positions.begin() + m.begin_of(s);
            return double{whole.scores[at + size(std::find(first, first + m.prompt[size(s)], position) - first)]};
          };
          std::vector<std::int32_t> only_a, only_b;
          std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(only_a));
          std::set_difference(b.begin(), b.end(), a.begin(), a.end(), std::back_inserter(only_b));
          differing += static_cast<int>(only_a.size());
          for (std::size_t i = 0; i < only_a.size(); ++i)
            CHECK(std::abs(score(only_a[i]) - score(only_b[i])) <= 4 * tolerance * std::abs(score(only_b[i])));
        }
    }
  CHECK(at == whole.scores.size());
  CHECK(differing <= 2);  // near-ties are rare
}

/// The whole prompt, chunks of 1, 7 and 512 of every sequence, and chunks of any size of each.
template <class T, class C, class P>
void compare(test::random& random, chunked_model<T>& m, plan_of const& plan, C const& c, P const& pattern,
             double tolerance) {
  m.ranks = 1;
  run_result const whole = run(m, plan.view(false), c, pattern, everything);
  REQUIRE(!whole.scores.empty());
  run_result const one_call = run(m, plan.view(true), c, pattern, everything);
  CHECK(one_call.kept == whole.kept);
  CHECK(std::memcmp(one_call.scores.data(), whole.scores.data(), whole.scores.size() * sizeof(float)) == 0);
  for (std::int32_t const size : {1, 7, 512}) {
    CAPTURE(size);
    m.ranks = size == 7 ? 3 : 1;
    run_result const chunked = run(m, plan.view(true), c, pattern, at_most(size));
    check_alike(chunked, whole, tolerance);
    check_kept(m, plan, chunked, whole, tolerance);
  }
  run_result const ragged =
      run(m, plan.view(true), c, pattern, [&](std::int32_t left) { return between(random, 0, left < 30 ? left : 30); });
  check_alike(ragged, whole, tolerance);
  check_kept(m, plan, ragged, whole, tolerance);
}

/// Of sums of `queries` probabilities in float, added up in another order; relative.
double summed(int queries) { return 3e-6 + 6e-8 * queries; }

}  // namespace

TEST_CASE("chunks say what the whole prompt says: every estimator, every way to be scored") {
  SEEDED(random);
  for (int const group : {1, 4, 7, 8}) {
    CAPTURE(group);
    chunked_model<float> m(random, {3, 2 * group, 2, group == 7 ? 33 : 16, group == 4 ? 9 : 0}, {61, 0, 1, 130});
    plan_of const alone = own(3), band = by_band(3, {0, 1}), upper = by_band(3, {1, 1});
    ratio const third = ratio::compression(3);
    any_of<sinks, recent> const pins{sinks{2}, recent{3}};
    compare(random, m, alone, snapkv<ratio>{{}, third, pins}, dense{}, summed(16));
    compare(random, m, alone, h2o<ratio>{{}, third, pins}, dense{}, summed(130));
    compare(random, m, alone, tova<ratio>{.budget = third}, dense{}, summed(1));
    compare(random, m, band, purekv_early<ratio>{{}, third, pins}, dense{}, summed(16));
    compare(random, m, band, purekv_deep<ratio, combine::mean>{{}, third, pins}, dense{}, summed(130));
    compare(random, m, upper, purekv_paper<ratio>{{}, third, pins}, dense{}, summed(130));
    if (group == 1 || group == 8) continue;
    compare(random, m, alone, compressor<group_max<reconstruction>, ratio, none>{.budget = third}, dense{}, summed(1));
    compare(random, m, alone, streaming<ratio>{.budget = third}, dense{}, 0);
    compare(random, m, alone, knorm<ratio>{.budget = third}, dense{}, 0);
    compare(random, m, alone, random_baseline<ratio>{{}, third, pins}, dense{}, 0);
    compare(random, m, alone, snapkv<across_heads<ratio>>{{}, {{third}}, pins}, sliding_window{40}, summed(16));
    compare(random, m, alone, h2o<pyramid<ratio>>{{}, {.budget = third}, pins}, sinks_and_window{3, 20}, summed(130));

    std::vector<float> weight(size(5 * m.model.heads * m.value_dim()));
    random.fill_normal(weight);
    criticalkv<ratio> critical{{}, third, pins};
    critical.estimator.budget = third;
    critical.estimator.projection = {weight.data(), 5, m.model.heads, m.value_dim(), m.model.heads * m.value_dim()};
    compare(random, m, alone, critical, dense{}, summed(16));
    std::vector<float> mean(size(m.sequences() * m.model.heads * m.model.dim));
    random.fill_normal(mean);
    expected_attention<ratio> expected{.budget = third};
    expected.estimator.estimator.estimator.future = {mean.data(), nullptr, m.sequences(), m.model.heads, m.model.dim};
    compare(random, m, alone, expected, dense{}, 0);
  }
}

TEST_CASE("a last chunk shorter than the window, after one of 512") {
  SEEDED(random);
  chunked_model<float> m(random, {2, 4, 1, 16}, {517, 523});
  compare(random, m, own(2), snapkv<ratio>{.budget = {1, 5}}, dense{}, summed(16));
  compare(random, m, by_band(2, {0, 0}), purekv_paper<ratio>{.budget = {1, 5}}, dense{}, summed(523));
}

TEST_CASE("chunks of half and bfloat16 caches, and of prompts shorter than the window") {
  SEEDED(random);
  chunked_model<half> halves(random, {2, 8, 2, 40}, {97, 12});
  chunked_model<bfloat16> brains(random, {2, 7, 1, 24, 40}, {15, 3, 80});
  compare(random, halves, own(2), h2o<ratio>{.budget = {1, 2}, .protect = {sinks{1}, recent{2}}}, dense{}, summed(97));
  compare(random, halves, by_band(2, {0, 0}), purekv_early<ratio>{.budget = {1, 2}, .protect = {sinks{1}, recent{2}}},
          dense{}, summed(16));
  compare(random, brains, own(2), snapkv<ratio>{.budget = {1, 2}, .protect = {sinks{1}, recent{2}}}, dense{},
          summed(16));
}

TEST_CASE("the masses of chunks are those of the formula") {
  SEEDED(random);
  chunked_model<float> m(random, {1, 6, 2, 20}, {90, 17});
  owned_contiguous<float> cache(2, 2, 90, 20);
  std::vector<std::int32_t> const offset{0, 90, 107};
  query_view<float> const q{m.layers[0].q.rows(), {2, offset.data(), m.positions.data()}};
  REQUIRE(append(cpu{}, m.layers[0].k.rows(), m.layers[0].v.rows(), q.batch, cache.view).ok());
  sliding_window const pattern{50};
  auto const reference = oracle::attend(pattern, q, cache.view);
  auto const check = [&](auto const& c, int window) {
    run_result const r = run(m, own(1).view(true), c, pattern, at_most(11));
    std::size_t at = 0;
    comparison compared;
    for (int s = 0; s < 2; ++s)
      for (int h = 0; h < 2; ++h) {
        resolved_range const wanted{std::max(0, m.prompt[size(s)] - window), m.prompt[size(s)]};
        auto const mass = expected_mass(reference, 6, 2, score_rows::kv_heads, s, h, wanted);
        for (int t = 0; t < m.prompt[size(s)]; ++t, ++at)
          compared.add(r.scores[at], mass.value(t) / 3, mass.bound(t) / 3 + 1e-5 * mass.value(t), "score", h, s, t);
      }
    CHECK(at == r.scores.size());
    INFO(compared.where(), " (", compared.worst(), " times the bound)");
    CHECK(compared.wrong() == 0);
  };
  check(compressor<group_mean<accumulated_attention>, ratio, none>{}, 90);
  check(compressor<group_mean<window_attention<16>>, ratio, none>{}, 16);
  check(compressor<group_mean<window_attention<30>>, ratio, none>{}, 30);  // longer than the second prompt
}

TEST_CASE("frames of an image whole in one chunk, windows that differ between layers, and a layer that keeps all") {
  SEEDED(random);
  segment const segments[] = {segment::text(0, 40), segment::video(40, 2, 5, 6), segment::text(100, 31)};
  using windowed = bidirectional<sliding_window>;
  token_layout const layout{segments, 3};
  windowed const patterns[] = {{layout, {INT32_MAX}}, {layout, {21}}, {layout, {33}}};
  chunked_model<float> m(random, {3, 4, 2, 16}, {131});
  std::iota(m.positions.begin(), m.positions.end(), 0);
  plan_of plan = own(3);
  plan.layers[1].when = evict_when::never;
  snapkv<ratio> const c{.budget = {1, 4}};
  auto const all = [&](schedule const& s, auto const& next) {
    pipeline p(m.model, s, c, static_cast<windowed const*>(patterns));
    REQUIRE(m.feed_all(p, next).ok());
    std::vector<std::vector<float>> outs;
    for (auto const& layer : m.layers) outs.push_back(layer.out.memory);
    return std::pair(outs, m.kept());
  };
  auto const whole = all(plan.view(false), everything);
  auto const by_frame = [](std::int32_t left) {  // 40, 70 and 100 are where chunks end
    std::int32_t const at = 131 - left;
    return at < 40 ? std::min(17, 40 - at) : at < 100 ? 30 : std::min(9, left);
  };
  auto const chunked = all(plan.view(true), by_frame);
  CHECK(chunked.second == whole.second);
  for (std::size_t l = 0; l < 3; ++l) {
    double worst = 0;
    for (std::size_t i = 0; i < whole.first[l].size(); ++i)
      worst = std::max(worst, std::abs(double{whole.first[l][i]} - chunked.first[l][i]));
    CHECK(worst < 2e-5);
  }
}

TEST_CASE("every layer holds its prompt until the last chunk, nothing is evicted before, and the cost says so") {
  SEEDED(random);
  chunked_model<float> m(random, {4, 4, 2, 16}, {60});
  plan_of plan = by_band(4, {0, 1});
  plan.layers[3].when = evict_when::never;
  pipeline p(m.model, plan.view(true), purekv_early<ratio>{.budget = {1, 3}}, dense{});
  REQUIRE(p.check().ok());
  REQUIRE(m.begin(p).ok());
  for (int l = 0; l < 4; ++l) {
    CHECK(p.needs_full(l) == (l < 3));
    CHECK(p.keeps_full(l) == (l < 3));
    CHECK(p.evicts_at(l) == std::max(l, 1));
  }
  auto const untouched = [](auto const& v) {
    return std::all_of(v.begin(), v.end(), [](auto const& x) { return is_untouched(x); });
  };
  for (int i = 0; i < 3; ++i) {
    REQUIRE(m.feed(p, {15}).ok());
    for (int l = 0; l < 3; ++l) {
      CHECK(!p.released(l));
      CHECK(untouched(m.layers[size(l)].keys));
      CHECK(untouched(m.layers[size(l)].positions));
    }
  }
  REQUIRE(m.feed(p, {15}).ok());
  for (int l = 0; l < 3; ++l) CHECK(p.released(l));
  CHECK(m.kept()[0].size() == 20);
  CHECK(m.kept()[7].size() == 60);

  std::int64_t const slot = 2 * 16 * 2 + 4;
  pipeline_cost const cost = p.cost(60, 3, 2);
  // The worst moment is layer 1 of the last chunk: three whole prompts, two kept caches, and the layer that keeps all.
  CHECK(cost.peak_bytes == 2 * slot * (3 * 60 + 2 * 23 + 63));
  CHECK(cost.pairs == cost.full_pairs);
  CHECK(p.describe(60, 3, 2).find("the prompt comes in chunks; nothing is evicted before the last\n") !=
        std::string::npos);
}

TEST_CASE("any number of ranks gives the same bits") {
  SEEDED(random);
  chunked_model<float> m(random, {3, 7, 1, 24}, {140, 61});
  h2o<ratio> const c{.budget = {1, 3}};
  run_result const one = run(m, own(3).view(true), c, dense{}, at_most(33));
  for (int const ranks : {2, 5, 32}) {
    m.ranks = ranks;
    run_result const many = run(m, own(3).view(true), c, dense{}, at_most(33));
    CHECK(many.kept == one.kept);
    CHECK(std::memcmp(many.scores.data(), one.scores.data(), one.scores.size() * sizeof(float)) == 0);
    for (std::size_t l = 0; l < 3; ++l)
      CHECK(std::memcmp(many.outs[l].data(), one.outs[l].data(), one.outs[l].size() * sizeof(float)) == 0);
  }
}

TEST_CASE("bad chunks give their status, leave what is kept alone, and the prompt goes on") {
  SEEDED(random);
  chunked_model<float> m(random, {3, 4, 2, 16}, {50, 20});
  plan_of const plan = by_band(3, {0, 1});
  purekv_paper<ratio> const c{.budget = {1, 3}};
  run_result const expected = run(m, plan.view(true), c, dense{}, at_most(20));

  pipeline p(m.model, plan.view(true), c, dense{});
  REQUIRE(m.begin(p).ok());
  chunk_sizes const next{20, 20};
  REQUIRE(m.feed(p, next).ok());  // the second sequence is through
  auto const code = [&](int l, auto const& call, std::size_t less = 0) { return m.prefill(p, l, call, less).code; };
  snapshot kept;
  for (auto const& layer : m.layers) {
    kept.watch(layer.keys);
    kept.watch(layer.values);
    kept.watch(layer.positions);
    kept.watch(layer.extents);
  }
  auto const beyond = m.rows(0, {20, 0});
  owned_workspace const work(1 << 22);
  auto const prefill = [&](auto const& rows) {
    return p
        .prefill(cpu{}, 0, rows.queries(), rows.k.rows(), rows.v.rows(), m.storage.data(), rows.out.view, work.view())
        .code;
  };
  auto const with = [&](auto const& change) {
    auto call = m.rows(0, {20, 0});
    change(call);
    return prefill(call);
  };
  CHECK(with([](auto& call) { call.offset[1] = 19; }) == errc::mismatch);  // the second was promised no more
  CHECK(with([&](auto& call) { call.positions[0] = m.positions[19]; }) == errc::bad_positions);  // cached already
  CHECK(with([](auto& call) { call.positions[7] = call.positions[6]; }) == errc::bad_positions);
  CHECK(with([](auto& call) { call.offset[1] = 21; }) == errc::bad_shape);
  CHECK(code(0, beyond, 64) == errc::workspace_too_small);
  auto& full = m.storage[0].full;
  std::vector<std::int32_t> none(4);
  std::int32_t* const lengths = full.lengths;
  full.lengths = none.data();  // a fresh cache where the chunks before are expected
  CHECK(prefill(beyond) == errc::mismatch);
  full.lengths = lengths;
  full.tokens -= 1;
  CHECK(prefill(beyond) == errc::capacity_exceeded);
  full.tokens += 1;
  CHECK(p.decode(cpu{}, 0, beyond.queries(), beyond.k.rows(), beyond.v.rows(), m.storage.data(), beyond.out.view,
                 work.view())
            .code == errc::not_ready);
  CHECK(kept.unchanged());
  REQUIRE(m.feed(p, {20, 0}).ok());
  auto const last = [&](int l) { return m.rows(l, {10, 0}); };
  CHECK(code(2, last(2)) == errc::not_ready);  // its source has not been scored
  CHECK(code(1, last(1)) == errc::not_ready);  // layer 0 of the band has not had its last chunk
  m.storage[0].kept.slots -= 1;
  REQUIRE(code(0, last(0)) == errc::ok);
  CHECK(code(0, last(0)) == errc::bad_policy);  // it has had its prompt
  CHECK(code(1, last(1)) == errc::capacity_exceeded);
  CHECK(kept.unchanged());
  m.storage[0].kept.slots += 1;
  REQUIRE(code(1, last(1)) == errc::ok);
  REQUIRE(code(2, last(2)) == errc::ok);
  CHECK(m.kept() == expected.kept);
}

TEST_CASE("schedules that cannot take chunks say what can") {
  plan_of plan = by_band(3, {0, 1});
  model_shape const model{3, 4, 2, 16};
  auto const verdict = [&](bool chunked) {
    return pipeline(model, plan.view(chunked), purekv_early<ratio>{.budget = {1, 3}}, dense{}).check();
  };
  CHECK(verdict(true).ok());
  for (evict_when const when : {evict_when::before_attending, evict_when::dropping}) {
    plan.layers[2].when = when;
    CHECK(verdict(false).ok());
    CHECK(verdict(true).code == errc::bad_policy);
    CHECK(std::string(verdict(true).message).find("attend_first()") != std::string::npos);
  }
  attend_first(plan.layers.data(), 3);
  CHECK(verdict(true).ok());

  SEEDED(random);
  chunked_model<float> m(random, {2, 4, 2, 16}, {50});
  plan_of const whole = own(2);
  pipeline p(m.model, whole.view(false), h2o<ratio>{.budget = {1, 3}}, dense{});
  REQUIRE(m.begin(p).ok());
  owned_workspace const work(1 << 22);
  auto const part = m.rows(0, {20});
  status const s =
      p.prefill(cpu{}, 0, part.queries(), part.k.rows(), part.v.rows(), m.storage.data(), part.out.view, work.view());
  CHECK(s.code == errc::bad_policy);
  CHECK(std::string(s.message).find("schedule::chunked") != std::string::npos);
}
