// SPDX-License-Identifier: Apache-2.0
#include <purekv/score.cuh>
// The header under test comes first.
#include "support/gpu.hpp"

#include <purekv/budget/fixed.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/estimator/accumulated_attention.hpp>
#include <purekv/estimator/critical.hpp>
#include <purekv/estimator/cross_layer.hpp>
#include <purekv/estimator/future_attention.hpp>
#include <purekv/estimator/group_max.hpp>
#include <purekv/estimator/group_mean.hpp>
#include <purekv/estimator/head_max.hpp>
#include <purekv/estimator/head_mean.hpp>
#include <purekv/estimator/key_norm.hpp>
#include <purekv/estimator/novelty.hpp>
#include <purekv/estimator/pooled.hpp>
#include <purekv/estimator/recency.hpp>
#include <purekv/estimator/reconstruction.hpp>
#include <purekv/estimator/uniform_random.hpp>
#include <purekv/estimator/value_weighted.hpp>
#include <purekv/estimator/window_attention.hpp>

using namespace purekv;

namespace gpu_score_test {

using fixtures::size;

float const nan = std::numeric_limits<float>::quiet_NaN();

/// Of evidence whose mass is given, nobody asks the pattern.
struct everything {
  PUREKV_HD bool visible(std::int32_t, std::int32_t, std::int32_t) const { return true; }
};

struct sizes {
  int kv_heads, group, dim, value_dim;
  std::vector<int> lengths;  // of each sequence's longest head
  bool same_tokens = false;  // all KV heads hold the same
  int gap = 3;               // elements between rows
};

inline std::vector<sizes> all_sizes(test::random& r, bool same_tokens) {
  return {{1, 1, 8, 0, {1}, same_tokens},
          {2, 1, 64, 0, {0, 130, 1}, same_tokens},
          {3, 4, r.between(1, 40), 24, {33, 0, 0, 70}, same_tokens},
          {1, 7, 20, 0, {600, 41}, same_tokens},
          {2, 8, 33, 7, {2, 129}, same_tokens},
          {2, 4, 16, 0, {0}, same_tokens}};
}

/// A batch of layers: what is cached, the attention mass it got, what a source said of it.
template <class Owned> class problem {
 public:
  using cache_type = decltype(Owned::view);
  using element = typename cache_type::element;

  problem(test::random& r, sizes const& n)
      : kv_heads(n.kv_heads),
        heads(n.kv_heads * n.group),
        sequences(static_cast<int>(n.lengths.size())),
        longest(*std::max_element(n.lengths.begin(), n.lengths.end())),
        cache(make(r, n)),
        mass(sequences, heads, longest + r.between(1, 2), r.between(0, 3)),  // null would be mass that is not given
        source_scores(sequences, kv_heads, longest + 1, 2) {
    bool const ties = r.between(0, 1) == 0;
    for (int s = 0; s < sequences; ++s) {
      std::vector<std::int32_t> positions;
      for (int h = 0; h < kv_heads; ++h) {
        int const n_of_head =
            h == 0 || n.same_tokens ? n.lengths[size(s)] : r.between(0, n.lengths[size(s)]);  // empty heads too
        if (h == 0 || !n.same_tokens) positions = ascending(r, n_of_head);
        for (int t = 0; t < n_of_head; ++t)
          fixtures::push(
              cache.view, s, h, positions[size(t)], [&](int) { return number(r); }, [&](int) { return number(r); });
      }
      for (int h = 0; h < heads; ++h)
        for (int t = 0; t < cache.view.length(s, h / n.group); ++t)
          mass.view.row(s, h)[t] = r.between(0, 30) == 0 ? nan
                                   : ties                ? 0.25f * static_cast<float>(r.between(0, 2))
                                                         : r.uniform(0, 3);
      // A source that has seen some of the tokens, and others.
      std::vector<std::int32_t> const seen = ascending(r, r.between(0, longest));
      source_positions.insert(source_positions.end(), seen.begin(), seen.end());
      source_positions.resize(size((s + 1) * (longest + 2)), INT32_MAX);
      source_tokens.push_back(static_cast<std::int32_t>(seen.size()));
      for (int h = 0; h < kv_heads; ++h)
        for (int t = 0; t < source_tokens[size(s)]; ++t) source_scores.view.row(s, h)[t] = r.uniform(0, 2);
    }
  }

  /// Mass that is given; the queries say how many heads there are, and nothing else.
  evidence<everything, element> seen() const {
    query_view<element> q{};
    q.rows.heads = heads;
    return {everything{}, q, nullptr, 0, mass.view};
  }
  source_view source() const {
    return {source_scores.view, source_positions.data(), longest + 2, source_tokens.data()};
  }

  int kv_heads, heads, sequences, longest;
  Owned cache;
  fixtures::owned_scores mass, source_scores;
  fixtures::buffer<std::int32_t> source_positions, source_tokens;

 private:
  static float number(test::random& r) { return r.between(0, 4000) == 0 ? nan : r.normal(); }
  static std::vector<std::int32_t> ascending(test::random& r, int count) {
    std::vector<std::int32_t> positions;
    for (int p = r.between(0, 3); static_cast<int>(positions.size()) < count; p += r.between(0, 3) / 2 + 1)
      positions.push_back(p);
    return positions;
  }
  static Owned make(test::random& r, sizes const& n) {
    int const sequences = static_cast<int>(n.lengths.size());
    if constexpr (std::is_same_v<Owned, fixtures::owned_contiguous<element>>) {
      return Owned(sequences, n.kv_heads, *std::max_element(n.lengths.begin(), n.lengths.end()) + r.between(0, 2),
                   n.dim, fixtures::order::token_major, n.gap, fixtures::beyond::nan, n.value_dim);
    } else {
      std::vector<std::int32_t> capacities;
      for (int length : n.lengths)
        for (int h = 0; h < n.kv_heads; ++h) capacities.push_back(length + r.between(0, 2));
      return Owned(sequences, n.kv_heads, capacities, n.dim, n.gap, 2, fixtures::beyond::nan, n.value_dim);
    }
  }
};

#if defined(__CUDACC__)
inline constexpr bool real_gpu = true;
#else
inline constexpr bool real_gpu = false;
#endif

/// How far a real GPU may be from the CPU, which adds up products in another order. The simulated one adds as the CPU
/// does, no difference at all, but for policies where the CPU takes several tokens at once: `everywhere`.
struct tolerance {
  float relative = 0, absolute = 0;
  bool everywhere = false;
};

inline bool close(float a, float b, tolerance const& t) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (a != b && (real_gpu || t.everywhere)) return std::abs(a - b) <= t.relative * std::abs(b) + t.absolute;
  return std::memcmp(&a, &b, sizeof a) == 0;
}

