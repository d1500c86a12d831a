// SPDX-License-Identifier: Apache-2.0
#pragma once

// Types, concepts and operations. Policies are included one by one: estimator/, pattern/, budget/, protect/.
#include <purekv/append.hpp>
#include <purekv/attend.hpp>
#include <purekv/average_rotation.hpp>
#include <purekv/cache.hpp>
#include <purekv/compact.hpp>
#include <purekv/compressor.hpp>
#include <purekv/concepts.hpp>
#include <purekv/convert.hpp>
#include <purekv/cpu.hpp>
#include <purekv/decode.hpp>
#include <purekv/float16.hpp>
#include <purekv/layer_storage.hpp>
#include <purekv/layout.hpp>
#include <purekv/mass.hpp>
#include <purekv/merge.hpp>
#include <purekv/moments.hpp>
#include <purekv/pipeline.hpp>
#include <purekv/plan.hpp>
#include <purekv/primitive.hpp>
#include <purekv/reconstruct.hpp>
#include <purekv/schedule.hpp>
#include <purekv/score.hpp>
#include <purekv/select.hpp>
#include <purekv/select_model.hpp>
#include <purekv/selection.hpp>
#include <purekv/source.hpp>
#include <purekv/status.hpp>
#include <purekv/take_back.hpp>
#include <purekv/taps.hpp>
#include <purekv/team.hpp>
#include <purekv/tile_plan.hpp>
#include <purekv/validate.hpp>
#include <purekv/view.hpp>
