// SPDX-License-Identifier: Apache-2.0
// A prompt and a step of its answer, as a graph that is replayed on a real device.
#define PUREKV_WIDTHS 64  // all that this test needs
#include <purekv/append.cuh>
#include <purekv/attend.cuh>
#include <purekv/compact.cuh>
#include <purekv/decode.cuh>
#include <purekv/pattern/dense.hpp>
#include <purekv/presets.hpp>
#include <purekv/score.cuh>
#include <purekv/select.cuh>

#include "support/gpu.hpp"

using namespace purekv;

namespace gpu_graph_test {

/// All that a layer needs: a prompt is cached, attended to, a quarter of it is kept, and one more token attends to
/// that.
template <class T> struct layer {
  static constexpr int heads = 8, kv_heads = 2, tokens = 130, dim = 64, room = 4;
  fixtures::owned_rows<T> q{heads, tokens, dim}, k{kv_heads, tokens, dim}, v{kv_heads, tokens, dim};
  fixtures::owned_rows<T> next_q{heads, 1, dim}, next_k{kv_heads, 1, dim}, next_v{kv_heads, 1, dim};
  fixtures::owned_rows<T> out{heads, tokens, dim}, next_out{heads, 1, dim};
  fixtures::owned_contiguous<T> full{1, kv_heads, tokens, dim};
  fixtures::owned_ragged<T> kept{1, kv_heads, {tokens, tokens}, dim};
  fixtures::owned_scores lse{1, heads, tokens}, scores{1, kv_heads, tokens};
  fixtures::owned_selection chosen{kv_heads, kv_heads* tokens};
  fixtures::buffer<std::int32_t> positions, next_position;
  fixtures::buffer<std::int64_t> slots = fixtures::buffer<std::int64_t>(1);
  snapkv<ratio> compressor{.budget = ratio::compression(4)};

  explicit layer(test::random& random) : next_position(1, tokens) {
    for (auto* rows : {&q, &k, &v, &next_q, &next_k, &next_v}) rows->fill_normal(random);
    for (int i = 0; i < tokens; ++i) positions.push_back(i);
  }

  query_view<T> queries() const { return {q.rows(), {1, nullptr, positions.data()}}; }
  query_view<T> next() const { return {next_q.rows(), {1, nullptr, next_position.data()}}; }
  evidence<dense, T> seen() const { return {dense{}, queries(), lse.view.data, lse.view.row_stride}; }

  std::size_t workspace_bytes(gpu const& exec) const {
    std::size_t const all[] = {attend_workspace(exec, dense{}, queries(), full.view, taps()),
                               score_workspace(exec, compressor.estimator, seen(), full.view),
                               select_workspace(exec, compressor, full.view),
                               decode_workspace(exec, dense{}, next(), kept.view)};
    return *std::max_element(std::begin(all), std::end(all));
  }
  attend_taps taps() const { return {.lse = lse.view.data, .lse_stride = lse.view.row_stride}; }

  /// From the beginning, however often.
  status run(gpu const& exec, workspace const& work) {
    status s;
    auto const step = [&](auto const& call) {
      if (s.ok()) s = call();
    };
    step([&] { return append(exec, k.rows(), v.rows(), queries().batch, full.view); });
    step([&] { return attend(exec, dense{}, queries(), full.view, out.view, taps(), work); });
    step([&] { return score(exec, compressor.estimator, seen(), full.view, {}, scores.view, work); });
    step([&] { return select(exec, compressor, scores.view, full.view, chosen.view, work); });
    step([&] { return lay_out(exec, chosen.view, 1, kv_heads, room, kept.view.extents, slots.data()); });
    step([&] { return compact(exec, chosen.view, full.view, kept.view); });
    step([&] { return append(exec, next_k.rows(), next_v.rows(), next().batch, kept.view); });
    step([&] { return decode(exec, dense{}, next(), kept.view, next_out.view, {}, work); });
    return s;
  }
  void start_over() {
    for (std::int32_t& length : full.lengths) length = 0;
    for (auto* rows : {&out, &next_out})
      std::memset(static_cast<void*>(rows->memory.data()), 0xa5, rows->memory.size() * sizeof(T));
  }

  struct outcome {
    std::vector<T> out, next_out;
    std::vector<std::int32_t> kept;
    friend bool operator==(outcome const& a, outcome const& b) {
      auto const same = [](auto const& x, auto const& y) {
        return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(x[0])) == 0;
      };
      return same(a.out, b.out) && same(a.next_out, b.next_out) && same(a.kept, b.kept);
    }
  };
  outcome result() const {
    outcome o{{out.memory.begin(), out.memory.end()}, {next_out.memory.begin(), next_out.memory.end()}, {}};
    for (int h = 0; h < kv_heads; ++h)
      for (int t = 0; t < kept.view.length(0, h); ++t) o.kept.push_back(*kept.view.run(0, h, t).positions);
    return o;
  }
};

}  // namespace gpu_graph_test

using gpu_graph_test::layer;

TEST_CASE_TEMPLATE("a prompt runs without the host, in a graph as in a stream, with the same bits each time", T, half,
                   bfloat16) {
  SEEDED(random);
  layer<T> all(random);
  test::gpu_device device(random);
  fixtures::owned_workspace work(all.workspace_bytes(device.exec()));
  device.run([&](gpu const& exec) { return all.run(exec, work.view()); });
  auto const first = all.result();
  std::size_t const a_quarter = (all.tokens + 3) / 4;
  CHECK(first.kept.size() >= all.kv_heads * (a_quarter - 1));
  CHECK(first.kept.size() < all.kv_heads * all.tokens / 2);

  all.start_over();
#if defined(__CUDACC__)
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  cudaStream_t const stream = device.exec().stream;
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  status const captured = all.run(device.exec(), work.view());
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(captured.ok());
  REQUIRE(cudaGraphInstantiate(&replay, graph, 0) == cudaSuccess);
  for (int i = 0; i < 2; ++i) {
    all.start_over();
    REQUIRE(cudaGraphLaunch(replay, stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(all.result() == first);
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
#else
  device.run([&](gpu const& exec) { return all.run(exec, work.view()); });
  CHECK(all.result() == first);
#endif
  CHECK(work.guards_untouched());
}
