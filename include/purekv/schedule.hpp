// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/status.hpp>

#include <cstdint>
#include <string>

namespace purekv::inline v0_1 {

/// When a layer evicts.
enum class evict_when : std::int32_t {
  never,             // its cache keeps every token
  after_attending,   // as soon as it has attended to the prompt
  deferred,          // it attends to all, and waits until its source, at or above it, has been scored
  before_attending,  // prune-then-attend: its source lies below it, so it attends to the kept keys only
  dropping,          // it gets the kept tokens only, one set for all heads, and so do all layers above it
};

/// Layers first .. last that are scored together as one source.
struct source_band {
  std::int32_t first = 0, last = 0;
};

/// One layer's line of the schedule. source: index of a band, or -1 for the layer's own score.
struct layer_plan {
  evict_when when = evict_when::never;
  std::int32_t source = -1;
};

/// What each layer of a model does with a prompt. Both tables belong to the caller.
/// chunked: the prompt comes in chunks, each through all layers, and nothing is evicted before the last of them. Every
/// layer that evicts holds the whole prompt until then, so no layer can prune first or drop; see attend_first.
struct schedule {
  layer_plan const* layers = nullptr;
  std::int32_t layer_count = 0;
  source_band const* bands = nullptr;
  std::int32_t band_count = 0;
  bool chunked = false;

