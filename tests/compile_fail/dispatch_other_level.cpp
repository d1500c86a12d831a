// expect: purekv_dispatch: another option sets the instruction set of this file
// SPDX-License-Identifier: Apache-2.0
// What purekv_dispatch says that it compiles, where another option has the last word.
#define PUREKV_LEVEL neon
#if defined(__ARM_NEON)
#undef PUREKV_LEVEL
#define PUREKV_LEVEL avx2
#endif
#include <purekv/dispatch.hpp>
