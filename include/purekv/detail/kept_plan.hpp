// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/positions.hpp>
#include <purekv/plan.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The newest plan of one pattern, in memory that was lent for it, beside the positions that it was made for: it serves
/// whoever attends to the same, in the next layer, and is replaced for all others, as for the next chunk. Of caches
/// whose KV heads hold the same tokens, the queries' own as the last.
class kept_plan {
 public:
  /// Memory for the plan of these queries over this cache; 0 for arguments that `plan` refuses.
  template <Pattern P, class TQ, Cache C>
  static std::size_t bytes(P const& pattern, query_view<TQ> const& q, C const& cache) {
    if (!check_plan_input(pattern, q, cache).ok()) return 0;
    carve memory;
    take(memory, cache);
    take_plan(memory, pattern, q, cache, needs_plan_per_head(pattern, cache));
    return memory.bytes();
  }

  /// Forgets the plan. Memory that is too small for anything is refused, and then nothing changes.
  status lend(workspace const& memory) {
    if (memory.data == nullptr) {
      memory_ = {};
      return {};
    }
    carve carved(memory);
    record* const held = carved.take<record>(1);
    if (!carved.fits())
      return {errc::workspace_too_small, "keep_plan: memory smaller than plan_bytes(), or not aligned to 64 bytes"};
    *held = {};
    memory_ = memory;
    return {};
  }
  bool lent() const { return memory_.data != nullptr; }

  /// The plan, if it is the one for these queries over this cache.
  template <class TQ, Cache C> tile_plan const* find(query_view<TQ> const& q, C const& cache) const {
    if (!lent()) return nullptr;
    record const& held = *static_cast<record const*>(memory_.data);
    bool const alike = held.plan.tiles != nullptr && held.plan.sequences == cache.sequences &&
                       held.plan.heads == q.rows.heads && held.plan.kv_heads == cache.kv_heads;
    if (!alike) return nullptr;
    std::int32_t const* positions = held.positions;
    for (std::int32_t s = 0; s < cache.sequences; ++s) {
      std::int32_t const length = cache.length(s, 0);
      if (held.queries[s] != q.count(s) || held.lengths[s] != length) return nullptr;
      bool same = true;
      for_each_stretch(cache, s, 0, 0, length, [&](auto const& run, std::int32_t first, std::int32_t count) {
        same = same && __builtin_memcmp(positions + first, run.positions,
                                        static_cast<std::size_t>(count) * sizeof(std::int32_t)) == 0;
      });
      if (!same) return nullptr;
      positions += length;
    }
    return &held.plan;
  }

  /// That plan, made now if need be. All ranks call it. On error the plan that was there remains.
  template <Pattern P, class TQ, Cache C>
  status find_or_make(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache, tile_plan& out) const {
    if (tile_plan const* const found = find(q, cache)) {
      out = *found;
      return {};
    }
    if (status const s = check_plan_input(pattern, q, cache); !s.ok()) return s;
    carve carved(memory_);
    record const next = take(carved, cache);
    plan_memory const planned = take_plan(carved, pattern, q, cache, needs_plan_per_head(pattern, cache));
    if (!carved.fits())
      return {errc::workspace_too_small, "pipeline: the memory lent by keep_plan() is smaller than plan_bytes()"};
    out = make_plan(exec, pattern, q, cache, planned);
    if (exec.rank() == 0) {
      record& held = *static_cast<record*>(memory_.data);
      held = next;
      held.plan = out;
      std::int32_t* positions = held.positions;
      for (std::int32_t s = 0; s < cache.sequences; ++s) {
        held.queries[s] = q.count(s);
        held.lengths[s] = cache.length(s, 0);
        for_each_stretch(cache, s, 0, 0, held.lengths[s], [&](auto const& run, std::int32_t, std::int32_t count) {
          for (std::int32_t i = 0; i < count; ++i) *positions++ = run.positions[i];
        });
      }
    }
    exec.sync();
    return {};
  }

 private:
  /// Where the memory begins.
  struct record {
    tile_plan plan;
    std::int32_t* queries = nullptr;    // [sequences]
    std::int32_t* lengths = nullptr;    // [sequences]
    std::int32_t* positions = nullptr;  // of the cached tokens, one sequence after the other
  };

  template <Cache C> static record take(carve& memory, C const& cache) {
    std::int64_t tokens = 0;
    for (std::int32_t s = 0; s < cache.sequences; ++s) tokens += cache.length(s, 0);
    memory.take<record>(1);
    record r;
    r.queries = memory.take<std::int32_t>(cache.sequences);
    r.lengths = memory.take<std::int32_t>(cache.sequences);
    r.positions = memory.take<std::int32_t>(tokens);
    return r;
  }

  workspace memory_;
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
