// expect: a budget that all layers share needs select over a model
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/across_model.hpp>
#include <purekv/budget/ratio.hpp>
#include <purekv/presets.hpp>
#include <purekv/select.hpp>

purekv::status f(purekv::ragged_cache<float> const& cache, purekv::selection const& out) {
  return purekv::select(purekv::cpu{}, purekv::snapkv<purekv::across_model<purekv::ratio>>{}, {}, cache, out, {});
}
