// SPDX-License-Identifier: Apache-2.0
// How does ggml's attention on the CPU compare? flash_attn_ext of its public interface, with a causal mask of halves as
// llama.cpp makes it, on one thread, in turn with ours on the same memory.
#include "support/beside.hpp"
#include "support/layer.hpp"
#include "support/rotated.hpp"

#include <purekv/attend.hpp>
#include <purekv/decode.hpp>
#include <purekv/pattern/dense.hpp>

#include <ggml-cpu.h>
#include <ggml.h>

#include <cmath>
#include <cstdlib>
#include <memory>

namespace {

constexpr double largest_error = 5e-6;
// What ggml adds up in half, of thousands of values whose mean is small, is 2 % off.
constexpr double largest_peer_error = 5e-2;

template <class T>
inline constexpr ggml_type type_of = std::is_same_v<T, float>          ? GGML_TYPE_F32
                                     : std::is_same_v<T, purekv::half> ? GGML_TYPE_F16
                                                                       : GGML_TYPE_BF16;

/// A graph of one flash_attn_ext over memory that belongs to a random_layer.
template <class T> class ggml_attention {
 public:
  explicit ggml_attention(random_layer<T>& layer)
      : context_(ggml_init({ggml_tensor_overhead() * 16 + ggml_graph_overhead(), nullptr, true}), ggml_free) {
    auto const& q = layer.queries.rows;
    auto const& cache = layer.cache;
    auto const tensor = [&](ggml_type type, std::int64_t tokens, int heads) {
      return ggml_new_tensor_3d(context_.get(), type, q.dim, tokens, heads);
    };
    ggml_tensor* const queries = tensor(GGML_TYPE_F32, q.tokens, q.heads);
    queries->data = layer.q.data();
    keys_ = tensor(type_of<T>, cache.tokens, cache.kv_heads);
    values_ = tensor(type_of<T>, cache.tokens, cache.kv_heads);
    if (q.tokens > 1) mask_ = causal_mask(cache.tokens, q.tokens);
    result_ = ggml_flash_attn_ext(context_.get(), queries, keys_, values_, mask_,
                                  1 / std::sqrt(static_cast<float>(q.dim)), 0, 0);
    out_.resize(layer.out.size());
    result_->data = out_.data();
    graph_ = ggml_new_graph(context_.get());
    ggml_build_forward_expand(graph_, result_);
    plan_ = ggml_graph_plan(graph_, 1, nullptr);
    work_.resize(plan_.work_size);
    plan_.work_data = work_.data();
  }

  void operator()(purekv::contiguous_cache<T> const& cache) {
    keys_->data = cache.keys;
    values_->data = cache.values;
    if (ggml_graph_compute(graph_, &plan_) != GGML_STATUS_SUCCESS) std::abort();
  }

  /// Its error, where `layer` has the operands.
  double error(random_layer<T>& layer) {
    purekv::rows_view<float> const ours = layer.results;
    layer.results = purekv::token_major(out_.data(), ours.heads, ours.tokens, ours.dim);
    double const of_peer = layer.error(purekv::dense{});
    layer.results = ours;
    return of_peer;
  }

 private:
  ggml_tensor* causal_mask(std::int64_t keys, std::int64_t queries) {
    mask_values_.resize(static_cast<std::size_t>(keys * queries));
    for (std::int64_t i = 0; i < queries; ++i)
      for (std::int64_t k = 0; k < keys; ++k)
        mask_values_[static_cast<std::size_t>(i * keys + k)] =
            ggml_fp32_to_fp16(k <= keys - queries + i ? 0.0f : -INFINITY);
    ggml_tensor* const mask = ggml_new_tensor_2d(context_.get(), GGML_TYPE_F16, keys, queries);
    mask->data = mask_values_.data();
    return mask;
  }

  std::unique_ptr<ggml_context, void (*)(ggml_context*)> context_;
  ggml_tensor *keys_ = nullptr, *values_ = nullptr, *mask_ = nullptr, *result_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  ggml_cplan plan_{};
  std::vector<ggml_fp16_t> mask_values_;
  std::vector<float> out_;
  std::vector<std::uint8_t> work_;
};

/// Both right, or the benchmark is skipped.
template <class T> bool right(benchmark::State& state, random_layer<T>& layer, ggml_attention<T>& peer) {
  double const error = layer.error(purekv::dense{}), of_peer = peer.error(layer);
  state.counters["error"] = error;
  state.counters["peer_error"] = of_peer;
  bool const good = error < largest_error && of_peer < largest_peer_error;
  if (!good) state.SkipWithError("ours or ggml's differs from double precision");
  return good;
}

/// Ours and the peer in turn, each rate beside the multiply-add peak (or whatever `limit` is) around it.
template <class Limit, class Ours, class Peer>
void run_against_peer(benchmark::State& state, double work, Limit const& limit, Ours const& ours, Peer const& peer) {
  samples ratio, rate, peer_rate, share, peer_share;
  double before = limit();
  for (auto _ : state) {
    double const time = timed(ours), between = limit(), peer_time = timed(peer), after = limit();
    state.SetIterationTime(time);
    ratio.add(peer_time / time);
    rate.add(work / time);
    peer_rate.add(work / peer_time);
    share.add(2 * work / time / (before + between));
    peer_share.add(2 * work / peer_time / (between + after));
    before = after;
  }
  state.counters["speedup"] = ratio.median();
  state.counters["best"] = rate.largest() / peer_rate.largest();
  state.counters["rate"] = rate.median() / 1e9;
  state.counters["peer_rate"] = peer_rate.median() / 1e9;
  state.counters["share"] = share.median();
  state.counters["peer_share"] = peer_share.median();
}

template <class T> void prefill(benchmark::State& state) {
  int const dim = static_cast<int>(state.range(0)), tokens = static_cast<int>(state.range(1));
  random_layer<T> layer(4, 1, dim, tokens, tokens);
  purekv::dense const pattern;
  scratch_memory const work(purekv::attend_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache));
  auto const ours = [&] {
    if (!purekv::attend(purekv::cpu{}, pattern, layer.queries, layer.cache, layer.results, {}, work.view()).ok())
      std::abort();
  };
  ggml_attention<T> peer(layer);
  ours();
  peer(layer.cache);
  if (!right(state, layer, peer)) return;
  run_against_peer(
      state, 4.0 * dim * purekv::causal_pairs(layer.queries, layer.cache), [] { return machine::multiply_add_rate(); },
      ours, [&] { peer(layer.cache); });
}

