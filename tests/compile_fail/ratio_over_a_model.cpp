// expect: over a whole model it needs a budget that the layers share
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/ratio.hpp>
#include <purekv/presets.hpp>
#include <purekv/select_model.hpp>

purekv::status f(purekv::scored_layer<purekv::ragged_cache<float>> const* model, purekv::selection const& out) {
  return purekv::select(purekv::cpu{}, purekv::snapkv<purekv::ratio>{}, model, 3, out, {});
}
