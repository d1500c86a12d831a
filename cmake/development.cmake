# SPDX-License-Identifier: Apache-2.0
# What our own programs are compiled with; nothing here reaches a user of the library.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_EXTENSIONS OFF)

find_package(Threads REQUIRED)

add_library(purekv_strict INTERFACE)
target_link_libraries(purekv_strict INTERFACE purekv::purekv Threads::Threads)
target_compile_options(purekv_strict INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)

add_library(purekv_native INTERFACE)
if(PUREKV_NATIVE)
  target_compile_options(purekv_native INTERFACE -march=native)
endif()

# Sanitized tests call for each access instead of testing it in place: they compile in two thirds of the time.
if(CMAKE_CXX_FLAGS_DEBUG MATCHES "-fsanitize=address")
  set(threshold "asan-instrumentation-with-call-threshold=0")
  add_compile_options("SHELL:$<IF:$<CXX_COMPILER_ID:GNU>,--param ${threshold},-mllvm -${threshold}>")
endif()
