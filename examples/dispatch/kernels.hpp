// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/dispatch.hpp>

#include <cstddef>

/// What the program needs of the library. Only plain types cross between files of different instruction sets: views,
/// caches, selections, status.
struct kernels {
  purekv::isa level;
  std::size_t (*attend_workspace)(purekv::query_view<float> const& q,
                                  purekv::contiguous_cache<purekv::half> const& cache);
  purekv::status (*attend)(purekv::query_view<float> const& q, purekv::contiguous_cache<purekv::half> const& cache,
                           purekv::rows_view<float> const& out, purekv::workspace const& work);
};
