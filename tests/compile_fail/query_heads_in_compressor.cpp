// expect: compressor: the estimator scores query heads; wrap it in group_mean, group_max, head_mean or head_max
// SPDX-License-Identifier: Apache-2.0
#include <purekv/budget/ratio.hpp>
#include <purekv/compressor.hpp>
#include <purekv/estimator/window_attention.hpp>
#include <purekv/protect/none.hpp>

purekv::compressor<purekv::window_attention<16>, purekv::ratio, purekv::none> wrong;
