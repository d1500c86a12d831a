// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>

namespace purekv::inline v0_1 {

/// The memory of one layer, all of it the caller's.
/// full : the prompt's keys and values while the layer needs all of them, [sequences, kv_heads, >= tokens]. Layers
///        that do not keep it (keeps_full) may share one; the others have their own until they are released.
/// kept : what the layer keeps, growing while decoding; kept_slots() slots, extents laid out by the pipeline. Needed
///        from the call for layer evicts_at() on; with the last chunk where the prompt comes in chunks.
template <class T> struct layer_storage {
  contiguous_cache<T> full;
  ragged_cache<T> kept;
};

}  // namespace purekv::inline v0_1
