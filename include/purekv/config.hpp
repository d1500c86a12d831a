// SPDX-License-Identifier: Apache-2.0
#pragma once

#define PUREKV_VERSION_MAJOR 0
#define PUREKV_VERSION_MINOR 1
#define PUREKV_VERSION_PATCH 0

// PUREKV_HD marks a function for host and device; PUREKV_INLINE one that must also leave no symbol behind, because it
// belongs to a type that differently compiled files share; PUREKV_HOST_INLINE is that for the host alone.
// PUREKV_DEVICE marks kernels and what only they call: device code for nvcc, and for a plain compiler code that the
// simulated device runs (simt/device.hpp).
// PUREKV_CALLS before a template for host and device that calls what it is given: nvcc shall not mind if that is the
// host's. PUREKV_UNROLL(n) before a loop unrolls it n times; PUREKV_DEVICE_UNROLL all of it, where nvcc compiles.
#define PUREKV_HOST_INLINE __attribute__((always_inline)) inline
#if defined(__CUDACC__)
#define PUREKV_HD __host__ __device__
#define PUREKV_INLINE __host__ __device__ __forceinline__
#define PUREKV_DEVICE __device__ __forceinline__
#define PUREKV_PRAGMA(text) _Pragma(#text)
#define PUREKV_UNROLL(n) PUREKV_PRAGMA(unroll n)
#define PUREKV_DEVICE_UNROLL _Pragma("unroll")
#define PUREKV_CALLS _Pragma("nv_exec_check_disable")
#else
#define PUREKV_HD
#define PUREKV_INLINE PUREKV_HOST_INLINE
#define PUREKV_DEVICE inline
#define PUREKV_PRAGMA(text) _Pragma(#text)
#define PUREKV_UNROLL(n) PUREKV_PRAGMA(GCC unroll n)
#define PUREKV_DEVICE_UNROLL
#define PUREKV_CALLS
#endif

// PUREKV_ISA names the inline namespace of everything that holds code, so that files compiled for different instruction
// sets can be linked into one program. Plain data types stay outside it and can cross between such files.
//
// PUREKV_BFLOAT16_DOT, defined by the user, lets attention of bfloat16 queries over bfloat16 caches use AVX512-BF16
// where the compiler is told that the target has it, PUREKV_BFLOAT16_TILES the matrix registers of AMX-BF16
// (docs/numerics.md). PUREKV_BFLOAT16_DOT_IN_SOFTWARE, for tests, goes the same ways on any target.
#if defined(PUREKV_BFLOAT16_DOT_IN_SOFTWARE)
#define PUREKV_HAS_BFLOAT16_DOT
#define PUREKV_ISA software_bfloat16
#if defined(PUREKV_BFLOAT16_TILES)
#define PUREKV_HAS_BFLOAT16_TILES
#endif
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#if defined(PUREKV_BFLOAT16_TILES) && (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__)
#define PUREKV_HAS_BFLOAT16_DOT
#define PUREKV_HAS_BFLOAT16_TILES
#define PUREKV_ISA avx512_amx
#elif defined(PUREKV_BFLOAT16_DOT) && defined(__AVX512BF16__)
#define PUREKV_HAS_BFLOAT16_DOT
#define PUREKV_ISA avx512_bfloat16
#else
#define PUREKV_ISA avx512
#endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PUREKV_ISA avx2
#elif defined(__ARM_NEON)
#define PUREKV_ISA neon
#else
#define PUREKV_ISA baseline
#endif

namespace purekv::inline v0_1::inline PUREKV_ISA {}
