// SPDX-License-Identifier: Apache-2.0
// Attention and estimators behind a C interface, for scripts/bench_cpu_peers.py, which calls them and their peers in
// Python in turn, on the same memory and in one process. Everything returns 0, or 1 where the library refused.
#include "support/machine.hpp"
#include "support/scratch_memory.hpp"

#include <purekv/attend.hpp>
#include <purekv/average_rotation.hpp>
#include <purekv/moments.hpp>
#include <purekv/presets.hpp>
#include <purekv/score.hpp>

#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

namespace {

/// Scratch of at least so many bytes, kept from call to call as an engine would.
purekv::workspace scratch(std::size_t bytes) {
  static std::unique_ptr<scratch_memory> memory;
  if (memory == nullptr || memory->view().bytes < bytes) memory = std::make_unique<scratch_memory>(bytes);
  return memory->view();
}

/// One layer of one sequence, all of it queries: q [heads, tokens, dim], k and v [kv_heads, tokens, dim].
template <class T> struct layer {
  std::vector<std::int32_t> positions, lengths;
  purekv::query_view<T> queries;
  purekv::contiguous_cache<T> cache;

  layer(int heads, int kv_heads, int dim, int tokens, void const* q, void* k, void* v)
      : positions(static_cast<std::size_t>(kv_heads) * static_cast<std::size_t>(tokens)),
        lengths(static_cast<std::size_t>(kv_heads), tokens) {
    for (std::size_t i = 0; i < positions.size(); ++i)
      positions[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(tokens));
    cache = purekv::head_major_cache(static_cast<T*>(k), static_cast<T*>(v), positions.data(), lengths.data(), 1,
                                     kv_heads, tokens, dim);
    queries = {purekv::head_major(static_cast<T const*>(q), heads, tokens, dim), {.positions = positions.data()}};
  }
};

template <class T>
int attend(int heads, int kv_heads, int dim, int tokens, void const* q, void* k, void* v, void* out, float* lse) {
  layer<T> const of(heads, kv_heads, dim, tokens, q, k, v);
  purekv::cpu const exec;
  purekv::dense const pattern;
  purekv::attend_taps const taps{.lse = lse, .lse_stride = lse == nullptr ? 0 : tokens};
  return purekv::attend(exec, pattern, of.queries, of.cache,
                        purekv::head_major(static_cast<T*>(out), heads, tokens, dim), taps,
                        scratch(purekv::attend_workspace(exec, pattern, of.queries, of.cache, taps)))
                 .ok()
             ? 0
             : 1;
}

struct input {
  layer<float> const& of;
  float const* lse;         // [heads, tokens], what attention wrote
  float const* projection;  // [heads * dim, heads * dim]
  float* scores;            // [kv_heads, tokens]
};

template <class E> int score(E const& estimator, input const& in) {
  purekv::cpu const exec;
  auto const& rows = in.of.queries.rows;
  purekv::evidence const seen{purekv::dense{}, in.of.queries, in.lse, rows.tokens};
  return purekv::score(exec, estimator, seen, in.of.cache, {},
                       purekv::dense_scores(in.scores, 1, in.of.cache.kv_heads, rows.tokens),
                       scratch(purekv::score_workspace(exec, estimator, seen, in.of.cache)))
                 .ok()
             ? 0
             : 1;
}

/// Moments of the queries, averaged over the next 512 positions, and the scores by them. The rotation is by no angle,
/// which takes as long as any.
int expected_attention(input const& in) {
  auto const& rows = in.of.queries.rows;
  static std::vector<float> mean, covariance;
  auto const count = static_cast<std::size_t>(rows.heads) * static_cast<std::size_t>(rows.dim);
  mean.resize(count);
  covariance.resize(count * static_cast<std::size_t>(rows.dim));
  purekv::query_moments const future{mean.data(), covariance.data(), 1, rows.heads, rows.dim};
  std::vector<float> const still(static_cast<std::size_t>(rows.dim / 2));
  std::int32_t const next = rows.tokens;
  purekv::expected_attention<purekv::ratio> preset{};
  preset.estimator.estimator.estimator.future = future;
  return purekv::moments(purekv::cpu{}, in.of.queries, 4, future).ok() &&
                 purekv::average_rotation(purekv::cpu{}, {still.data(), rows.dim / 2}, &next, 512, future).ok()
             ? score(preset.estimator, in)
             : 1;
}

using window_votes = purekv::pooled<purekv::group_mean<purekv::window_attention<64>>, 5, purekv::pooling::average>;

/// epsilon: the vote is a sum over 64 queries here and their mean in kvpress.
int critical_votes(input const& in) {
  auto const& rows = in.of.queries.rows;
  int const width = rows.heads * rows.dim;
  return score(
      purekv::critical<window_votes, purekv::ratio>{.budget = purekv::ratio::compression(5),
                                                    .projection = {in.projection, width, rows.heads, rows.dim, width},
                                                    .epsilon = 64e-4f},
      in);
}

struct entry {
  char const* name;
  int (*run)(input const&);
};

constexpr entry estimators[] = {
    {"key_norm", [](input const& in) { return score(purekv::key_norm{}, in); }},
    {"window_attention", [](input const& in) { return score(window_votes{}, in); }},
    {"last_attention", [](input const& in) { return score(purekv::head_mean<purekv::window_attention<1>>{}, in); }},
    {"accumulated_attention",
     [](input const& in) { return score(purekv::group_mean<purekv::accumulated_attention>{}, in); }},
    {"future_attention", expected_attention},
    {"critical", critical_votes},
    {"recency", [](input const& in) { return score(purekv::recency{}, in); }},
    {"uniform_random", [](input const& in) { return score(purekv::uniform_random{}, in); }},
};

}  // namespace

extern "C" {

double bench_multiply_add_rate() { return machine::multiply_add_rate(); }

/// type: "float32", "float16" or "bfloat16", of q, k, v and out alike. lse : [heads, tokens] or null.
int bench_attend(char const* type, int heads, int kv_heads, int dim, int tokens, void const* q, void* k, void* v,
                 void* out, float* lse) {
  if (std::strcmp(type, "float32") == 0) return attend<float>(heads, kv_heads, dim, tokens, q, k, v, out, lse);
  if (std::strcmp(type, "float16") == 0) return attend<purekv::half>(heads, kv_heads, dim, tokens, q, k, v, out, lse);
  if (std::strcmp(type, "bfloat16") == 0)
    return attend<purekv::bfloat16>(heads, kv_heads, dim, tokens, q, k, v, out, lse);
  return 1;
}

int bench_score(char const* name, int heads, int kv_heads, int dim, int tokens, float const* q, float* k, float* v,
                float const* lse, float const* projection, float* scores) {
  layer<float> const of(heads, kv_heads, dim, tokens, q, k, v);
  for (entry const& e : estimators)
    if (std::strcmp(name, e.name) == 0) return e.run({of, lse, projection, scores});
  return 1;
}
}
