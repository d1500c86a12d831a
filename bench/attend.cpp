// SPDX-License-Identifier: Apache-2.0
// How near is attention to what this machine can multiply, and how near is sparse attention to its share of the pairs?
#include "support/beside.hpp"
#include "support/layer.hpp"

#include <purekv/attend.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/spatial_temporal.hpp>

namespace {

constexpr double largest_error = 5e-6;

template <class P, class T>
auto attention(P const& pattern, random_layer<T>& layer, purekv::attend_taps const& taps, scratch_memory const& work) {
  return [&, taps] {
    purekv::status const s =
        purekv::attend(purekv::cpu{}, pattern, layer.queries, layer.cache, layer.results, taps, work.view());
    if (!s.ok()) std::abort();
  };
}

/// Attends once and compares with double precision; false (and the benchmark is skipped) if it is wrong.
template <class P, class T, class F>
bool right(benchmark::State& state, P const& pattern, random_layer<T> const& layer, F const& f,
           double most = largest_error) {
  f();
  double const error = layer.error(pattern);
  state.counters["error"] = error;
  if (!(error < most)) state.SkipWithError("differs from double precision");
  return error < most;
}

template <class T> void dense(benchmark::State& state) {
  int const dim = static_cast<int>(state.range(0)), tokens = static_cast<int>(state.range(1));
  int const heads = static_cast<int>(state.range(2)), kv_heads = static_cast<int>(state.range(3));
  random_layer<T> layer(heads, kv_heads, dim, tokens, tokens);
  purekv::dense const pattern;
  scratch_memory const work(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache));
  auto const attend = attention(pattern, layer, {}, work);
  if (!right(state, pattern, layer, attend)) return;
  run_beside_peak(state, 4.0 * dim * purekv::causal_pairs(layer.queries, layer.cache), attend);
}

/// Longer prompts with fewer heads, so that it ends.
void dense_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"dim", "tokens", "heads", "kv_heads"});
  for (int dim : {64, 80, 96, 128, 192, 256}) b->Args({dim, 4096, 8, 2});
  for (int dim : {64, 128}) b->Args({dim, 8192, 4, 1})->Args({dim, 16384, 2, 1});
  b->Unit(benchmark::kMillisecond)->UseManualTime()->Iterations(9);
}
BENCHMARK(dense<float>)->Apply(dense_shapes);
BENCHMARK(dense<purekv::half>)->Apply(dense_shapes);
BENCHMARK(dense<purekv::bfloat16>)->Apply(dense_shapes);

/// The last 512 queries of a prompt that is fed in chunks.
template <class T> void chunk(benchmark::State& state) {
  int const tokens = static_cast<int>(state.range(0)), queries = 512;
  random_layer<T> layer(7, 1, 128, tokens, queries);
  purekv::dense const pattern;
  scratch_memory const work(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache));
  auto const attend = attention(pattern, layer, {}, work);
  // Of 65,536 random values little is left of the mean, which the error is relative to.
  if (!right(state, pattern, layer, attend, 4 * largest_error)) return;
  run_beside_peak(state, 4.0 * 128 * purekv::causal_pairs(layer.queries, layer.cache), attend);
}
BENCHMARK(chunk<purekv::half>)
    ->ArgName("tokens")
    ->RangeMultiplier(2)
    ->Range(4096, 65536)
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->Iterations(9);

/// A cache of T against one of floats.
template <class T> void prefill_against_float(benchmark::State& state) {
  random_layer<T> layer(8, 2, 128, 4096, 4096);
  random_layer<float> floats(8, 2, 128, 4096, 4096);
  purekv::dense const pattern;
  scratch_memory const work(std::max(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache),
                                     purekv::attend_workspace(purekv::cpu{}, pattern, floats.queries, floats.cache)));
  auto const attend = attention(pattern, layer, {}, work);
  if (!right(state, pattern, layer, attend)) return;
  run_against(state, attention(pattern, floats, {}, work), attend);
}
BENCHMARK(prefill_against_float<purekv::half>)->Unit(benchmark::kMillisecond)->UseManualTime()->Iterations(9);
BENCHMARK(prefill_against_float<purekv::bfloat16>)->Unit(benchmark::kMillisecond)->UseManualTime()->Iterations(9);

struct video_prompt {
  char const* name;
  int head_text, frames, height, width, tail_text, heads, kv_heads;

  int video_tokens() const { return frames * height * width; }
  int tokens() const { return head_text + video_tokens() + tail_text; }
};

video_prompt const video_prompts[] = {
    {"VideoLLaMA2, 16 frames", 35, 9, 13, 13, 40, 32, 8}, {"VideoLLaMA2, 31 frames", 35, 16, 13, 13, 40, 32, 8},
    {"Qwen2.5-VL, 16 frames", 20, 16, 16, 24, 40, 28, 4}, {"Qwen2.5-VL, 32 frames", 20, 32, 24, 32, 40, 7, 1},
    {"two patches a frame", 100, 600, 1, 2, 300, 28, 4},  // nothing to be gained
};

struct reading {
  char const* name;
  int spatial_frames, spatial_radius;
};

/// As it stands, and the two that a model which was not trained for it takes (docs/results/video.md).
reading const readings[] = {{"", 0, purekv::spatial_temporal::everything},
                            {", previous three frames", 3, purekv::spatial_temporal::everything},
                            {", around, previous three frames", 3, 3}};