  PUREKV_INLINE bool in_band(std::int32_t band, std::int32_t layer) const {
    return bands[band].first <= layer && layer <= bands[band].last;
  }
  PUREKV_INLINE bool in_any_band(std::int32_t layer) const {
    for (std::int32_t b = 0; b < band_count; ++b)
      if (in_band(b, layer)) return true;
    return false;
  }
  /// The first layer that goes on with the kept tokens only; layer_count if there is none.
  PUREKV_INLINE std::int32_t first_dropping() const {
    std::int32_t l = 0;
    while (l < layer_count && layers[l].when != evict_when::dropping) ++l;
    return l;
  }
  /// Whether the layer gets the kept tokens only.
  PUREKV_INLINE bool drops(std::int32_t layer) const { return layers[layer].when == evict_when::dropping; }
  /// Whether it evicts, and so needs the prompt's whole cache for a time.
  PUREKV_INLINE bool needs_full(std::int32_t layer) const {
    return layers[layer].when != evict_when::never && !drops(layer);
  }
  /// Whether it needs that beyond its own call.
  PUREKV_INLINE bool keeps_full(std::int32_t layer) const {
    return layers[layer].when == evict_when::deferred || (chunked && needs_full(layer));
  }
  PUREKV_INLINE bool evicts() const {
    bool any = false;
    for (std::int32_t l = 0; l < layer_count; ++l) any = any || layers[l].when != evict_when::never;
    return any;
  }
  /// The layer whose turn it is when `layer` evicts.
  PUREKV_INLINE std::int32_t evicts_at(std::int32_t layer) const {
    return layers[layer].when == evict_when::deferred ? bands[layers[layer].source].last : layer;
  }
};

PUREKV_INLINE status validate(schedule const& s) {
  if (s.layer_count <= 0) return {errc::bad_shape, "schedule: no layers"};
  if (s.layers == nullptr || (s.band_count > 0 && s.bands == nullptr))
    return {errc::null_data, "schedule: layers or bands is null"};
  if (s.band_count < 0) return {errc::bad_shape, "schedule: negative number of bands"};
  for (std::int32_t b = 0; b < s.band_count; ++b)
    if (s.bands[b].first < 0 || s.bands[b].first > s.bands[b].last || s.bands[b].last >= s.layer_count)
      return {errc::bad_policy, "schedule: a band is empty or outside the model"};
  for (std::int32_t l = 0; l < s.layer_count; ++l) {
    layer_plan const& plan = s.layers[l];
    if (plan.source < -1 || plan.source >= s.band_count)
      return {errc::bad_policy, "schedule: a layer names a source that is not there"};
    std::int32_t const last = plan.source < 0 ? l : s.bands[plan.source].last;
    switch (plan.when) {
      case evict_when::never:
        if (s.in_any_band(l))
          return {errc::bad_policy, "schedule: a layer that never evicts is never scored, so no source may contain it"};
        break;
      case evict_when::after_attending:
        if (last > l) return {errc::bad_policy, "schedule: a layer below its source must defer its eviction"};
        break;
      case evict_when::deferred:
        if (plan.source < 0 || last < l)
          return {errc::bad_policy, "schedule: a deferred layer needs a source at or above it"};
        break;
      case evict_when::before_attending:
        if (plan.source < 0 || last >= l)
          return {errc::bad_policy, "schedule: a layer that prunes first must lie above its source"};
        if (s.in_any_band(l)) return {errc::bad_policy, "schedule: a source must attend to all of its tokens"};
        break;
      case evict_when::dropping:
        if (plan.source < 0 || last >= l)
          return {errc::bad_policy, "schedule: a layer that drops tokens must lie above its source"};
        if (s.in_any_band(l)) return {errc::bad_policy, "schedule: a source must attend to all of its tokens"};
        break;
    }
    if (s.chunked && (plan.when == evict_when::before_attending || plan.when == evict_when::dropping))
      return {errc::bad_policy,
              "schedule: a layer cannot prune first or drop while the prompt comes in chunks; see attend_first()"};
    bool const dropped = l > 0 && s.layers[l - 1].when == evict_when::dropping;
    if (dropped && (plan.when != evict_when::dropping || plan.source != s.layers[l - 1].source))
      return {errc::bad_policy, "schedule: above a layer that drops tokens all layers drop, by the same source"};
  }
  return {};
}

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// Every layer by its own score. Writes layers : [count].
inline void own_source(layer_plan* layers, std::int32_t count, evict_when when) {
  for (std::int32_t l = 0; l < count; ++l) layers[l] = {when, -1};
}

/// One source for the whole stack, band 0 of the schedule: the layers up to its last wait for it, those above prune
/// first, or drop. Writes layers : [count].
inline void one_source(layer_plan* layers, std::int32_t count, source_band const& band,
                       evict_when above = evict_when::before_attending) {
  for (std::int32_t l = 0; l < count; ++l) layers[l] = {l <= band.last ? evict_when::deferred : above, 0};
}

/// Layers that would prune first or drop attend to everything and evict afterwards, by the same source: what is left of
/// a schedule when the prompt comes in chunks. The caches end as small, each head by its own value norms, but attention
/// and memory until then cost what they cost without eviction. Changes layers : [count].
inline void attend_first(layer_plan* layers, std::int32_t count) {
  for (std::int32_t l = 0; l < count; ++l)
    if (layers[l].when == evict_when::before_attending || layers[l].when == evict_when::dropping)
      layers[l].when = evict_when::after_attending;
}

/// What each layer does, in words, equal neighbours on one line. Allocates the string; for people, not for engines.
/// Precondition: validate(s).ok().
inline std::string describe(schedule const& s) {
  // Appended piece by piece: GCC 12 warns of overlap in what operator+ of a literal and a string becomes.
  auto range = [](std::int32_t first, std::int32_t last) {
    std::string name(first == last ? "layer " : "layers ");
    name += std::to_string(first);
    if (first != last) name.append("-").append(std::to_string(last));
    return name;
  };
  std::string text;
  for (std::int32_t l = 0; l < s.layer_count;) {
    layer_plan const& plan = s.layers[l];
    std::int32_t end = l + 1;
    while (end < s.layer_count && s.layers[end].when == plan.when && s.layers[end].source == plan.source) ++end;
    std::string const source =
        plan.source < 0 ? "its own score" : range(s.bands[plan.source].first, s.bands[plan.source].last);
    text.append(range(l, end - 1)).append(": ");
    switch (plan.when) {
      case evict_when::never:
        text += "attend to all, keep all";
        break;
      case evict_when::after_attending:
        text.append("attend to all, then evict by ").append(source);
        break;
      case evict_when::deferred:
        text.append("attend to all, evict when ").append(source);
        text += s.bands[plan.source].first == s.bands[plan.source].last ? " has been scored" : " have been scored";
        break;
      case evict_when::before_attending:
        text.append("evict by ").append(source).append(", then attend to what is kept");
        break;
      case evict_when::dropping:
        text.append("compute only the tokens kept by ").append(source);
        break;
    }
    text += '\n';
    l = end;
  }
  if (s.chunked) text += "the prompt comes in chunks; nothing is evicted before the last\n";
  return text;
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
