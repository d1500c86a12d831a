// SPDX-License-Identifier: Apache-2.0
// examples/compress_on_a_gpu.cpp: compress_a_cache.cpp on a GPU. nvcc compiles it as it stands (-x cu); where a plain
// compiler does, kernels run on the simulated device, whose memory is the host's.
#define PUREKV_WIDTHS 64  // the only dim here: three kernels fewer of each kind to compile
#include <purekv/attend.cuh>
#include <purekv/compact.cuh>
#include <purekv/pattern/dense.hpp>
#include <purekv/presets.hpp>
#include <purekv/score.cuh>
#include <purekv/select.cuh>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

namespace {

// Memory that host and device reach, so that the example needs no copies.
void release(void* memory) {
#if defined(__CUDACC__)
  cudaFree(memory);
#else
  std::free(memory);
#endif
}
std::vector<std::unique_ptr<void, void (*)(void*)>> owned;

template <class T> T* allocate(std::size_t count) {
#if defined(__CUDACC__)
  void* memory = nullptr;
  if (cudaMallocManaged(&memory, count * sizeof(T)) != cudaSuccess) std::abort();
#else
  void* memory = std::aligned_alloc(256, (count * sizeof(T) + 255) / 256 * 256);
#endif
  owned.emplace_back(memory, release);
  return static_cast<T*>(memory);
}
template <class T> T* filled(std::size_t count, T const& value) {
  T* const memory = allocate<T>(count);
  std::fill(memory, memory + count, value);
  return memory;
}

}  // namespace

int main() {
  using purekv::half;
  constexpr int heads = 8, kv_heads = 2, tokens = 500, dim = 64;
#if defined(__CUDACC__)
  cudaStream_t stream = nullptr;
#else
  purekv::simt::device simulated;
  purekv::simt::stream const stream = &simulated;
#endif

  half const* const q = filled(heads * tokens * dim, half(.1f));
  half *const k = filled(kv_heads * tokens * dim, half(.2f)), *const v = filled(kv_heads * tokens * dim, half(.2f));
  half* const out = allocate<half>(heads * tokens * dim);
  std::int32_t* const positions = allocate<std::int32_t>(kv_heads * tokens);
  for (int i = 0; i < kv_heads * tokens; ++i) positions[i] = i % tokens;
  auto const cache =
      purekv::head_major_cache(k, v, positions, filled<std::int32_t>(kv_heads, tokens), 1, kv_heads, tokens, dim);
  purekv::query_view<half> const queries{purekv::head_major<half const>(q, heads, tokens, dim),
                                         {.positions = positions}};
  auto const result = purekv::head_major(out, heads, tokens, dim);

  purekv::snapkv<purekv::ratio> const compressor{.budget = purekv::ratio::compression(5)};
  purekv::attend_taps const taps{.lse = allocate<float>(heads * tokens), .lse_stride = tokens};
  purekv::evidence const seen{purekv::dense{}, queries, taps.lse, taps.lse_stride};
  auto const scores = purekv::dense_scores(allocate<float>(kv_heads * tokens), 1, kv_heads, tokens);
  purekv::selection const kept{allocate<std::int64_t>(kv_heads + 1), allocate<std::int32_t>(kv_heads * tokens),
                               kv_heads * tokens, kv_heads};

  purekv::gpu exec{.stream = stream};
  purekv::query(0, exec.device).or_throw();  // once

  std::size_t const bytes = std::max({purekv::attend_workspace(exec, purekv::dense{}, queries, cache, taps),
                                      purekv::score_workspace(exec, compressor.estimator, seen, cache),
                                      purekv::select_workspace(exec, compressor, cache)});
  purekv::workspace const work{allocate<char>(bytes), bytes};

  purekv::attend(exec, purekv::dense{}, queries, cache, result, taps, work).or_throw();
  purekv::score(exec, compressor.estimator, seen, cache, {}, scores, work).or_throw();
  purekv::select(exec, compressor, scores, cache, kept, work).or_throw();
  purekv::compact(exec, kept, cache).or_throw();
#if defined(__CUDACC__)
  if (cudaStreamSynchronize(stream) != cudaSuccess) return 1;
#endif
  return cache.length(0, 0) == tokens / 5 ? 0 : 1;
}
