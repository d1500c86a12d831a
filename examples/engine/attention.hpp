// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cpu.hpp>
#include <purekv/status.hpp>

#include <cstdint>
#include <span>

namespace engine {

/// One layer's vectors as matrix products leave them, token after token, rotary embedding applied.
/// q, out : [tokens, heads, dim], k, v : [tokens, kv_heads, dim], positions : [tokens]
/// lse : [heads, tokens] floats, base 2: wanted if not null. Where out is null somebody else has attended and lse is
/// what came of it: the rows are only to be cached.
struct layer_rows {
  int tokens = 0;
  std::int32_t const* positions = nullptr;
  float const *q = nullptr, *k = nullptr, *v = nullptr;
  float* out = nullptr;
  float* lse = nullptr;
};

/// Attention and its cache, as a model sees them. For each layer, in order: `open` by one thread, `run` by all of the
/// model's threads together, `close` by one thread. The first tokens after `begin`, as many as it was told, are the
/// prompt, in one pass or in several.
class attention {
 public:
  virtual ~attention() = default;

  virtual void begin(int prompt_tokens, int new_tokens) = 0;

  /// Whether only some rows of this layer go on to the next one.
  virtual bool drops_after(int /*layer*/) const { return false; }
  /// Which rows, ascending, of those of the layer below enter this one and those above, if that drops some; known when
  /// it has run. The last row, which the logits are made of, is always there.
  virtual std::span<std::int32_t const> rows_entering(int /*layer*/) const { return {}; }

  virtual void open(int layer, int tokens, std::int32_t const* positions) = 0;
  virtual purekv::status run(purekv::cpu exec, int layer, layer_rows const& rows) = 0;
  virtual void close(int layer) = 0;
};

}  // namespace engine
