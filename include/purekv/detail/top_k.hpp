// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/rank_key.hpp>
#include <purekv/detail/simd.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Calls f(i, lane_mask) for each block of keys [i, i + lanes), the last one cut to n, with the lanes that are above,
/// and f's second mask for those equal to a key. Masks are bits.
template <class F> void for_each_block(std::uint32_t const* keys, std::int64_t n, std::uint32_t key, F const& f) {
  std::int64_t i = 0;
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  __m512i const bound = _mm512_set1_epi32(static_cast<std::int32_t>(key));
  for (; i < n; i += 16) {
    auto const inside = static_cast<__mmask16>(n - i >= 16 ? 0xffffu : (1u << (n - i)) - 1u);
    __m512i const block = _mm512_maskz_loadu_epi32(inside, keys + i);
    f(i, std::uint32_t{_mm512_mask_cmpgt_epu32_mask(inside, block, bound)},
      std::uint32_t{_mm512_mask_cmpeq_epu32_mask(inside, block, bound)});
  }
#else
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  // Numbers compare with a sign only.
  __m256i const sign = _mm256_set1_epi32(INT32_MIN);
  __m256i const bound = _mm256_set1_epi32(static_cast<std::int32_t>(key ^ 0x80000000u));
  auto const bits = [](__m256i mask) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(mask)));
  };
  for (; i + 16 <= n; i += 16) {
    __m256i const low = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<__m256i const*>(keys + i)), sign);
    __m256i const high = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<__m256i const*>(keys + i + 8)), sign);
    f(i, bits(_mm256_cmpgt_epi32(low, bound)) | bits(_mm256_cmpgt_epi32(high, bound)) << 8,
      bits(_mm256_cmpeq_epi32(low, bound)) | bits(_mm256_cmpeq_epi32(high, bound)) << 8);
  }
#endif
  for (; i < n; i += 16) {
    std::uint32_t above = 0, equal = 0;
    for (std::int64_t j = 0; j < 16 && i + j < n; ++j) {
      above |= std::uint32_t{keys[i + j] > key} << j;
      equal |= std::uint32_t{keys[i + j] == key} << j;
    }
    f(i, above, equal);
  }
#endif
}

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
/// The bits set in each byte, ascending, a byte each.
struct bit_table {
  std::uint64_t of[256] = {};
  constexpr bit_table() {
    for (std::uint32_t mask = 0; mask < 256; ++mask)
      for (std::uint32_t bit = 0, found = 0; bit < 8; ++bit)
        if ((mask >> bit & 1u) != 0) of[mask] |= std::uint64_t{bit} << 8 * found++;
  }
};
inline constexpr bit_table bits_set;

PUREKV_HOST_INLINE __m256i lanes_set(std::uint32_t mask) {
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<std::int64_t>(bits_set.of[mask])));
}
#endif

/// Writes i + (the bits set in mask) to out, which has room for `room`; returns how many.
inline std::int64_t put_bits(std::int32_t i, std::uint32_t mask, std::int32_t* out,
                             [[maybe_unused]] std::int64_t room) {
  int const count = __builtin_popcount(mask);
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  __m512i const lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i const packed = _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), lane);
  // Compressing straight to memory is microcode on some machines.
  _mm512_mask_storeu_epi32(out, static_cast<__mmask16>((1u << count) - 1u),
                           _mm512_add_epi32(packed, _mm512_set1_epi32(i)));
#else
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  if (room >= 16) {
    auto const put = [&](std::int32_t* to, std::int32_t first, std::uint32_t byte) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_add_epi32(lanes_set(byte), _mm256_set1_epi32(first)));
    };
    put(out, i, mask & 0xffu);
    put(out + __builtin_popcount(mask & 0xffu), i + 8, mask >> 8);
    return count;
  }
#endif
  for (int j = 0; mask != 0; mask &= mask - 1, ++j) out[j] = i + __builtin_ctz(mask);
#endif
  return count;
}

/// The index of each key that is inside the cut, ascending, to out, which has room for them and no more. Returns how
/// many there are.
inline std::int64_t put_above(std::uint32_t const* keys, std::int64_t n, cut const& where, std::int32_t* out,
                              std::int64_t room) {
  std::int64_t count = 0, ties = where.ties;
  for_each_block(keys, n, where.key, [&](std::int64_t i, std::uint32_t above, std::uint32_t equal) {
    for (; ties > 0 && equal != 0; --ties, equal &= equal - 1) above |= equal & (0u - equal);
    if (above != 0) count += put_bits(static_cast<std::int32_t>(i), above, out + count, room - count);
  });
  return count;
}