/// Scores by the CPU and by the GPU, which must be equal within the tolerance, with exactly the workspace it asks for.
template <class E, class Problem>
void check_scores(test::random& random, E const& e, Problem const& p, tolerance const& allowed) {
  auto const& cache = p.cache.view;
  int const group = p.heads / p.kv_heads, per_kv_head = E::rows == score_rows::heads ? group : 1;
  auto const length = [&](int s, int row) { return cache.length(s, row / per_kv_head); };
  int const tokens = p.longest + random.between(0, 2);
  fixtures::owned_scores by_cpu(p.sequences, p.kv_heads * per_kv_head, tokens, 3),
      by_gpu(p.sequences, p.kv_heads * per_kv_head, tokens, 3);
  fixtures::owned_workspace cpu_work(score_workspace(cpu{}, e, p.seen(), cache));
  status const s = score(cpu{}, e, p.seen(), cache, p.source(), by_cpu.view, cpu_work.view());
  REQUIRE_MESSAGE(s.ok(), s.message);

  test::gpu_device device(random);
  fixtures::snapshot inputs;
  inputs.watch(p.cache.keys);
  inputs.watch(p.cache.values);
  inputs.watch(p.cache.positions);
  inputs.watch(p.mass.memory);
  inputs.watch(p.source_scores.memory);
  bool const bounded = random.between(0, 1) == 0;  // or what any scores of this cache may need
  std::size_t const bytes = bounded ? score_workspace(device.exec(), e, p.seen(), cache, tokens)
                                    : score_workspace(device.exec(), e, p.seen(), cache);
  fixtures::owned_workspace work(bytes);
  auto const call = [&](workspace const& lent) {
    return [&, lent](gpu const& exec) { return score(exec, e, p.seen(), cache, p.source(), by_gpu.view, lent); };
  };
  if (bytes > 0 && bounded) {
    CHECK(device.status_of(call(work.one_byte_less())).code == errc::workspace_too_small);
    CHECK(by_gpu.rest_untouched([](int, int) { return 0; }));
  }
  device.run(call(work.view()));
  CHECK(work.guards_untouched());
  CHECK(inputs.unchanged());
  CHECK(by_gpu.rest_untouched(length));
  int wrong = 0;
  for (int i = 0; i < p.sequences; ++i)
    for (int row = 0; row < by_cpu.view.rows; ++row)
      for (int t = 0; t < length(i, row); ++t) {
        float const expected = by_cpu.view.row(i, row)[t], actual = by_gpu.view.row(i, row)[t];
        if (close(actual, expected, allowed) || ++wrong > 1) continue;
        CAPTURE(i);
        CAPTURE(row);
        CAPTURE(t);
        CAPTURE(expected);
        CHECK(actual == expected);
      }
  CHECK(wrong == 0);
}