/// `prompt` is one of video_prompts, `reading` one of readings. planned: with a plan made before, as for all layers but
/// the first. visible: share of the pairs that the pattern shows; executed: of those that are computed for it.
template <class T> void spatial_temporal(benchmark::State& state) {
  video_prompt const& p = video_prompts[state.range(0)];
  bool const planned = state.range(1) != 0;
  reading const& r = readings[state.range(2)];
  purekv::segment const segments[] = {purekv::segment::text(0, p.head_text),
                                      purekv::segment::video(p.head_text, p.frames, p.height, p.width),
                                      purekv::segment::text(p.head_text + p.video_tokens(), p.tail_text)};
  purekv::spatial_temporal const pattern{
      .layout = {segments, 3}, .spatial_frames = r.spatial_frames, .spatial_radius = r.spatial_radius};
  purekv::dense const everything;
  random_layer<T> layer(p.heads, p.kv_heads, 128, p.tokens(), p.tokens());
  scratch_memory const work(std::max(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache),
                                     purekv::attend_workspace(purekv::cpu{}, everything, layer.queries, layer.cache)));
  scratch_memory const memory(purekv::plan_workspace(pattern, layer.queries, layer.cache));
  purekv::tile_plan plan;
  if (!purekv::plan(purekv::cpu{}, pattern, layer.queries, layer.cache, memory.view(), plan).ok()) std::abort();

  auto const unplanned = attention(pattern, layer, {}, work);
  auto const sparse = [&] {
    if (!planned) return unplanned();
    if (!purekv::attend(purekv::cpu{}, pattern, plan, layer.queries, layer.cache, layer.results, {}, work.view()).ok())
      std::abort();
  };
  state.SetLabel(std::string(p.name) + r.name);
  if (!right(state, pattern, layer, sparse)) return;
  run_against(state, attention(everything, layer, {}, work), sparse);

  double visible = 0;
  for (int q = 0; q < p.tokens(); ++q)
    pattern.runs(q, q, [&](int first, int last, bool) { visible += last - first + 1; });
  double const all = purekv::causal_pairs(layer.queries, layer.cache);
  state.counters["visible"] = visible * layer.queries.rows.heads / all;
  state.counters["executed"] = purekv::executed_density(pattern, plan, layer.queries, layer.cache);
  state.counters["efficiency"] = state.counters["speedup"] * state.counters["visible"];
}
BENCHMARK(spatial_temporal<purekv::half>)
    ->ArgNames({"prompt", "planned", "reading"})
    ->Args({0, 0, 0})
    ->ArgsProduct({{0, 1, 2, 3, 4}, {1}, {0}})
    ->ArgsProduct({{0, 1, 2, 3}, {1}, {1, 2}})
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->Iterations(3);

/// What the taps cost: attention with lse and the mass of the last `window` queries (0: of all) against attention.
template <class T> void taps(benchmark::State& state) {
  int const tokens = static_cast<int>(state.range(0)), window = static_cast<int>(state.range(1));
  random_layer<T> layer(14, 2, 128, tokens, tokens);
  purekv::dense const pattern;
  std::vector<float> lse(layer.q.size() / 128), mass(static_cast<std::size_t>(2 * tokens));
  purekv::attend_taps wanted{
      .lse = lse.data(), .lse_stride = tokens, .mass = purekv::dense_scores(mass.data(), 1, 2, tokens)};
  if (window > 0) wanted.mass_queries = purekv::last(window);
  scratch_memory const work(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache, wanted));
  auto const tapped = attention(pattern, layer, wanted, work);
  if (!right(state, pattern, layer, tapped)) return;
  double const sum = std::accumulate(mass.begin(), mass.end(), 0.0), expected = 14.0 * (window > 0 ? window : tokens);
  state.counters["mass_error"] = std::abs(sum / expected - 1);
  run_against(state, attention(pattern, layer, {}, work), tapped);
  state.counters["cost"] = 1 / state.counters["speedup"] - 1;
}
BENCHMARK(taps<purekv::half>)
    ->ArgNames({"tokens", "window"})
    ->Args({4096, 16})
    ->Args({4096, 32})
    ->Args({4096, 64})
    ->Args({4096, 0})
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->Iterations(9);

/// The same for the masses of blocks of keys, of all queries.
template <class T> void taps_block(benchmark::State& state) {
  int const tokens = static_cast<int>(state.range(0)), blocks = tokens / purekv::mass_block_tokens;
  random_layer<T> layer(14, 2, 128, tokens, tokens);
  purekv::dense const pattern;
  std::vector<float> mass(static_cast<std::size_t>(2 * blocks)), of_tokens(static_cast<std::size_t>(2 * tokens));
  purekv::attend_taps const wanted{.block_mass = purekv::dense_scores(mass.data(), 1, 2, blocks)};
  purekv::attend_taps const by_token{.mass = purekv::dense_scores(of_tokens.data(), 1, 2, tokens)};
  scratch_memory const work(
      std::max(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache, wanted),
               purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache, by_token)));
  auto const tapped = attention(pattern, layer, wanted, work);
  attention(pattern, layer, by_token, work)();
  if (!right(state, pattern, layer, tapped)) return;
  double error = 0;
  for (std::size_t b = 0; b < mass.size(); ++b) {
    auto const first = of_tokens.begin() + static_cast<std::ptrdiff_t>(b) * purekv::mass_block_tokens;
    error = std::max(error, std::abs(mass[b] / std::accumulate(first, first + purekv::mass_block_tokens, 0.0) - 1));
  }
  state.counters["mass_error"] = error;
  if (!(error < largest_error)) return state.SkipWithError("differs from the masses of tokens");
  run_against(state, attention(pattern, layer, {}, work), tapped);
  state.counters["cost"] = 1 / state.counters["speedup"] - 1;
}
BENCHMARK(taps_block<purekv::half>)
    ->ArgName("tokens")
    ->Arg(4096)
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->Iterations(9);

}  // namespace
