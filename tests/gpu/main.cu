// SPDX-License-Identifier: Apache-2.0
#define DOCTEST_CONFIG_IMPLEMENT
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

int main(int count, char** arguments) {
  int devices = 0;
  cudaError_t const said = cudaGetDeviceCount(&devices);
  if (said == cudaSuccess && devices > 0) return doctest::Context(count, arguments).run();
  std::printf("no GPU: %s\n", cudaGetErrorString(said));
  constexpr int skipped = 77;
  return std::getenv("PUREKV_REQUIRE_GPU") != nullptr ? 1 : skipped;
}
