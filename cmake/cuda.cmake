# SPDX-License-Identifier: Apache-2.0
# purekv_cuda_program(NAME SOURCE [LIBRARIES...]): what nvcc makes of SOURCE, a program, or where none can run
# (PUREKV_CUDA_PROGRAMS=OFF) unoptimised PTX of the kernels, which takes a third of the time. What only the host's compiler
# objects to is then left to the simulated device's tests, and to the example, which is always a program.
option(PUREKV_CUDA_PROGRAMS "With PUREKV_CUDA: build programs for a GPU; OFF: see only that nvcc takes their sources" ON)
# One architecture, whose PTX later devices take.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80)
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  message(FATAL_ERROR "PUREKV_CUDA: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.8; 13.0 is what we use")
endif()

function(purekv_cuda_program name source)
  if(PUREKV_CUDA_PROGRAMS)
    add_executable(${name} ${source})
  else()
    add_library(${name} OBJECT ${source})
    set_target_properties(${name} PROPERTIES CUDA_PTX_COMPILATION ON CUDA_ARCHITECTURES 80-virtual)
    target_compile_options(${name} PRIVATE -Xcicc=-O0)
  endif()
  target_link_libraries(${name} PRIVATE purekv::purekv ${ARGN})
  # CMake 3.25 knows no C++20 for nvcc.
  target_compile_options(${name} PRIVATE -std=c++20 -Werror=all-warnings)
endfunction()
