// SPDX-License-Identifier: Apache-2.0
#include <purekv/status.hpp>

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <type_traits>

using namespace purekv;

TEST_CASE("a status is fine until somebody says otherwise") {
  CHECK(status{}.ok());
  CHECK_NOTHROW(status{}.or_throw());
  status const s{errc::mismatch, "attend: dim differs"};
  CHECK_FALSE(s.ok());
  CHECK(s.code == errc::mismatch);
  static_assert(std::is_trivially_copyable_v<status>);
  static_assert(!status{errc::bad_shape, ""}.ok());
}

TEST_CASE("or_throw says what the status says") {
  CHECK_THROWS_WITH_AS((status{errc::mismatch, "attend: dim differs"}.or_throw()), "attend: dim differs",
                       std::runtime_error);
}
