// SPDX-License-Identifier: Apache-2.0
#pragma once

// Types, concepts and operations. Policies are included one by one: estimator/, pattern/, budget/, protect/.
#include <purekv/cache.hpp>
#include <purekv/compressor.hpp>
#include <purekv/concepts.hpp>
#include <purekv/convert.hpp>
#include <purekv/cpu.hpp>
#include <purekv/float16.hpp>
#include <purekv/layout.hpp>
#include <purekv/primitive.hpp>
#include <purekv/schedule.hpp>
#include <purekv/selection.hpp>
#include <purekv/status.hpp>
#include <purekv/team.hpp>
#include <purekv/view.hpp>
