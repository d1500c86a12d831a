// SPDX-License-Identifier: Apache-2.0
#pragma once

#define PUREKV_VERSION_MAJOR 0
#define PUREKV_VERSION_MINOR 1
#define PUREKV_VERSION_PATCH 0

// PUREKV_HD marks a function for host and device; PUREKV_INLINE one that must also leave no symbol behind, because it
// belongs to a type that differently compiled files share. PUREKV_DEVICE marks kernels and what only they call: device
// code for nvcc, and for a plain compiler code that the simulated device runs (simt/device.hpp).
#if defined(__CUDACC__)
#define PUREKV_HD __host__ __device__
#define PUREKV_INLINE __host__ __device__ __forceinline__
#define PUREKV_DEVICE __device__ __forceinline__
#else
#define PUREKV_HD
#define PUREKV_INLINE __attribute__((always_inline)) inline
#define PUREKV_DEVICE inline
#endif

// PUREKV_ISA names the inline namespace of everything that holds code, so that files compiled for different instruction
// sets can be linked into one program. Plain data types stay outside it and can cross between such files.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define PUREKV_ISA avx512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PUREKV_ISA avx2
#elif defined(__ARM_NEON)
#define PUREKV_ISA neon
#else
#define PUREKV_ISA baseline
#endif

namespace purekv::inline v0_1::inline PUREKV_ISA {}
