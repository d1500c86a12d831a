// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/status.hpp>

#include <cstdint>

namespace purekv::inline v0_1 {

/// What operations on a GPU take on trust, and where it is not so: the first place by sequence, then by head, then by
/// token. Written by `validate`, in memory that the device reaches; `explain` says what it means.
struct violation {
  enum class rule : std::int32_t {
    none,              // all is well
    sink_logit,        // neither NaN nor +inf; kv_head -1, at: the query head
    batch_offset,      // from 0 to the number of tokens, not descending; at: which offset
    batch_position,    // not negative, ascending in a sequence; at: the token of the packed batch
    cache_length,      // between 0 and the capacity
    cache_extent,      // ascending, disjoint, within the slots
    cache_position,    // not negative, ascending in a head; at: the cached token
    no_slot,           // as many free slots as tokens come; at: the first token of the packed batch that has none
    not_newer,         // new tokens come behind the cached ones; at: the first token of the packed batch
    selection_offset,  // not negative nor descending, within the capacity; at: which offset
    selection_order,   // tokens of a row ascend; at: which of its tokens
    selection_token,   // a selected token is cached; at: which of its row's tokens
    source_tokens,     // as many tokens as there are scores at most, not fewer than 0
    source_position,   // not negative, ascending; at: the token
    pattern,           // the pattern's check of the last position of a sequence; at: that position
    tile,              // tiles hold all queries of all sequences once, in order; at: the tile
    tile_run,          // runs of a tile ascend, are disjoint and name cached tokens; at: which of the tile's runs
  };

  rule broken = rule::none;
  errc code = errc::ok;
  std::int32_t sequence = -1, kv_head = -1;  // -1 where there is none
  std::int64_t at = -1;                      // -1 where it concerns no token
  std::uint32_t row = 0;                     // for `validate` itself
};

/// The status that says so.
PUREKV_HOST_INLINE status explain(violation const& found) {
  using rule = violation::rule;
  switch (found.broken) {
    case rule::none:
      return {};
    case rule::sink_logit:
      return {found.code, "validate: a sink logit is NaN or inf"};
    case rule::batch_offset:
      return {found.code, "validate: offset of a batch descends, or does not run from 0 to the number of tokens"};
    case rule::batch_position:
      return {found.code, "validate: positions of a sequence are negative or do not ascend strictly"};
    case rule::cache_length:
      return {found.code, "validate: a length is negative or larger than the capacity"};
    case rule::cache_extent:
      return {found.code, "validate: extents overlap, do not ascend or exceed the slots"};
    case rule::cache_position:
      return {found.code, "validate: positions of a head are negative or do not ascend strictly"};
    case rule::no_slot:
      return {found.code, "validate: a head of the cache has fewer free slots than there are new tokens"};
    case rule::not_newer:
      return {found.code, "validate: a new token does not come behind those that are cached"};
    case rule::selection_offset:
      return {found.code, "validate: offset of a selection is negative, descends or exceeds its capacity"};
    case rule::selection_order:
      return {found.code, "validate: the selected tokens of a row do not ascend"};
    case rule::selection_token:
      return {found.code, "validate: a selected token is not cached"};
    case rule::source_tokens:
      return {found.code, "validate: a source has fewer scores than tokens, or a negative number of tokens"};
    case rule::source_position:
      return {found.code, "validate: positions of a source are negative or do not ascend strictly"};
    case rule::pattern:
      return {found.code, "validate: the pattern is not defined for all positions, or cannot be met"};
    case rule::tile:
      return {found.code, "validate: the tiles of a plan do not hold every query once and in order"};
    case rule::tile_run:
      return {found.code, "validate: the runs of a tile overlap, do not ascend or name tokens that are not cached"};
  }
  return {errc::mismatch, "explain: no violation that validate writes"};
}

}  // namespace purekv::inline v0_1
