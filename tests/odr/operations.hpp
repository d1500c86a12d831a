// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/selection.hpp>
#include <purekv/view.hpp>

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

/// operations.cpp, compiled once for each. They return null, or what went wrong.
char const* run_baseline(problem const&, answer const&, purekv::workspace scratch);
char const* run_v3(problem const&, answer const&, purekv::workspace scratch);
char const* run_v4(problem const&, answer const&, purekv::workspace scratch);
extern char const* const name_baseline;
extern char const* const name_v3;
extern char const* const name_v4;
