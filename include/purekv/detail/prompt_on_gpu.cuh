// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/detail/carve.hpp>
#include <purekv/detail/put.cuh>
#include <purekv/model_shape.hpp>
#include <purekv/schedule.hpp>
#include <purekv/selection.hpp>
#include <purekv/simt/thread.hpp>
#include <purekv/source.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The extents of a ragged cache for tokens[s] + room tokens in every head of sequence s, with length 0.
struct lay_out_prompt {
  static constexpr std::int32_t threads = 128;
  std::int32_t const* tokens;  // [sequences]
  std::int32_t sequences, kv_heads, room;
  extent* extents;

  PUREKV_DEVICE void operator()() const {
    std::int64_t begin = 0;  // of sequence s
    for (std::int32_t s = 0; s < sequences; ++s) {
      std::int32_t const capacity = tokens[s] + room;
      for (std::int32_t h = simt::thread_index(); h < kv_heads; h += threads)
        extents[std::int64_t{s} * kv_heads + h] = {begin + std::int64_t{h} * capacity, 0, capacity};
      begin += std::int64_t{kv_heads} * capacity;
    }
  }
};

/// Forgets all tokens.
struct forget_all {
  static constexpr std::int32_t threads = 128;
  std::int32_t* lengths;
  std::int32_t count;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const i = simt::block_index().x * threads + simt::thread_index();
    if (i < count) lengths[i] = 0;
  }
};

/// positions[s * longest + t] = position of token t of sequence s, what lies beyond `longest` left out. Block y has
/// sequence y.
template <class T> struct note_positions {
  static constexpr std::int32_t threads = 128;
  contiguous_cache<T> full;
  std::int32_t longest;
  std::int32_t* positions;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const s = simt::block_index().y, t = simt::block_index().x * threads + simt::thread_index();
    if (t < longest && t < full.length(s, 0)) positions[std::int64_t{s} * longest + t] = *full.run(s, 0, t).positions;
  }
};

/// What a pipeline knows of a prompt on a GPU: on the host how far each layer is, on the device what sources said.
struct prompt_on_gpu {
  std::int32_t sequences = 0, longest = 0, new_tokens = 0;
  std::int64_t total = 0;             // tokens of all sequences
  std::int32_t* tokens = nullptr;     // host, [sequences]
  std::int64_t* come = nullptr;       // host, [layers] rows that have come
  std::int32_t* passed = nullptr;     // host, [layers] whether all have
  std::int32_t* evicted = nullptr;    // host, [layers]
  std::int32_t* scored = nullptr;     // host, [bands] layers scored
  std::int32_t* chosen = nullptr;     // host, [1] whether `kept` is known
  std::int32_t* counts = nullptr;     // device, [sequences]: tokens
  std::int32_t* to_come = nullptr;    // device, [sequences]: those after the chunk, of a prompt in chunks
  std::int32_t* positions = nullptr;  // device, [sequences, longest]
  std::int64_t* slots = nullptr;      // device, [1]: what a layout needs, which nobody asks for
  float* scores = nullptr;            // device, [bands, sequences, kv_heads, longest]
  float* masses = nullptr;            // device, [masses, sequences, heads, longest], of a prompt in chunks
  selection kept{};                   // device, the rows that enter the layers that drop

  void take_host(carve& memory, model_shape const& model, schedule const& plan) {
    tokens = memory.take<std::int32_t>(sequences);
    come = memory.take<std::int64_t>(model.layers);
    passed = memory.take<std::int32_t>(model.layers);
    evicted = memory.take<std::int32_t>(model.layers);
    scored = memory.take<std::int32_t>(plan.band_count);
    chosen = memory.take<std::int32_t>(1);
  }
  /// mass_count: for how many layers attention mass is put together chunk by chunk. full_tokens: the capacity of a head
  /// of the full caches.
  void take_device(carve& memory, model_shape const& model, schedule const& plan, std::int32_t mass_count,
                   std::int64_t full_tokens) {
    std::int64_t const rows = std::int64_t{sequences} * longest;
    counts = memory.take<std::int32_t>(sequences);
    to_come = memory.take<std::int32_t>(mass_count > 0 ? sequences : 0);
    positions = memory.take<std::int32_t>(rows);
    slots = memory.take<std::int64_t>(1);
    scores = memory.take<float>(plan.band_count * model.kv_heads * rows);
    masses = memory.take<float>(mass_count * model.heads * rows);
    if (plan.first_dropping() < model.layers)
      kept = {.offset = memory.take<std::int64_t>(std::int64_t{sequences} + 1),
              .token = memory.take<std::int32_t>(sequences * full_tokens),
              .capacity = sequences * full_tokens,
              .rows = sequences,
              .scope = selection_scope::layer};
  }

  bool started() const { return tokens != nullptr; }
  score_view scores_in(float* data, std::int32_t kv_heads) const {
    return dense_scores(data, sequences, kv_heads, longest);
  }
  source_view source_of(float* data, std::int32_t kv_heads) const {
    return {scores_in(data, kv_heads), positions, longest, counts};
  }
  source_view band_source(std::int32_t band, std::int32_t kv_heads) const {
    return source_of(scores + std::int64_t{band} * sequences * kv_heads * longest, kv_heads);
  }
  score_view mass(std::int32_t index, std::int32_t heads) const {
    return dense_scores(masses + std::int64_t{index} * sequences * heads * longest, sequences, heads, longest);
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
