// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/layout.hpp>

#include <array>
#include <span>

namespace engine {

/// What a prompt shows besides words. A view: it must outlive the passes.
struct visual_input {
  purekv::token_layout layout{};     // of the prompt; what comes after it is words
  std::span<float const> patches{};  // [patches, values], those of all images and videos in the order of their tokens
};

/// How many of the positions before this one are patches.
int patches_before(purekv::token_layout const& layout, std::int32_t position);

/// By what a token turns in a rotary embedding of three sections, as in Qwen2-VL (arXiv 2409.12191): a word by its
/// place in all of them, a patch by (t, y, x) from where its segment begins; what follows begins behind the largest of
/// these.
std::array<std::int32_t, 3> rotary_coordinates(purekv::token_layout const& layout, std::int32_t position);

}  // namespace engine
