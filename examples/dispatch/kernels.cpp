// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set: everything here is in an unnamed namespace, or in the table.
#include "kernels.hpp"

#include <purekv/pattern/dense.hpp>
#include <purekv/purekv.hpp>

namespace {

using cache = purekv::contiguous_cache<purekv::half>;

std::size_t attend_workspace(purekv::query_view<float> const& q, cache const& c) {
  return purekv::attend_workspace(purekv::cpu{}, purekv::dense{}, q, c);
}

purekv::status attend(purekv::query_view<float> const& q, cache const& c, purekv::rows_view<float> const& out,
                      purekv::workspace const& work) {
  return purekv::attend(purekv::cpu{}, purekv::dense{}, q, c, out, {}, work);
}

}  // namespace

template <> kernels purekv::compiled<kernels, purekv::this_isa>() {
  return {purekv::this_isa, ::attend_workspace, ::attend};
}
