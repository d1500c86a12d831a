// SPDX-License-Identifier: Apache-2.0
// Attend with the best instruction set that this machine has, or with that named by the argument.
#include "kernels.hpp"

#include <cstdio>
#include <vector>

int main(int argc, char** argv) {
  kernels best;
  purekv::status const chosen = purekv::choose<kernels, PUREKV_LEVELS>(best, argc > 1 ? argv[1] : nullptr);
  if (!chosen.ok()) {
    std::puts(chosen.message);
    return 2;
  }
  std::printf("%s\n", purekv::name_of(best.level));

  constexpr int heads = 4, tokens = 50, dim = 64;
  std::vector<float> q(heads * tokens * dim, .1f), out(q);
  std::vector<purekv::half> k(tokens * dim, purekv::half(.2f)), v(tokens * dim, purekv::half(3));
  std::vector<std::int32_t> positions(tokens);
  for (int i = 0; i < tokens; ++i) positions[i] = i;
  std::int32_t length = tokens;
  purekv::contiguous_cache<purekv::half> const cache =
      purekv::head_major_cache(k.data(), v.data(), positions.data(), &length, 1, 1, tokens, dim);
  purekv::query_view<float> const queries{purekv::head_major<float const>(q.data(), heads, tokens, dim),
                                          {.positions = positions.data()}};

  alignas(64) static char memory[1 << 20];
  purekv::workspace const work{memory, best.attend_workspace(queries, cache)};
  if (work.bytes > sizeof memory) return 1;
  best.attend(queries, cache, purekv::head_major(out.data(), heads, tokens, dim), work).or_throw();
  for (float x : out)
    if (x < 2.9999f || x > 3.0001f) return 1;
}