/// make(problem): the estimator for it.
template <class Owned, class Make>
void check_layers(test::random& random, bool same_tokens, tolerance const& allowed, Make const& make) {
  for (sizes const& n : all_sizes(random, same_tokens)) {
    CAPTURE(n.kv_heads);
    CAPTURE(n.group);
    CAPTURE(n.dim);
    problem<Owned> const p(random, n);
    check_scores(random, make(p), p, allowed);
  }
}

template <class... Owned> struct caches {};
/// For estimators that read neither keys nor values, only where they lie and how many there are.
using some_caches = caches<fixtures::owned_ragged<bfloat16>>;
#if defined(__CUDACC__)  // takes long for every combination
using all_caches = some_caches;
#else
using all_caches =
    caches<fixtures::owned_ragged<bfloat16>, fixtures::owned_contiguous<half>, fixtures::owned_ragged<float>>;
#endif

template <class Make, class... Owned>
void check_with(test::random& random, bool same_tokens, tolerance const& allowed, Make const& make, caches<Owned...>) {
  (check_layers<Owned>(random, same_tokens, allowed, make), ...);
}

template <class E, class Caches = some_caches>
void check(test::random& random, E const& e, tolerance const& allowed = {}, Caches over = {}) {
  bool same_tokens = false;
  if constexpr (requires { E::needs_equal_heads; }) same_tokens = E::needs_equal_heads;
  check_with(
      random, same_tokens, allowed, [&](auto const&) { return e; }, over);
}

/// Sums of up to a few hundred products of floats.
constexpr tolerance norms = {1e-6f};

}  // namespace gpu_score_test

using namespace gpu_score_test;

TEST_CASE("score on a GPU: what needs no sums has the bits of the CPU") {
  SEEDED(random);
  check(random, recency{}, {}, all_caches{});
  check(random, uniform_random{random()});
  check(random, accumulated_attention{});
  check(random, window_attention<16>{});
  check(random, reconstruction{});
}

TEST_CASE("score on a GPU: reductions over heads and neighbours have the bits of the CPU") {
  SEEDED(random);
  check(random, group_mean<accumulated_attention>{});
  check(random, group_max<window_attention<4>>{});
  check(random, head_mean<accumulated_attention>{});
  check(random, pooled<head_max<reconstruction>, 15, pooling::maximum>{}, {}, all_caches{});
  check(random, head_max<pooled<group_mean<window_attention<4>>, 3, pooling::average, 0>>{});
}

TEST_CASE("score on a GPU: norms of keys and values") {
  SEEDED(random);
  check(random, key_norm{}, norms, all_caches{});
  check(random, pooled<value_weighted<group_mean<window_attention<16>>>, 7>{}, {2e-6f}, all_caches{});
  check(random, value_weighted<accumulated_attention>{}, norms);
}

TEST_CASE("score on a GPU: cross_layer finds tokens in its source by their positions") {
  SEEDED(random);
  using mass = group_mean<accumulated_attention>;
  check(random, cross_layer<mass>{}, norms, all_caches{});
  check(random, pooled<cross_layer<mass, combine::mean, weigh_by::nothing>, 3>{});
}

TEST_CASE("score on a GPU: novelty in frames and at places") {
  SEEDED(random);
  fixtures::buffer<segment> const segments{segment::text(0, 3), segment::video(3, 5, 3, 4), segment::text(63, 11),
                                           segment::video(74, 40, 2, 1), segment::text(154, 2)};
  token_layout const layout{segments.data(), static_cast<std::int32_t>(segments.size())};
  check(random, novelty<peers::frame>{layout}, {1e-5f, 1e-5f}, all_caches{});
  check(random, novelty<peers::place>{layout}, {1e-5f, 1e-5f}, all_caches{});
  check(random, novelty<>{}, {1e-5f, 1e-5f}, all_caches{});
}

