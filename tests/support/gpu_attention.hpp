// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/fixtures_attention.hpp"
#include "support/gpu.hpp"

/// Calls that attend on a GPU.
namespace test {

/// Layout of memory drawn at random, rows at multiples of 16 bytes.
inline fixtures::shape any_layout(random& random, fixtures::shape s) {
  auto const any_order = [&] {
    return random.between(0, 1) == 0 ? fixtures::order::head_major : fixtures::order::token_major;
  };
  s.q_order = any_order();
  s.cache_order = any_order();
  s.out_order = any_order();
  s.gap = random.between(0, 2) * 8;
  s.poison = random.between(0, 1) == 0 ? fixtures::beyond::nan : fixtures::beyond::attractive;
  return s;
}

/// call(exec, out, taps, work) against the oracle: it writes nothing else, with a byte less of workspace nothing at
/// all, and what it computes has the same bits when it is called again, in another order of blocks and warps.
template <class TO, class Input, class Bytes, class Call>
fixtures::attention_output<TO> check_call(random& random, Input const& in, fixtures::shape const& s,
                                          std::vector<oracle::head_attention> reference,
                                          fixtures::tap_request const& request, Bytes const& bytes, Call const& call,
                                          double more = 0) {
  using T = typename decltype(in.cache.view)::element;
  allow_tensor_cores<T>(reference, 6, more);
  fixtures::snapshot inputs;
  inputs.watch(in.q.memory);
  inputs.watch(in.cache.keys);
  inputs.watch(in.cache.values);
  inputs.watch(in.cache.positions);
  auto const once = [&] {
    fixtures::attention_output<TO> actual(in, s, request);
    gpu_device device(random);
    std::size_t const needed = bytes(device.exec(), actual.taps);
    REQUIRE(needed < std::size_t{1} << 32);
    fixtures::owned_workspace work(needed);
    if (needed > 0) {
      CHECK(device
                .status_of([&](purekv::gpu const& exec) {
                  return call(exec, actual.out.view, actual.taps, work.one_byte_less());
                })
                .code == purekv::errc::workspace_too_small);
      CHECK(actual.untouched());
    }
    device.run([&](purekv::gpu const& exec) { return call(exec, actual.out.view, actual.taps, work.view()); });
    CHECK(work.guards_untouched());
    fixtures::check_rest_untouched(in, s, actual, request);
    return actual;
  };
  fixtures::attention_output<TO> first = once();
  fixtures::compare_with_oracle(in, s, first, reference, request, relative_l2_of_tensor_cores<T, TO>());
  if (random.between(0, 3) == 0) CHECK(once().same_bits_as(first));
  CHECK(inputs.unchanged());
  return first;
}

}  // namespace test
