// Sixteen numbers at a time, in float32 and from and to bfloat16: what layers.cpp is written in.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

// 16 numbers at a time, wherever they lie; the compiler cuts them up for processors with narrower registers.
typedef float f16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint16_t bf16;

static inline float to_float(float x) { return x; }
static inline float to_float(bf16 x) {
    uint32_t bits = uint32_t(x) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline void store(float *to, float x) { *to = x; }
static inline void store(bf16 *to, float x) {  // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    *to = bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static inline f16 load(const float *at) { return *reinterpret_cast<const f16 *>(at); }
static inline f16 load(const bf16 *at) {
    return (f16)(__builtin_convertvector(*reinterpret_cast<const h16 *>(at), u16) << 16);
}

// Two vectors of groups of G lanes: each group's halves added, in one vector of groups of G / 2. Groups keep their order.
template <int G>
static inline f16 halve(f16 a, f16 b) {
    static const i16 first[] = {{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
                                {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27},
                                {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29},
                                {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30}};
    const i16 low = first[G == 16 ? 0 : G == 8 ? 1 : G == 4 ? 2 : 3];
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, low + G / 2);
}
// The sums of N vectors' lanes, in the first N lanes. A vector is summed in the same order whatever N is.
template <int N, int G = 16>
static inline f16 sums(const f16 *x) {
    f16 halved[(N + 1) / 2];
    for (int i = 0; i < (N + 1) / 2; ++i) halved[i] = halve<G>(x[2 * i], x[std::min(2 * i + 1, N - 1)]);
    if constexpr (G == 2)
        return halved[0];
    else
        return sums<(N + 1) / 2, G / 2>(halved);
}
static inline void store(float *to, f16 x) { *reinterpret_cast<f16 *>(to) = x; }
static inline void store(bf16 *to, f16 x) {
    u16 bits = (u16)x;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *reinterpret_cast<h16 *>(to) = __builtin_convertvector(bits, h16);
}
static inline float sum(f16 x) { return sums<1>(&x)[0]; }
static inline f16 fill(float x) { return f16{} + x; }

// e^x by range reduction and a polynomial (Cephes' expf): relative error below 2e-7.
static inline f16 exp16(f16 x) {
    x = x < -87.0f ? fill(-87.0f) : x;
    x = x > 88.0f ? fill(88.0f) : x;
    f16 shifted = x * 1.44269504f + 12582912.0f;  // the integer part in the low bits of the mantissa
    f16 whole = shifted - 12582912.0f;
    f16 r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    f16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    f16 e = p * r * r + r + 1.0f;
    return e * (f16)((__builtin_convertvector(whole, i16) + 127) << 23);
}
static inline f16 tanh16(f16 x) { return 1.0f - 2.0f / (exp16(x + x) + 1.0f); }
static inline f16 gelu16(f16 x) {  // the tanh approximation: x / 2 * (1 + tanh(u))
    f16 u = (x + x * x * x * 0.044715f) * 0.7978845608f;
    return x - x / (exp16(u + u) + 1.0f);
}
