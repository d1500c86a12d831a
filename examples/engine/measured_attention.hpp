// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention.hpp"
#include "language_model.hpp"

#include <purekv/concepts.hpp>
#include <purekv/view.hpp>

#include <chrono>
#include <string>
#include <vector>

namespace engine {

using seconds = std::chrono::duration<double>;

/// An attention that knows what it costs.
class measured_attention : public attention {
 public:
  /// Whether it compresses only after the document has been repeated: one pass of the document after `begin`, passes of
  /// repetition at the positions after it, `compress`, and then the question and what follows.
  virtual bool repeats() const { return false; }
  /// Whether these passes are typical questions about such documents instead, one each.
  virtual bool asks_probes() const { return false; }
  /// Tokens of the longest such pass; comes before `begin`.
  virtual void expect_repetition(int /*longest_pass*/) {}
  virtual void compress() {}

  /// Of a prompt, or of a document that is compressed without its question: tokens that a head keeps whatever the
  /// compression.
  virtual int pinned(int tokens) const = 0;

  /// The newest tokens are gone, as if they had never passed.
  virtual void take_back(int tokens) = 0;

  /// Seconds of the prompt's pass: caching and attending; scoring, selecting and compacting.
  virtual seconds attention_time() const = 0;
  virtual seconds compression_time() const = 0;

  /// Of the prompt's pass, everything the engine does included: from the end of the layer below, or `begin`, on.
  virtual std::vector<seconds> layer_times() const { return {}; }

  /// Keys, values, positions and bookkeeping as allocated, the room for new tokens included: now, and at most.
  virtual std::int64_t cache_bytes() const = 0;
  virtual std::int64_t peak_cache_bytes() const = 0;

  /// Layers up to this one get the same input whatever is evicted.
  virtual int first_layer_that_differs() const = 0;

  /// Positions that each KV head of a layer keeps; after the prompt, or `compress`.
  virtual std::vector<std::vector<std::int32_t>> kept(int layer) const = 0;

  /// The schedule in words.
  virtual std::string describe(int prompt_tokens, int new_tokens) const = 0;
};

/// Tokens at 0 .. tokens - 1 that a protect pins.
template <purekv::Protect P> int count_pinned(P const& protect, int tokens) {
  int pinned = 0;
  for (int t = 0; t < tokens; ++t) {
    bool gone = false;
    if constexpr (purekv::EvictingProtect<P>) gone = protect.evicted(t, tokens - 1);
    pinned += !gone && protect.pinned(t, tokens - 1);
  }
  return pinned;
}

/// The queries of a layer as PureKV sees them, with what the model says of their logits.
inline purekv::query_view<float> queries_of(model_shape const& model, layer_rows const& rows) {
  return {.rows = purekv::token_major(rows.q, model.heads, rows.tokens, model.dim),
          .batch = {.positions = rows.positions},
          .scale = model.attention_scale,
          .soft_cap = model.soft_cap};
}

/// Adds up the seconds between marks; one thread calls it.
class stopwatch {
 public:
  void start() { last_ = std::chrono::steady_clock::now(); }
  void charge_to(seconds& total) {
    auto const now = std::chrono::steady_clock::now();
    total += now - last_;
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace engine
