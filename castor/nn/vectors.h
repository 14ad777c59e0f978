// Eight or sixteen numbers at a time, in float32 and from and to bfloat16: what layers.cpp is written in.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

// As many numbers as a wide register holds: what is wider than registers goes through memory at every step. Where
// registers are narrower than eight numbers, the compiler takes two.
#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));  // wherever it lies
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
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
static inline vec load(const float *at) { return *reinterpret_cast<const vec *>(at); }
static inline vec load(const bf16 *at) {
    return (vec)(__builtin_convertvector(*reinterpret_cast<const hvec *>(at), uvec) << 16);
}

// Two vectors of groups of G lanes: each group's halves added, in one vector of groups of G / 2. Groups keep their order.
template <int G, int... I>
static inline vec halve(vec a, vec b, std::integer_sequence<int, I...>) {
    const ivec low = {I / (G / 2) * G + I % (G / 2)...};
    const ivec high = {I / (G / 2) * G + I % (G / 2) + G / 2 ...};
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}
// The sums of N vectors' lanes, in the first N lanes. A vector is summed in the same order whatever N is.
template <int N, int G = LANES>
static inline vec sums(const vec *x) {
    static_assert(N <= LANES, "as many sums as there are lanes");
    vec halved[(N + 1) / 2];
    for (int i = 0; i < (N + 1) / 2; ++i)
        halved[i] = halve<G>(x[2 * i], x[std::min(2 * i + 1, N - 1)], std::make_integer_sequence<int, LANES>());
    if constexpr (G == 2)
        return halved[0];
    else
        return sums<(N + 1) / 2, G / 2>(halved);
}
static inline void store(float *to, vec x) { *reinterpret_cast<vec *>(to) = x; }
static inline void store(bf16 *to, vec x) {
    uvec bits = (uvec)x;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *reinterpret_cast<hvec *>(to) = __builtin_convertvector(bits, hvec);
}
static inline float sum(vec x) { return sums<1>(&x)[0]; }
static inline vec fill(float x) { return vec{} + x; }

// e^x by range reduction and a polynomial (Cephes' expf): relative error below 2e-7.
static inline vec exp_of(vec x) {
    x = x < -87.0f ? fill(-87.0f) : x;
    x = x > 88.0f ? fill(88.0f) : x;
    vec shifted = x * 1.44269504f + 12582912.0f;  // the integer part in the low bits of the mantissa
    vec whole = shifted - 12582912.0f;
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    vec e = p * r * r + r + 1.0f;
    return e * (vec)((__builtin_convertvector(whole, ivec) + 127) << 23);
}
static inline vec tanh_of(vec x) { return 1.0f - 2.0f / (exp_of(x + x) + 1.0f); }
static inline vec gelu_of(vec x) {  // the tanh approximation: x / 2 * (1 + tanh(u))
    vec u = (x + x * x * x * 0.044715f) * 0.7978845608f;
    return x - x / (exp_of(u + u) + 1.0f);
}
