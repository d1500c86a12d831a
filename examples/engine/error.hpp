// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>

namespace engine {

/// What the user gave cannot be used: a file, an option, a document that is too long. what() is for the user.
struct bad_input : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace engine
