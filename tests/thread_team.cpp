// SPDX-License-Identifier: Apache-2.0
#include <purekv/thread_team.hpp>

#include <doctest/doctest.h>

#include <set>
#include <thread>

using namespace purekv;

TEST_CASE("every rank runs once, on a thread of its own, and the caller is rank 0") {
  for (std::int32_t ranks = 1; ranks <= 8; ++ranks) {
    thread_team team(ranks);
    CHECK(team.ranks() == ranks);
    std::vector<int> runs(static_cast<std::size_t>(ranks));
    std::vector<std::thread::id> threads(runs.size());
    std::vector<std::int32_t> sizes(runs.size());
    team.run([&](cpu exec) {
      auto const rank = static_cast<std::size_t>(exec.rank());
      ++runs[rank];
      threads[rank] = std::this_thread::get_id();
      sizes[rank] = exec.size();
    });
    CHECK(runs == std::vector<int>(runs.size(), 1));
    CHECK(sizes == std::vector<std::int32_t>(runs.size(), ranks));
    CHECK(threads[0] == std::this_thread::get_id());
    CHECK(std::set(threads.begin(), threads.end()).size() == runs.size());
  }
}

TEST_CASE("a team is used again and again") {
  thread_team team(4);
  std::vector<int> runs(4);
  for (int n = 0; n < 2000; ++n) {
    team.run([&](cpu exec) { ++runs[static_cast<std::size_t>(exec.rank())]; });
    REQUIRE(runs == std::vector<int>(4, n + 1));  // run has waited for all of them
  }
}

TEST_CASE("what a rank wrote before sync every rank reads after it") {
  for (std::int32_t const ranks : {1, 2, 3, 8}) {
    thread_team team(ranks);
    std::vector<int> cell(static_cast<std::size_t>(ranks)), wrong(cell.size());
    team.run([&](cpu exec) {
      auto const rank = static_cast<std::size_t>(exec.rank());
      for (int round = 1; round <= 500; ++round) {
        cell[rank] = round;
        exec.sync();
        for (int const c : cell) wrong[rank] += c != round;
        exec.sync();
      }
    });
    CHECK(wrong == std::vector<int>(wrong.size(), 0));
  }
}

TEST_CASE("a team of none is a team of one") {
  thread_team team(0);
  int runs = 0;
  team.run([&](cpu exec) {
    exec.sync();
    ++runs;
  });
  CHECK(runs == 1);
  CHECK(team.ranks() == 1);
}

TEST_CASE("a team that never ran ends") {
  for (int n = 0; n < 50; ++n) thread_team const team(3);
}

TEST_CASE("two teams do not meet") {
  thread_team one(2), other(3);
  std::vector<int> runs(3);
  one.run([&](cpu outer) {
    if (outer.rank() == 0) other.run([&](cpu inner) { ++runs[static_cast<std::size_t>(inner.rank())]; });
    outer.sync();
  });
  CHECK(runs == std::vector<int>{1, 1, 1});
}

TEST_CASE("a callable that cannot be copied or called as const is called in place") {
  struct counter {
    std::atomic<int> calls{0};
    void operator()(cpu) { ++calls; }
  } count;
  thread_team team(3);
  team.run(count);
  CHECK(count.calls == 3);
}
