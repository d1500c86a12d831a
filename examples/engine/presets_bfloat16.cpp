// SPDX-License-Identifier: Apache-2.0
#include "preset_maker.hpp"

template class engine::preset_maker<purekv::bfloat16>;