TEST_CASE("score on a GPU: attention to come") {
  SEEDED(random);
  fixtures::buffer<float> mean, covariance;
  auto const make = [&](auto const& p) {
    int const dim = p.cache.view.dim;
    mean.resize(size(p.sequences * p.heads * dim));
    for (float& x : mean) x = random.normal();
    covariance.assign(mean.size() * size(dim), 0.0f);
    for (std::size_t row = 0; row < covariance.size() / size(dim * dim); ++row)
      for (int i = 0; i < dim; ++i)
        for (int j = 0; j <= i; ++j) {
          float* const c = covariance.data() + row * size(dim * dim);
          c[i * dim + j] = c[j * dim + i] = random.uniform(-0.1f, 0.1f);
        }
    group_mean<future_attention> e;
    bool const flat = random.between(0, 2) == 0;
    e.estimator.future = {mean.data(), flat ? nullptr : covariance.data(), p.sequences, p.heads, dim};
    e.estimator.sinks = random.between(0, 6);
    e.estimator.epsilon = random.between(0, 1) == 0 ? 0 : 0.01f;
    return e;
  };
  check_with(random, false, {1e-4f, 1e-30f, true}, make, all_caches{});
}

TEST_CASE("score on a GPU: critical takes the best of the first stage as the CPU does, ties and all") {
  SEEDED(random);
  using mass = group_mean<accumulated_attention>;
  fixtures::buffer<half> weight;
  auto const projection = [&](auto const& p) {
    int const hidden = random.between(1, 20), dim = value_dim_of(p.cache.view);
    std::ptrdiff_t const stride = p.heads * dim + random.between(0, 3);
    weight.assign(size(hidden * stride), half(0.0f));
    for (half& x : weight) x = half(random.normal());
    return output_projection<half>{weight.data(), hidden, p.heads, dim, stride};
  };
  check_with(
      random, false, {1e-4f, 1e-6f, true},
      [&](auto const& p) {
        return critical<pooled<mass, 3>, ratio, half>{.budget = {1, 3}, .projection = projection(p)};
      },
      all_caches{});
  check_with(
      random, true, {1e-4f, 1e-6f, true},
      [&](auto const& p) {
        return critical<head_max<accumulated_attention>, fixed, half>{.budget = {random.between(1, 90)},
                                                                      .projection = projection(p),
                                                                      .share_numerator = random.between(0, 3),
                                                                      .share_denominator = 3};
      },
      some_caches{});
}

