// SPDX-License-Identifier: Apache-2.0
// How near is attention to what this GPU can multiply, and how near is sparse attention to its share of the pairs?
#include "../support/scratch_memory.hpp"
#include "support/layer.cuh"

#include <purekv/attend.cuh>
#include <purekv/pattern/dense.hpp>
#include <purekv/pattern/spatial_temporal.hpp>
#include <purekv/plan.cuh>
#include <purekv/two_passes.cuh>

namespace {

using purekv::bfloat16;

constexpr double largest_error = 0.01;  // of 16-bit results, relative L2

struct video_prompt {
  char const* name;
  int head_text, frames, height, width, tail_text, heads, kv_heads, sequences;

  int video_tokens() const { return frames * height * width; }
  int tokens() const { return head_text + video_tokens() + tail_text; }
};

video_prompt const video_prompts[] = {{"VideoLLaMA2, 16 frames", 35, 9, 13, 13, 40, 32, 8, 1},
                                      {"VideoLLaMA2, 16 frames, batch of 8", 35, 9, 13, 13, 40, 32, 8, 8},
                                      {"VideoLLaMA2.1, 16 frames", 35, 8, 13, 13, 40, 28, 4, 1},
                                      {"Qwen2.5-VL, 8 x 12 x 22", 20, 8, 12, 22, 40, 28, 4, 1},
                                      {"Qwen2.5-VL, 16 x 16 x 24", 20, 16, 16, 24, 40, 28, 4, 1},
                                      {"Qwen2.5-VL, 64 x 12 x 16", 20, 64, 12, 16, 40, 28, 4, 1},
                                      {"Qwen2.5-VL, 32 x 24 x 32", 20, 32, 24, 32, 40, 28, 4, 1},
                                      {"Qwen2.5-VL, 384 x 8 x 16", 20, 384, 8, 16, 40, 28, 4, 1}};
video_prompt const small_prompt = {"small", 7, 3, 4, 5, 9, 8, 2, 2};

/// The pattern of a prompt, its layout where the device reads it.
struct video_pattern {
  bench::array<purekv::segment> segments{3, bench::memory::managed};
  purekv::spatial_temporal pattern;

  explicit video_pattern(video_prompt const& p) {
    segments[0] = purekv::segment::text(0, p.head_text);
    segments[1] = purekv::segment::video(p.head_text, p.frames, p.height, p.width);
    segments[2] = purekv::segment::text(p.head_text + p.video_tokens(), p.tail_text);
    pattern.layout = {segments.data(), 3};
  }
};

template <class P> struct plan_of { using type = purekv::tile_plan; };
template <> struct plan_of<purekv::two_passes> { using type = purekv::two_pass_plan; };

/// What attention and its plan want besides the layer.
template <class P> struct attention {
  P pattern;
  bench::layer<bfloat16> const& layer;
  bench::array<std::byte> planning, work;
  typename plan_of<P>::type plan;

  attention(P const& p, bench::layer<bfloat16> const& l)
      : pattern(p),
        layer(l),
        planning(static_cast<std::int64_t>(
                     purekv::plan_workspace(bench::device(), p, l.queries, l.cache, purekv::heads_hold::the_same)),
                 bench::memory::managed) {
    bench::must(purekv::plan(bench::device(), pattern, layer.queries, layer.cache, bench::workspace_of(planning), plan,
                             purekv::heads_hold::the_same));
    work = bench::array<std::byte>(
        static_cast<std::int64_t>(purekv::attend_workspace(bench::device(), plan, layer.queries, layer.cache)));
    bench::wait();
  }
  void operator()() const {
    bench::must(purekv::attend(bench::device(), pattern, plan, layer.queries, layer.cache, layer.results, {},
                               bench::workspace_of(work)));
  }
};

bench::layer_shape shape_of(video_prompt const& p, int dim) {
  return {p.sequences, p.heads, p.kv_heads, dim, p.tokens(), p.tokens()};
}

/// Whether the CPU comes to the same results for a small prompt. like: how a GPU attends with the pattern.
template <class P, class G> bool right(P const& pattern, G const& like, int dim) {
  bench::layer<bfloat16> const layer(shape_of(small_prompt, dim), bench::memory::managed);
  attention<G> const attend(like, layer);
  attend();
  bench::wait();
  std::vector<float> expected(static_cast<std::size_t>(layer.out.size()));
  auto const& rows = layer.results;
  scratch_memory const memory(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache));
  bench::must(purekv::attend(purekv::cpu{}, pattern, layer.queries, layer.cache,
                             purekv::head_major(expected.data(), rows.heads, rows.tokens, rows.dim), {},
                             memory.view()));
  return bench::distance(layer.out.data(), expected.data(), layer.out.size()) < largest_error;
}

