// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

/// Reads NumPy's .npy files: little-endian, C order, float32 or int64. PUREKV_TEST_DATA is the folder.
namespace test {

template <class T> struct npy {
  std::vector<int> shape;
  std::vector<T> data;

  int size(std::size_t axis) const { return shape.at(axis); }
  template <class... I> T const& operator()(I... index) const {
    std::size_t flat = 0, axis = 0;
    ((flat = flat * static_cast<std::size_t>(shape.at(axis)) + static_cast<std::size_t>(index), ++axis), ...);
    return data.at(flat);
  }
};

template <class T> npy<T> read_npy(std::string const& name) {
  std::string const path = std::string(PUREKV_TEST_DATA) + "/" + name + ".npy";
  std::ifstream file(path, std::ios::binary);
  std::string const bytes{std::istreambuf_iterator<char>(file), {}};
  auto const need = [&](bool condition) {
    if (!condition) throw std::runtime_error("not a .npy file of the expected kind: " + path);
  };
  need(bytes.size() > 10 && bytes.compare(0, 6, "\x93NUMPY") == 0 && bytes[6] == 1);
  std::size_t const length = static_cast<unsigned char>(bytes[8]) + 256u * static_cast<unsigned char>(bytes[9]);
  std::string const header = bytes.substr(10, length);
  need(header.find(sizeof(T) == 4 ? "'<f4'" : "'<i8'") != std::string::npos);
  need(header.find("'fortran_order': False") != std::string::npos);

  npy<T> array;
  std::size_t count = 1;
  char const* at = header.c_str() + header.find('(') + 1;
  for (char* end; *at != ')'; at = *end == ',' ? end + 1 : end) {
    array.shape.push_back(static_cast<int>(std::strtol(at, &end, 10)));
    need(end != at);
    count *= static_cast<std::size_t>(array.shape.back());
    while (*end == ' ') ++end;
  }
  need(bytes.size() == 10 + length + count * sizeof(T));
  array.data.resize(count);
  bytes.copy(reinterpret_cast<char*>(array.data.data()), count * sizeof(T), 10 + length);
  return array;
}

}  // namespace test