void prefill_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"dim", "tokens"})->ArgsProduct({{128, 64}, {4096}});
  b->Unit(benchmark::kMillisecond)->UseManualTime()->Iterations(9);
}
BENCHMARK(prefill<purekv::half>)->Name("ggml/prefill/half")->Apply(prefill_shapes);
BENCHMARK(prefill<float>)->Name("ggml/prefill/float")->Apply(prefill_shapes);
BENCHMARK(prefill<purekv::bfloat16>)->Name("ggml/prefill/bfloat16")->Apply(prefill_shapes);

/// 28 heads, 4 KV heads; caches rotated over more than twice the last-level cache.
template <class T> void decode(benchmark::State& state) {
  random_layer<T> layer(28, 4, 128, static_cast<int>(state.range(0)), 1);
  purekv::dense const pattern;
  scratch_memory const work(purekv::decode_workspace(purekv::cpu{}, pattern, layer.queries, layer.cache));
  auto const ours = [&](purekv::contiguous_cache<T> const& cache) {
    if (!purekv::decode(purekv::cpu{}, pattern, layer.queries, cache, layer.results, {}, work.view()).ok())
      std::abort();
  };
  ggml_attention<T> peer(layer);
  ours(layer.cache);
  peer(layer.cache);
  if (!right(state, layer, peer)) return;
  rotated<T> caches(layer);
  machine::streaming_read const read;
  run_against_peer(
      state, 2.0 * static_cast<double>(layer.keys.size() * sizeof(T)), read, [&] { ours(caches.next()); },
      [&] { peer(caches.next()); });
}

void decode_shapes(benchmark::internal::Benchmark* b) {
  b->ArgName("tokens")->Arg(16384)->Arg(3277);
  b->Unit(benchmark::kMillisecond)->UseManualTime()->Iterations(25);
}
BENCHMARK(decode<purekv::half>)->Name("ggml/decode/half")->Apply(decode_shapes);
BENCHMARK(decode<float>)->Name("ggml/decode/float")->Apply(decode_shapes);
BENCHMARK(decode<purekv::bfloat16>)->Name("ggml/decode/bfloat16")->Apply(decode_shapes);

}  // namespace
