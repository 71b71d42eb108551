/* SPDX-License-Identifier: Apache-2.0
 *
 * Counter-based random numbers, one definition for C and CUDA: Philox4x32-10 (Salmon et al., SC 2011) and
 * normals by Box and Muller. A number is a pure function of (seed, stream, chain, step, element): results never
 * depend on batch split, thread count or device. log, sin and cos are polynomials made of single IEEE
 * multiplications and additions in a fixed order (contraction must be off: -ffp-contract=off, -fmad=false), so
 * the bits are equal on every processor.
 *
 * Counter words: element / 4, chain (low 32 bits), step, chain (high 24 bits) << 8 | stream. Key: seed.
 */
#ifndef MMEBM_PHILOX_H
#define MMEBM_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define MMEBM_PHILOX_FN static __host__ __device__ __forceinline__
#define MMEBM_SQRT(x) sqrtf(x)
#else
#include <math.h>
#define MMEBM_PHILOX_FN static inline __attribute__((always_inline))
#define MMEBM_SQRT(x) __builtin_sqrtf(x)
#endif

/* Who draws. Ranges are one stream for each modality or expert. */
enum mmebm_stream {
    MMEBM_STREAM_X = 0,       /* + modality: langevin_x */
    MMEBM_STREAM_Z = 32,      /* + expert: langevin_z */
    MMEBM_STREAM_START = 64,  /* + expert: draws from q */
    MMEBM_STREAM_DATA = 96,   /* + modality: noise on positive samples */
    MMEBM_STREAM_ACCEPT = 128, /* + expert: Metropolis test */
    MMEBM_STREAM_PRIOR = 160,
    MMEBM_STREAM_EXPERT = 161, /* which expert starts a chain */
    MMEBM_STREAM_WEIGHTS = 162,
    MMEBM_STREAM_SPECTRAL = 163,
    MMEBM_STREAM_COMPONENT = 164, /* of a latent mixture: step 0 which one, step 1 starts a fit */
    MMEBM_STREAM_TILT = 165       /* a training's langevin_prior */
};

typedef struct mmebm_philox_block {
    uint32_t word[4];
} mmebm_philox_block;

MMEBM_PHILOX_FN mmebm_philox_block mmebm__philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        const uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        const uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    mmebm_philox_block out;
    out.word[0] = c0;
    out.word[1] = c1;
    out.word[2] = c2;
    out.word[3] = c3;
    return out;
}

/* Four random words for elements 4 block .. 4 block + 3 of a chain's state. */
MMEBM_PHILOX_FN mmebm_philox_block mmebm__random_block(uint64_t seed, uint32_t stream, uint64_t chain, uint32_t step,
                                                      uint32_t block)
{
    return mmebm__philox(seed, block, (uint32_t)chain, step, ((uint32_t)(chain >> 32) << 8) | stream);
}

/* Uniform in (0, 1): (k + 1/2) / 2^23, exact. */
MMEBM_PHILOX_FN float mmebm__uniform(uint32_t word)
{
    return ((float)(word >> 9) + 0.5f) * 0x1p-23f;
}

/* Natural logarithm of u in [2^-24, 1); relative error below 2e-7 (Cephes logf, Horner form). */
MMEBM_PHILOX_FN float mmebm__log_unit(float u)
{
    union {
        float f;
        uint32_t i;
    } bits;
    bits.f = u;
    int32_t exponent = (int32_t)(bits.i >> 23) - 126;
    bits.i = (bits.i & 0x007fffffu) | 0x3f000000u; /* mantissa in [1/2, 1) */
    const int32_t low = bits.f < 0.70710678f;
    exponent -= low;
    const float m = (low ? bits.f + bits.f : bits.f) - 1.0f;
    const float e = (float)exponent;
    const float square = m * m;
    float p = 7.0376836292e-2f;
    p = p * m + -1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m + -1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m + -1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m + -2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float y = m * square;
    y = y * p;
    y = y + e * -2.12194440e-4f;
    y = y - 0.5f * square;
    y = m + y;
    return y + e * 0.693359375f;
}

/* sin and cos of 2 pi times a uniform angle: the top two bits choose the quadrant, the next 22 the place in it. */
MMEBM_PHILOX_FN void mmebm__sin_cos(uint32_t word, float *sine, float *cosine)
{
    const uint32_t quadrant = word >> 30;
    const float t = ((float)((word >> 8) & 0x3fffffu) + 0.5f) * 0x1p-22f - 0.5f;
    const float a = t * 1.57079632679f; /* [-pi/4, pi/4) */
    const float q = a * a;
    float s = -1.9515295891e-4f;
    s = s * q + 8.3321608736e-3f;
    s = s * q + -1.6666654611e-1f;
    s = s * q;
    s = s * a + a;
    float c = 2.443315711809948e-5f;
    c = c * q + -1.388731625493765e-3f;
    c = c * q + 4.166664568298827e-2f;
    c = c * q;
    c = c * q;
    c = c - 0.5f * q;
    c = c + 1.0f;
    const float s0 = (quadrant & 1u) ? c : s;
    const float c0 = (quadrant & 1u) ? s : c;
    *sine = (quadrant & 2u) ? -s0 : s0;
    *cosine = (quadrant == 1u || quadrant == 2u) ? -c0 : c0;
}

/* Four independent standard normals from four words. */
MMEBM_PHILOX_FN void mmebm__normals(mmebm_philox_block b, float out[4])
{
    for (int pair = 0; pair < 2; ++pair) {
        float s, c;
        const float radius = MMEBM_SQRT(-2.0f * mmebm__log_unit(mmebm__uniform(b.word[2 * pair])));
        mmebm__sin_cos(b.word[2 * pair + 1], &s, &c);
        out[2 * pair] = radius * c;
        out[2 * pair + 1] = radius * s;
    }
}

/* A Laplace(0, 1) number by its inverse distribution function, sign(u - 1/2) (-log(1 - 2 |u - 1/2|)); both 2 u and
 * 2 (1 - u) are exact. Element e of a state takes word e % 4 of block e / 4, as its normal would. */
MMEBM_PHILOX_FN float mmebm__laplace(uint32_t word)
{
    const float u = mmebm__uniform(word);
    return u < 0.5f ? mmebm__log_unit(2.0f * u) : -mmebm__log_unit(2.0f * (1.0f - u));
}

/* One of 0 .. count - 1, count <= 2^16, each equally likely to within 2^-16. */
MMEBM_PHILOX_FN uint32_t mmebm__choice(uint32_t word, uint32_t count)
{
    return (uint32_t)(((uint64_t)word * count) >> 32);
}

#endif /* MMEBM_PHILOX_H */
