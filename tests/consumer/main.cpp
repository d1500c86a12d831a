// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/dense.hpp>
#include <purekv/purekv.hpp>

int main() {
  float q[64] = {}, k[64] = {}, v[64] = {}, out[64] = {};
  for (int i = 0; i < 64; ++i) v[i] = static_cast<float>(i);
  std::int32_t position = 0, length = 1;
  alignas(64) static char memory[1 << 20];
  purekv::contiguous_cache<float> const cache{k, v, &position, &length, 1, 1, 1, 64, 64, 64, 64};
  purekv::query_view<float> const queries{purekv::head_major<float const>(q, 1, 1, 64), {.positions = &position}};
  purekv::status const done = purekv::decode(purekv::cpu{}, purekv::dense{}, queries, cache,
                                             purekv::head_major(out, 1, 1, 64), {}, {memory, sizeof memory});
  return done.ok() && out[63] == 63 ? 0 : 1;
}
