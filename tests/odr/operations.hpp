// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/cpu.hpp>
#include <purekv/selection.hpp>
#include <purekv/taps.hpp>

/// Made of plain types only, which files compiled for different instruction sets share.
struct problem {
  static constexpr std::int32_t heads = 4, kv_heads = 2, tokens = 150, dim = 64, steps = 3, layers = 3;
  float const* q;                 // [heads, tokens + steps, dim]
  float const* k;                 // [kv_heads, tokens + steps, dim]
  float const* v;                 // [kv_heads, tokens + steps, dim]
  std::int32_t const* positions;  // [tokens + steps]
};

/// What the operations gave.
struct answer {
  float* attended;       // [heads, tokens, dim]
  float* lse;            // [heads, tokens]
  float* mass;           // [kv_heads, tokens]
  float* scores;         // [kv_heads, tokens]
  std::int64_t* offset;  // [kv_heads + 1]
  std::int32_t* kept;    // [kv_heads * tokens]
  float* decoded;        // [heads, steps, dim]
  float* merged;         // [heads, steps, dim]
  float* piped;          // [heads, steps, dim]
};

/// Operations with queries of TQ on caches of T, and conversions, to be compared with the oracle.
template <class TQ, class T> struct on_cache {
  using query = TQ;
  using element = T;
  using queries = purekv::query_view<TQ>;
  using cache = purekv::contiguous_cache<T>;
  using bytes = std::size_t (*)(purekv::cpu, queries const&, cache const&, purekv::attend_taps const&);
  using run = purekv::status (*)(purekv::cpu, queries const&, cache const&, purekv::rows_view<float> const&,
                                 purekv::attend_taps const&, purekv::workspace const&);
  bytes attend_bytes;
  run attend;
  bytes decode_bytes;
  run decode;
  void (*widen)(T const*, float*, std::int64_t);
  void (*narrow)(float const*, T*, std::int64_t);
};

/// operations.cpp, compiled once for each instruction set.
struct operations {
  char const* name;
  char const* (*run)(problem const&, answer const&, purekv::workspace scratch);  // null, or what went wrong
  on_cache<float, float> on_float;
  on_cache<purekv::half, purekv::half> on_half;
  on_cache<float, purekv::bfloat16> on_mixed;
  on_cache<purekv::bfloat16, purekv::bfloat16> on_bfloat16;
};
