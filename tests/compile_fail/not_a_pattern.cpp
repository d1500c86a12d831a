// expect: p.visible(head, q, k)
// SPDX-License-Identifier: Apache-2.0
#include <purekv/attend.hpp>

struct nothing_to_see {
  bool visible(int q, int k) const { return k <= q; }
};

purekv::status wrong(purekv::query_view<float> const& q, purekv::contiguous_cache<float> const& cache,
                     purekv::rows_view<float> out) {
  return purekv::attend(purekv::cpu{}, nothing_to_see{}, q, cache, out, {}, {});
}
