// expect: choose: a table holds pointers to functions, and plain values
// SPDX-License-Identifier: Apache-2.0
#include <purekv/dispatch.hpp>

#include <string>

struct table {
  std::string name;
};

purekv::status choose(table& t) { return purekv::choose<table, purekv::this_isa>(t); }