/// How many keys are inside the cut.
inline std::int64_t count_above(std::uint32_t const* keys, std::int64_t n, cut const& where) {
  std::int64_t count = where.ties;
  for (std::int64_t i = 0; i < n; ++i) count += keys[i] > where.key;
  return count;
}

/// Makes the keys inside the cut ones that are kept in any case.
inline void pin_above(std::uint32_t* keys, std::int64_t n, cut const& where) {
  std::int64_t ties = where.ties;
  for (std::int64_t i = 0; i < n; ++i)
    if (keys[i] > where.key || (keys[i] == where.key && ties-- > 0)) keys[i] = pinned_key;
}

/// Keys whose bits [shift, 32) are `prefix`, in their order, to out (which may be keys).
inline std::int64_t keep_prefix(std::uint32_t const* keys, std::int64_t n, int shift, std::uint32_t prefix,
                                std::uint32_t* out) {
  std::int64_t count = 0, i = 0;
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  __m512i const wanted = _mm512_set1_epi32(static_cast<std::int32_t>(prefix));
  __m128i const by = _mm_cvtsi32_si128(shift);
  for (; i + 16 <= n; i += 16) {
    __m512i const block = _mm512_loadu_si512(keys + i);
    __mmask16 const match = _mm512_cmpeq_epu32_mask(_mm512_maskz_srl_epi32(0xffff, block, by), wanted);
    int const found = __builtin_popcount(match);
    _mm512_mask_storeu_epi32(out + count, static_cast<__mmask16>((1u << found) - 1u),
                             _mm512_maskz_compress_epi32(match, block));
    count += found;
  }
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  __m256i const wanted = _mm256_set1_epi32(static_cast<std::int32_t>(prefix));
  __m128i const by = _mm_cvtsi32_si128(shift);
  for (; i + 8 <= n; i += 8) {
    __m256i const block = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(keys + i));
    __m256i const match = _mm256_cmpeq_epi32(_mm256_srl_epi32(block, by), wanted);
    auto const mask = static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(match)));
    if (mask == 0) continue;
    // What lies behind the keys that are kept has been read already, if it is keys.
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + count), _mm256_permutevar8x32_epi32(block, lanes_set(mask)));
    count += __builtin_popcount(mask);
  }
#endif
  for (; i < n; ++i) {
    out[count] = keys[i];
    count += (keys[i] >> shift) == prefix;
  }
  return count;
}

/// Where the k largest of n keys end, 1 <= k <= n, found by their digits of 11, 11 and 10 bits from the top.
/// scratch : [n]; it may be the keys themselves, if they are not needed any more.
inline cut find_cut(std::uint32_t const* keys, std::int64_t n, std::int64_t k, std::uint32_t* scratch) {
  constexpr int digits = 3, first_bit[digits] = {21, 10, 0}, width[digits] = {11, 11, 10};
  std::uint32_t count[2][1 << 11];  // alternating, so that equal neighbours do not wait for each other
  std::uint32_t prefix = 0;
  for (int d = 0; d < digits; ++d) {
    std::uint32_t const size = 1u << width[d], mask = size - 1;
    for (auto& half_of_it : count)
      for (std::uint32_t b = 0; b < size; ++b) half_of_it[b] = 0;
    std::int64_t i = 0;
    for (; i + 2 <= n; i += 2) {
      ++count[0][(keys[i] >> first_bit[d]) & mask];
      ++count[1][(keys[i + 1] >> first_bit[d]) & mask];
    }
    if (i < n) ++count[0][(keys[i] >> first_bit[d]) & mask];

    std::uint32_t bucket = mask;
    for (;; --bucket) {
      std::int64_t const here = std::int64_t{count[0][bucket]} + count[1][bucket];
      if (here >= k) break;
      k -= here;
    }
    prefix = prefix << width[d] | bucket;
    if (d + 1 < digits) {
      n = keep_prefix(keys, n, first_bit[d], prefix, scratch);
      keys = scratch;
    }
  }
  return {prefix, k};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
