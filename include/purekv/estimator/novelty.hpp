// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>
#include <purekv/layout.hpp>

namespace purekv::inline v0_1 {

/// What a token of a video is compared with: the tokens of its frame, or those at its place in all frames of its
/// segment.
enum class peers : std::int32_t { frame, place };

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// How much a token's value differs from those of its peers:
///
///   score(h, t) = || v(h, t) - mean_u v(h, u) ||_2        u: the peers of t that head h has cached, t among them
///
/// peers::frame finds what stands out from its surroundings, peers::place what changes over time. Reads nothing but
/// values, so it needs no question and can evict before attending. A stretch of text is a frame; so are the positions
/// that the layout does not cover, together. A token without other peers scores 0: pin the text. A NaN in a value makes
/// the scores of all its peers NaN, which rank last. layout is the caller's memory.
template <peers Of = peers::frame> struct novelty {
  static constexpr score_rows rows = score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;

  token_layout layout{};

  status check(layer_shape const&, std::int32_t) const { return validate(layout); }
  status check_view(layer_shape const&, std::int32_t) const {
    if (layout.count < 0) return {errc::bad_shape, "token_layout: negative number of segments"};
    if (layout.count > 0 && layout.segments == nullptr) return {errc::null_data, "token_layout: segments is null"};
    return {};
  }

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape) { return 0; }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float*) const {
    std::int32_t group = 0;  // tokens that are compared with each other are one rank's
    auto const mine = [&] { return group++ % team.size() == team.rank(); };
    for (std::int32_t h = 0; h < in.kv_heads(); ++h) {
      for (std::int32_t i = 0; i < layout.count; ++i) {
        segment const& s = layout.segments[i];
        if constexpr (Of == peers::frame) {
          for (std::int32_t t = 0; t < s.frames; ++t)
            if (mine()) compare_stretch(in, out, h, s.begin + t * s.frame_tokens(), s.frame_tokens());
        } else {
          for (std::int32_t place = 0; place < s.frame_tokens(); ++place)
            if (mine()) compare(in, out, h, [&](auto const& f) { at_place(in, h, s, place, f); });
        }
      }
      std::int32_t const end = first_from(in, h, layout.tokens());
      if (!mine()) continue;
      if constexpr (Of == peers::frame)
        compare(in, out, h, [&](auto const& f) {
          for (std::int32_t token = end; token < in.tokens(h); ++token) f(token);
        });
      else
        for (std::int32_t token = end; token < in.tokens(h); ++token) out.row(h)[token] = 0;
    }
    team.sync();
  }

 private:
  /// each(f): f(token) for the tokens that are compared with each other.
  PUREKV_CALLS template <Cache C, class Each>
  PUREKV_HD static void compare(layer_input<C> const& in, score_out out, std::int32_t h, Each const& each) {
    constexpr std::int32_t width = 32;  // elements whose mean is held at a time
    float* const row = out.row(h);
    float count = 0;
    each([&](std::int32_t token) {
      row[token] = 0;
      count += 1;
    });
    for (std::int32_t first = 0; first < in.value_dim(); first += width) {
      std::int32_t const n = in.value_dim() - first < width ? in.value_dim() - first : width;
      float mean[width] = {};
      each([&](std::int32_t token) {
        auto const* const v = in.value(h, token) + first;
        for (std::int32_t i = 0; i < n; ++i) mean[i] += static_cast<float>(v[i]);
      });
      for (std::int32_t i = 0; i < n; ++i) mean[i] /= count;
      each([&](std::int32_t token) {
        auto const* const v = in.value(h, token) + first;
        float sum = 0;
        for (std::int32_t i = 0; i < n; ++i) {
          float const d = static_cast<float>(v[i]) - mean[i];
          sum += d * d;
        }
        row[token] += sum;
      });
    }
    each([&](std::int32_t token) { row[token] = __builtin_sqrtf(row[token]); });
  }

  template <Cache C>
  PUREKV_HD static void compare_stretch(layer_input<C> const& in, score_out out, std::int32_t h, std::int32_t position,
                                        std::int32_t count) {
    std::int32_t const begin = first_from(in, h, position), end = first_from(in, h, position + count);
    compare(in, out, h, [&](auto const& f) {
      for (std::int32_t token = begin; token < end; ++token) f(token);
    });
  }

  PUREKV_CALLS template <Cache C, class F>
  PUREKV_HD static void at_place(layer_input<C> const& in, std::int32_t h, segment const& s, std::int32_t place,
                                 F const& f) {
    for (std::int32_t t = 0; t < s.frames; ++t) {
      std::int32_t const position = s.begin + t * s.frame_tokens() + place, token = first_from(in, h, position);
      if (token < in.tokens(h) && in.position(h, token) == position) f(token);
    }
  }

  /// The first token of a head whose position is at least this one.
  template <Cache C>
  PUREKV_HD static std::int32_t first_from(layer_input<C> const& in, std::int32_t h, std::int32_t position) {
    std::int32_t low = 0, high = in.tokens(h);
    while (low < high) {
      std::int32_t const middle = low + (high - low) / 2;
      if (in.position(h, middle) < position)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

static_assert(Estimator<novelty<>>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