namespace gpu_score_test {

/// The mass that score puts together is what `mass` gives for these queries: the last ones, or all, by sum or maximum.
template <class E> void check_own_mass(test::random& random, E const& e, query_range const& range, mass_reduction by) {
  for (int group : {1, 4, 7, 8}) {
    CAPTURE(group);
    problem<fixtures::owned_ragged<half>> const p(random, {2, group, 16, 0, {50, 0, 90}, false, 8});
    fixtures::buffer<std::int32_t> const offset{0, 20, 20, 29};
    fixtures::buffer<std::int32_t> positions;
    for (int i = 0; i < 29; ++i) positions.push_back(40 + i);
    fixtures::owned_rows<half> q(p.heads, 29, 16);
    q.fill_normal(random);
    fixtures::buffer<float> lse(size(p.heads * 31));
    for (float& x : lse) x = random.uniform(3, 7);
    evidence<everything, half> seen{everything{}, {q.rows(), {3, offset.data(), positions.data()}}, lse.data(), 31};

    test::gpu_device device(random);
    fixtures::owned_scores mass_of_all(3, p.heads, p.longest, 1);
    fixtures::owned_workspace mass_work(
        mass_workspace(device.exec(), seen.pattern, seen.q, p.cache.view, range, score_rows::heads));
    device.run([&](gpu const& exec) {
      return mass(exec, seen.pattern, seen.q, p.cache.view, lse.data(), 31, range, score_rows::heads, mass_of_all.view,
                  mass_work.view(), by);
    });
    fixtures::owned_workspace plan_work(plan_workspace(seen.pattern, seen.q, p.cache.view));
    tile_plan planned;
    REQUIRE(plan(cpu{}, seen.pattern, seen.q, p.cache.view, plan_work.view(), planned).ok());

    std::vector<float> first;
    for (int way : {0, 1, 2}) {  // mass given, mass of its own, mass of its own by a plan
      CAPTURE(way);
      seen.mass = way == 0 ? mass_of_all.view : score_view{};
      seen.plan = way == 2 ? &planned : nullptr;
      fixtures::owned_scores out(3, E::rows == score_rows::heads ? p.heads : 2, p.longest, 2);
      fixtures::owned_workspace work(score_workspace(device.exec(), e, seen, p.cache.view, p.longest));
      auto const call = [&](gpu const& exec, workspace const& lent) {
        return score(exec, e, seen, p.cache.view, {}, out.view, lent);
      };
      CHECK(device.status_of([&](gpu const& exec) { return call(exec, work.one_byte_less()); }).code ==
            errc::workspace_too_small);
      CHECK(out.rest_untouched([](int, int) { return 0; }));
      device.run([&](gpu const& exec) { return call(exec, work.view()); });
      CHECK(work.guards_untouched());
      if (way == 0) first.assign(out.memory.begin(), out.memory.end());
      CHECK(std::memcmp(first.data(), out.memory.data(), first.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace gpu_score_test

TEST_CASE("score on a GPU: mass that is not given is computed, and lies in the workspace") {
  SEEDED(random);
  check_own_mass(random, accumulated_attention{}, {}, mass_reduction::sum);
  check_own_mass(random, pooled<group_mean<window_attention<5>>, 3>{}, last(5), mass_reduction::sum);
  check_own_mass(random, value_weighted<group_max<reconstruction>>{}, {}, mass_reduction::maximum);
}

TEST_CASE("score on a GPU refuses what it can see, and leaves the scores alone") {
  SEEDED(random);
  problem<fixtures::owned_contiguous<half>> const p(random, {2, 2, 16, 0, {40, 7}});
  fixtures::owned_rows<half> q(4, 5, 16);
  fixtures::buffer<std::int32_t> const offset{0, 5, 5}, positions{40, 41, 42, 43, 44};
  fixtures::buffer<float> const lse(4 * 5, 3.0f);
  struct arguments {
    gpu exec;
    evidence<everything, half> seen;
    contiguous_cache<half> cache;
    source_view source;
    score_view out;
  };
  test::gpu_device device(random);
  auto const refuse = [&](auto const& e, errc code, std::string const& says, bool given, auto const& change) {
    using E = std::decay_t<decltype(e)>;
    fixtures::owned_scores out(2, E::rows == score_rows::heads ? 4 : 2, p.longest, 1);
    arguments a{device.exec(), p.seen(), p.cache.view, p.source(), out.view};
    if (!given) {
      a.seen.mass = {};
      a.seen.q.rows = q.rows();
      a.seen.q.batch = {2, offset.data(), positions.data()};
      a.seen.lse = lse.data();
      a.seen.lse_stride = 5;
    }
    fixtures::owned_workspace work(1 << 20);
    change(a);
    status const s =
        device.status_of([&](gpu const&) { return score(a.exec, e, a.seen, a.cache, a.source, a.out, work.view()); });
    CAPTURE(says);
    CAPTURE(s.message);
    CHECK(s.code == code);
    CHECK(std::string(s.message).find(says) != std::string::npos);
    CHECK(out.rest_untouched([](int, int) { return 0; }));
  };
  using A = arguments;
  using mass = group_mean<accumulated_attention>;
  using clie = cross_layer<mass>;
  refuse(mass{}, errc::unsupported_device, "gpu", true, [](A& a) { a.exec.device = {}; });
  refuse(mass{}, errc::unsupported_device, "gpu", true, [](A& a) { a.exec.device.major = 7; });
  refuse(mass{}, errc::mismatch, "score", true, [](A& a) { a.out.rows = 4; });
  refuse(mass{}, errc::mismatch, "score", true, [](A& a) { a.out.sequences = 1; });
  refuse(mass{}, errc::null_data, "score", true, [](A& a) { a.out.data = nullptr; });
  refuse(mass{}, errc::bad_shape, "overlap", true, [](A& a) { a.out.row_stride = 39; });
  refuse(mass{}, errc::bad_shape, "heads", true, [](A& a) { a.seen.q.rows.heads = 3; });
  refuse(mass{}, errc::mismatch, "score", true, [](A& a) { a.seen.mass.rows = 3; });
  refuse(mass{}, errc::bad_shape, "score", true, [](A& a) { a.seen.mass.row_stride = 1; });
  refuse(mass{}, errc::null_data, "cache", true, [](A& a) { a.cache.values = nullptr; });
  refuse(recency{}, errc::bad_shape, "dim", true, [](A& a) { a.cache.dim = 0; });
  refuse(accumulated_attention{}, errc::mismatch, "score", true, [](A& a) { a.out.rows = 2; });
  refuse(mass{}, errc::null_data, "lse is null", false, [](A& a) { a.seen.lse = nullptr; });
  refuse(mass{}, errc::bad_shape, "lse", false, [](A& a) { a.seen.lse_stride = 4; });
  refuse(mass{}, errc::null_data, "query_view", false, [](A& a) { a.seen.q.rows.data = nullptr; });
  refuse(mass{}, errc::null_data, "positions", false, [](A& a) { a.seen.q.batch.positions = nullptr; });
  refuse(mass{}, errc::mismatch, "dim", false, [](A& a) { a.seen.q.rows.dim = 8; });
  refuse(mass{}, errc::mismatch, "sequences", false, [](A& a) { a.seen.q.batch.sequences = 1; });
  refuse(clie{}, errc::not_ready, "has not been scored", true, [](A& a) { a.source = {}; });
  refuse(pooled<clie, 3>{}, errc::not_ready, "has not been scored", true, [](A& a) { a.source.tokens = nullptr; });
  refuse(clie{}, errc::mismatch, "source", true, [](A& a) { a.source.scores.rows = 4; });
  refuse(value_weighted<novelty<>>{{}, novelty<>{{nullptr, 1}}}, errc::null_data, "segments", true, [](A&) {});
  refuse(novelty<>{{nullptr, -1}}, errc::bad_shape, "segments", true, [](A&) {});
  refuse(future_attention{}, errc::bad_shape, "moments", true, [](A&) {});
  refuse(critical<mass, fixed, half>{.budget = {4}}, errc::null_data, "projection", true, [](A&) {});
}

TEST_CASE("score on a GPU: attention mass of other types than the GPU has tensor cores for must be given") {
  SEEDED(random);
  problem<fixtures::owned_contiguous<float>> const p(random, {1, 2, 16, 0, {10}});
  evidence<everything, float> seen = p.seen();
  fixtures::owned_rows<float> q(2, 1, 16);
  fixtures::buffer<std::int32_t> const position{40};
  fixtures::buffer<float> const lse(2, 3.0f);
  seen.mass = {};
  seen.q.rows = q.rows();
  seen.q.batch.positions = position.data();
  seen.lse = lse.data();
  seen.lse_stride = 1;
  fixtures::owned_scores out(1, 2, p.longest);
  fixtures::owned_workspace work(1 << 16);
  test::gpu_device device(random);
  status const s = device.status_of([&](gpu const& exec) {
    return score(exec, accumulated_attention{}, seen, p.cache.view, {}, out.view, work.view());
  });
  CHECK(s.code == errc::mismatch);
  CHECK(std::string(s.message).find("16-bit") != std::string::npos);
  CHECK(out.rest_untouched([](int, int) { return 0; }));
}

TEST_CASE("score on a GPU: sizes that overflow 64 bits need SIZE_MAX bytes of workspace") {
  SEEDED(random);
  float row = 0;  // shapes are all that is read
  std::int32_t position = 0, length = INT32_MAX;
  contiguous_cache<float> cache{&row, &row, &position, &length};
  cache.token_stride = 1;
  cache.sequences = cache.kv_heads = 1;
  cache.tokens = INT32_MAX;
  cache.dim = 1;
  query_view<float> q{};
  q.rows.heads = INT32_MAX;
  q.rows.dim = 1;
  test::gpu_device device(random);
  pooled<group_mean<accumulated_attention>, 3> const e;
  evidence const seen{everything{}, q, nullptr, std::ptrdiff_t{0}};
  CHECK(score_workspace(device.exec(), e, seen, cache) == SIZE_MAX);
  CHECK(score_workspace(device.exec(), e, seen, cache, 0) < 4096);
  CHECK(score_workspace(device.exec(), e, seen, cache, -1) == 0);
}