void dense(benchmark::State& state) {
  int const dim = static_cast<int>(state.range(0)), tokens = static_cast<int>(state.range(1));
  int const heads = static_cast<int>(state.range(2)), kv_heads = static_cast<int>(state.range(3));
  if (!right(purekv::dense{}, purekv::dense{}, dim)) return state.SkipWithError("differs from the CPU");
  bench::layer<bfloat16> const layer({1, heads, kv_heads, dim, tokens, tokens});
  if (!layer.fits(state)) return;
  attention<purekv::dense> const attend(purekv::dense{}, layer);
  double const operations = 4.0 * dim * heads * (0.5 * tokens * (tokens + 1.0));
  bench::run_beside(state, bench::limit::multiply, operations, bench::nothing, attend);
}
BENCHMARK(dense)
    ->ArgNames({"dim", "tokens", "heads", "kv_heads"})
    ->ArgsProduct({{64, 128}, {4096, 8192, 16384, 32768}, {28}, {4}})
    ->ArgsProduct({{64, 128}, {4096, 8192, 16384, 32768}, {32}, {8}})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

/// Pairs that a dense kernel of tiles of 128 rows and 128 keys computes.
double dense_pairs(video_prompt const& p) {
  int const positions = 128 / (p.heads / p.kv_heads);
  double pairs = 0;
  for (int first = 0; first < p.tokens(); first += positions) {
    int const last = std::min(first + positions, p.tokens());
    pairs += 128.0 * ((last + 127) / 128 * 128);
  }
  return pairs * p.kv_heads * p.sequences;
}

/// Pairs that tiles of 128 rows compute, keys rounded up to 16.
double executed(video_pattern const& video, purekv::tile_plan const& plan, bench::layer<bfloat16> const& layer) {
  return purekv::executed_pairs(video.pattern, plan, layer.queries, layer.cache, {128, 16});
}
double executed(video_pattern const& video, purekv::two_pass_plan const& plan, bench::layer<bfloat16> const& layer) {
  double pairs = 0;
  int const copies = plan.first.per_kv_head ? plan.first.kv_heads : 1;
  for (int h = 0; h < copies; ++h)
    for (int t = 0; t < plan.first.tile_count(h); ++t)
      if (purekv::query_tile const& tile = plan.first.tile(h, t); tile.runs > 0)
        pairs += 128.0 * ((plan.first.runs[tile.runs_begin].count + 15) / 16 * 16);
  return pairs * plan.first.kv_heads / copies + executed(video, plan.second, layer);
}

/// In one pass or two. executed: of the pairs that a dense kernel computes. over_density: the time beside the same
/// share of the time of our own dense attention. predicted: how long this one takes for each of the other, by
/// predict_passes.
template <class P> void video(benchmark::State& state) {
  video_prompt const& p = video_prompts[state.range(0)];
  state.SetLabel(p.name);
  video_pattern const small(small_prompt), large(p);
  if (!right(small.pattern, P{small.pattern}, 128)) return state.SkipWithError("differs from the CPU");
  bench::layer<bfloat16> const layer(shape_of(p, 128), bench::memory::managed);
  if (!layer.fits(state)) return;
  attention<P> const sparse(P{large.pattern}, layer);
  double const density = executed(large, sparse.plan, layer) / dense_pairs(p);
  attention<purekv::dense> const all(purekv::dense{}, layer);
  all();
  std::vector<double> dense_times;
  for (int i = 0; i < 9; ++i) {
    bench::clear_l2();
    dense_times.push_back(bench::seconds(all));
  }
  double const dense_time = bench::median(dense_times), time = bench::run_timed(state, bench::nothing, sparse);
  purekv::pass_costs const costs = purekv::predict_passes(large.pattern, p.heads, p.kv_heads);
  state.counters["us"] = time * 1e6;
  state.counters["dense_us"] = dense_time * 1e6;
  state.counters["speedup"] = dense_time / time;
  state.counters["executed"] = density;
  state.counters["over_density"] = time / (density * dense_time);
  state.counters["predicted"] = std::is_same_v<P, purekv::two_passes> ? costs.two / costs.one : costs.one / costs.two;
}
void spatial_temporal(benchmark::State& state) { video<purekv::spatial_temporal>(state); }
BENCHMARK(spatial_temporal)
    ->ArgName("prompt")
    ->DenseRange(0, static_cast<int>(std::size(video_prompts)) - 1)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);
void spatial_temporal_in_two_passes(benchmark::State& state) { video<purekv::two_passes>(state); }
BENCHMARK(spatial_temporal_in_two_passes)
    ->ArgName("prompt")
    ->DenseRange(0, static_cast<int>(std::size(video_prompts)) - 1)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
