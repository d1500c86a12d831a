// expect: custom: the predicate must be callable as bool(head, query position, key position)
// SPDX-License-Identifier: Apache-2.0
#include <purekv/pattern/custom.hpp>

int main() {
  auto const two_arguments = [](int q, int k) { return k <= q; };
  purekv::custom wrong{two_arguments};
}
