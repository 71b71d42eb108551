/* SPDX-License-Identifier: Apache-2.0
 *
 * How our own loops become vector code: plain C, compiled for several processors, the right one taken at load time.
 * Contraction is off in the whole project, so all versions give the same bits.
 */
#ifndef MMEBM_CPU_SIMD_H
#define MMEBM_CPU_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CPU_CLONES
#endif
#define CPU_INLINE static inline __attribute__((always_inline))

/* Bytes of a stored number. */
CPU_INLINE size_t mmebm__cpu_element_size(uint32_t bf16)
{
    return bf16 ? sizeof(uint16_t) : sizeof(float);
}

CPU_INLINE float cpu_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

CPU_INLINE uint32_t cpu_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

CPU_INLINE float cpu_load_bf16(uint16_t value)
{
    return cpu_from_bits((uint32_t)value << 16);
}

/* To nearest, ties to even; NaN stays NaN. */
CPU_INLINE uint16_t cpu_store_bf16(float value)
{
    const uint32_t bits = cpu_to_bits(value);
    const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const uint32_t quiet = bits | 0x400000u;
    return (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded) >> 16);
}

/* e^x to 2 units in the last place: Cephes' polynomial on [-ln 2 / 2, ln 2 / 2], exponent put back in two halves. */
CPU_INLINE float cpu_exp(float x)
{
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer in the low bits */
    const float n = shifted - 12582912.0f;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const int32_t exponent = (int32_t)(cpu_to_bits(shifted) - 0x4b400000u);
    const int32_t half = exponent >> 1;
    const float a = cpu_from_bits((uint32_t)(half + 127) << 23);
    const float b = cpu_from_bits((uint32_t)(exponent - half + 127) << 23);
    return p * a * b;
}

/* Natural logarithm of a positive normal number; 2 units in the last place (Cephes). */
CPU_INLINE float cpu_log(float x)
{
    const uint32_t bits = cpu_to_bits(x);
    int32_t exponent = (int32_t)(bits >> 23) - 126;
    const float m0 = cpu_from_bits((bits & 0x007fffffu) | 0x3f000000u);
    const int32_t low = m0 < 0.70710678f;
    exponent -= low;
    const float m = (low ? m0 + m0 : m0) - 1.0f, e = (float)exponent, square = m * m;
    float p = 7.0376836292e-2f;
    p = p * m + -1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m + -1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m + -1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m + -2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float y = m * square * p;
    y = y + e * -2.12194440e-4f;
    y = y - 0.5f * square;
    const float result = m + y + e * 0.693359375f;
    return x > 3.4028235e38f || x != x ? x : result; /* infinity and NaN stay */
}

/* log(1 + t), t in [0, 1]: the rounding error of 1 + t is divided out. */
CPU_INLINE float cpu_log1p_unit(float t)
{
    const float u = 1.0f + t, d = u - 1.0f;
    const float safe = d == 0.0f ? 1.0f : d;
    return d == 0.0f ? t : cpu_log(u) * (t / safe);
}

CPU_INLINE float cpu_sigmoid(float x)
{
    return 1.0f / (1.0f + cpu_exp(-x));
}

CPU_INLINE float cpu_softplus(float x)
{
    const float magnitude = x < 0.0f ? -x : x;
    return (x > 0.0f ? x : 0.0f) + cpu_log1p_unit(cpu_exp(-magnitude)) + (x != x ? x : 0.0f);
}

/* Cephes: a polynomial where 1 - e^-2|x| would cancel. */
CPU_INLINE float cpu_tanh(float x)
{
    const float magnitude = x < 0.0f ? -x : x, square = x * x;
    const float e = cpu_exp(-2.0f * magnitude);
    const float large = (1.0f - e) / (1.0f + e);
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square + -5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square + -3.33332819422e-1f;
    const float small = p * square * x + x;
    return magnitude < 0.625f ? small : x < 0.0f ? -large : large;
}

#endif /* MMEBM_CPU_SIMD_H */
