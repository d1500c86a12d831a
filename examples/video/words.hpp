// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace video {

/// Everything that can be said to the model and by it; a word's token is its place in the list.
std::span<std::string_view const> words();

constexpr int patch_token = 0, begin_video = 1, end_video = 2, end_of_answer = 3;

/// Words are set apart by spaces. Throws engine::bad_input for one that is not in the list.
std::vector<int> tokens_of(std::string_view text);

std::string text_of(std::span<int const> tokens);

}  // namespace video
