/* Products of activations with weights kept in 4 or 8 bits, for x86-64; what `packed.py` calls where it was built.

   y[M, F] = x[M, D] W[F, D]^T, with W in tiles of 16 rows by 32 inputs (see packed.py). Each row of x is rounded to
   int8 in groups of 32 inputs; products within a group are exact integers, and groups are added up in float32, in
   order, with one multiplication and one fused multiply-add each. So every path here gives the same bits for a row,
   whatever rows are beside it: AMX for many rows, VNNI for few, AVX2 for both where there is nothing else.

   Plain C without Python or PyTorch. Threads are those of the OpenMP runtime that the caller hands in (GOMP_parallel),
   since two pools of threads would wait for the same processors. */

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16") /* what is kept in an array of registers must be named by constants */
#define AVX2 __attribute__((target("avx2,fma")))
#define VNNI __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define AMX __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,amx-tile,amx-int8")))

enum { GROUP = 32, ROWS = 16, FEW = 8, AHEAD = 2048, ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
enum { LEVEL_NONE = 0, LEVEL_AVX2 = 1, LEVEL_VNNI = 2, LEVEL_AMX = 3 };
static const float SMALLEST = 1e-30f; /* groups of nothing larger are zero; infinities and NaN come out as NaN */
typedef void (*parallel_fn)(void (*)(void *), void *, unsigned, unsigned);

typedef struct {
    const uint8_t *codes;
    const uint16_t *scales;
    const void *x;
    void *y;
    int8_t *a;       /* rounded x: [M, G, 32], for AMX [M / 16, G, 16, 32] */
    float *sa;       /* its scales: [M, G], for AMX [M / 16, G, 16] */
    int32_t *shift;  /* [M, G]: minus the codes' zero times the group's sum */
    long M, F, D, G, tiles, tiles_at_once, rows_at_once;
    int bits, is_bf16, level;
    atomic_long next, next_rows;
} job_t;

/* --- what this processor has --------------------------------------------------------------------------------- */

static int has_amx_int8(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(d >> 24 & 1) || !(d >> 25 & 1)) return 0; /* amx-tile, amx-int8 */
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* The best path of this processor: 0 none, 1 AVX2, 2 AVX-512 VNNI, 3 AMX int8 beside it. */
int castor_lowbit_level(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return LEVEL_NONE;
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return LEVEL_AVX2;
    return has_amx_int8() ? LEVEL_AMX : LEVEL_VNNI;
}

/* Memory that a thread keeps for its next product. */
static void *scratch(int which, size_t bytes) {
    static _Thread_local void *kept[4];
    static _Thread_local size_t sizes[4];
    if (sizes[which] < bytes) {
        free(kept[which]);
        sizes[which] = (bytes + 4095) / 4096 * 4096;
        kept[which] = aligned_alloc(64, sizes[which]);
        if (!kept[which]) sizes[which] = 0;
    }
    return kept[which];
}

/* --- rounding activations ------------------------------------------------------------------------------------ */

INLINE float bf16_to_float(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* One group as 32 floats, zeros behind the end of the row. */
INLINE void read_group(const job_t *job, long m, long g, float *out) {
    long first = g * GROUP, count = job->D - first < GROUP ? job->D - first : GROUP;
    if (count < GROUP) memset(out, 0, GROUP * sizeof(float));
    if (job->is_bf16) {
        const uint16_t *x = (const uint16_t *)job->x + m * job->D + first;
        for (long k = 0; k < count; k++) out[k] = bf16_to_float(x[k]);
    } else {
        memcpy(out, (const float *)job->x + m * job->D + first, count * sizeof(float));
    }
}

INLINE void place(const job_t *job, long m, long g, int8_t **a, float **sa) {
    if (job->level == LEVEL_AMX) {
        long at = (m / ROWS * job->G + g) * ROWS + m % ROWS;
        *a = job->a + at * GROUP, *sa = job->sa + at;
    } else {
        *a = job->a + (m * job->G + g) * GROUP, *sa = job->sa + m * job->G + g;
    }
}

/* Vectorised by the compiler; compiled twice below. */
INLINE void round_row(const job_t *job, long m) {
    int zero = job->bits == 4 ? 8 : 128;
    for (long g = 0; g < job->G; g++) {
        float x[GROUP], most, *sa;
        int8_t *a;
        int32_t sum = 0, sizes[GROUP], largest = 0;
        read_group(job, m, g, x);
        memcpy(sizes, x, sizeof sizes);
        for (int k = 0; k < GROUP; k++) { /* sizes of floats order as integers do, with NaN above all */
            sizes[k] &= 0x7fffffff;
            largest = sizes[k] > largest ? sizes[k] : largest;
        }
        memcpy(&most, &largest, 4);
        place(job, m, g, &a, &sa);
        float inverse = most <= SMALLEST ? 0.0f : 127.0f / most;
        *sa = most <= SMALLEST ? 0.0f : most / 127.0f;
        for (int k = 0; k < GROUP; k++) {
            /* nearest, ties to even: beyond 2^23 floats are whole */
            float whole = (x[k] * inverse + 12582912.0f) - 12582912.0f;
            int32_t value = (int32_t)whole;
            a[k] = (int8_t)value, sum += value;
        }
        if (job->level != LEVEL_AMX) job->shift[m * job->G + g] = -zero * sum;
    }
}

AVX2 static void round_row_avx2(const job_t *job, long m) { round_row(job, m); }

VNNI static void round_row_vnni(const job_t *job, long m) {
    const __m512i sign = _mm512_set1_epi32(0x7fffffff);
    int zero = job->bits == 4 ? 8 : 128;
    for (long g = 0; g < job->G; g++) {
        __m512 x0, x1;
        long first = g * GROUP, left = job->D - first;
        if (left >= GROUP && !job->is_bf16) {
            const float *x = (const float *)job->x + m * job->D + first;
            x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
        } else if (left >= GROUP) {
            const uint16_t *x = (const uint16_t *)job->x + m * job->D + first;
            __m256i h0 = _mm256_loadu_si256((const void *)x), h1 = _mm256_loadu_si256((const void *)(x + 16));
            x0 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h0), 16));
            x1 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h1), 16));
        } else {
            float x[GROUP];
            read_group(job, m, g, x);
            x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
        }
        __m512i size0 = _mm512_and_si512(_mm512_castps_si512(x0), sign);
        __m512i size1 = _mm512_and_si512(_mm512_castps_si512(x1), sign);
        int32_t largest = _mm512_reduce_max_epi32(_mm512_max_epi32(size0, size1));
        float *sa, most;
        int8_t *a;
        memcpy(&most, &largest, 4);
        float inverse = most <= SMALLEST ? 0.0f : 127.0f / most;
        place(job, m, g, &a, &sa);
        *sa = most <= SMALLEST ? 0.0f : most / 127.0f;
        __m512i i0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, _mm512_set1_ps(inverse)));
        __m512i i1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, _mm512_set1_ps(inverse)));
        _mm_storeu_si128((void *)a, _mm512_cvtepi32_epi8(i0));
        _mm_storeu_si128((void *)(a + 16), _mm512_cvtepi32_epi8(i1));
        if (job->level != LEVEL_AMX)
            job->shift[m * job->G + g] = -zero * _mm512_reduce_add_epi32(_mm512_add_epi32(i0, i1));
    }
}

static void round_rows(void *data) {
    job_t *job = data;
    for (;;) {
        long m = atomic_fetch_add(&job->next_rows, 4), end = m + 4 < job->M ? m + 4 : job->M;
        if (m >= job->M) return;
        for (; m < end; m++) job->level >= LEVEL_VNNI ? round_row_vnni(job, m) : round_row_avx2(job, m);
    }
}

/* --- writing results ------------------------------------------------------------------------------------------ */

INLINE uint16_t float_to_bf16(float value) { /* nearest, ties to even, as PyTorch does it */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* 16 floats as outputs 16 t ... of row m, as many as there are. */
INLINE void write_row(const job_t *job, long m, long t, const float *y) {
    long first = t * ROWS, count = job->F - first < ROWS ? job->F - first : ROWS;
    if (job->is_bf16) {
        uint16_t *out = (uint16_t *)job->y + m * job->F + first;
        for (long n = 0; n < count; n++) out[n] = float_to_bf16(y[n]);
    } else {
        memcpy((float *)job->y + m * job->F + first, y, count * sizeof(float));
    }
}

/* --- AVX2 ------------------------------------------------------------------------------------------------------ */

INLINE AVX2 __m256i quad_avx2(const int8_t *a) {
    int32_t four;
    memcpy(&four, a, 4);
    return _mm256_set1_epi32(four);
}

/* 8 rows of codes times 4 inputs each, added to sums. Of 4-bit codes all 8 lines of a group fit 16 numbers of int16, as
   16 * 15 * 127 does; products of 8-bit codes fit only one line, and only when the sign moves to the activations. */
INLINE AVX2 __m256i dot_avx2(__m256i sums, __m256i w, __m256i a, int bits) {
    if (bits == 4) {
        sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, a));
    } else {
        w = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
        __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    __asm__("" : "+x"(sums)); /* gcc 12 otherwise makes all products first, more than there are registers for */
    return sums;
}

/* The sums of a group in float32. */
INLINE AVX2 __m256 total_avx2(const job_t *job, long at, __m256i sums, int bits) {
    if (bits == 8) return _mm256_cvtepi32_ps(sums);
    sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(sums, _mm256_set1_epi32(job->shift[at])));
}

INLINE AVX2 __m256 scales_avx2(const uint16_t *scales) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)scales));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

INLINE AVX2 void store_avx2(const job_t *job, long m, long t, const __m256 *y) {
    float out[ROWS];
    _mm256_storeu_ps(out, y[0]), _mm256_storeu_ps(out + 8, y[1]);
    write_row(job, m, t, out);
}

/* `num_tiles` tiles of weights times `num_rows` rows of activations, as `block_vnni` does it. */
INLINE AVX2 void block_avx2(const job_t *job, long t, long m, int num_tiles, int num_rows, int bits) {
    const long G = job->G, bytes = bits == 4 ? 256 : 512;
    const __m256i low = _mm256_set1_epi8(15);
    __m256 y[FEW];
    UNROLL for (int i = 0; i < 2 * num_tiles * num_rows; i++) y[i] = _mm256_setzero_ps();
    for (long g = 0; g < G; g++)
        UNROLL for (int i = 0; i < num_tiles; i++) {
            const uint8_t *codes = job->codes + ((t + i) * G + g) * bytes;
            for (int line = 0; line < bytes / 64; line++) _mm_prefetch(codes + AHEAD + line * 64, _MM_HINT_T0);
            UNROLL for (int half = 0; half < 2; half++) {
                __m256i sums[4];
                UNROLL for (int r = 0; r < num_rows; r++) sums[r] = _mm256_setzero_si256();
                UNROLL for (int line = 0; line < bytes / 64; line++) {
                    const __m256i both = _mm256_loadu_si256((const void *)(codes + line * 64 + half * 32));
                    const __m256i first = bits == 4 ? _mm256_and_si256(both, low) : both;
                    const __m256i later = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
                    UNROLL for (int r = 0; r < num_rows; r++) {
                        const int8_t *a = job->a + ((m + r) * G + g) * GROUP + line * 4;
                        sums[r] = dot_avx2(sums[r], first, quad_avx2(a), bits);
                        if (bits == 4) sums[r] = dot_avx2(sums[r], later, quad_avx2(a + 16), bits);
                    }
                }
                const __m256 sw = scales_avx2(job->scales + ((t + i) * G + g) * ROWS + half * 8);
                UNROLL for (int r = 0; r < num_rows; r++) {
                    __m256 *to = &y[(i * num_rows + r) * 2 + half], sa = _mm256_set1_ps(job->sa[(m + r) * G + g]);
                    *to = _mm256_fmadd_ps(total_avx2(job, (m + r) * G + g, sums[r], bits), _mm256_mul_ps(sw, sa), *to);
                }
            }
        }
    UNROLL for (int i = 0; i < num_tiles; i++)
        UNROLL for (int r = 0; r < num_rows; r++) store_avx2(job, m + r, t + i, y + (i * num_rows + r) * 2);
}

/* A tile as bytes, [G, 8, 64], and its scales in float32, [G, 16], for rows to share. */
INLINE AVX2 void spread_avx2(const job_t *job, long t, uint8_t *codes, float *scales, int bits) {
    const __m256i low = _mm256_set1_epi8(15);
    for (long g = 0; g < job->G; g++) {
        const long at = t * job->G + g, bytes = bits == 4 ? 256 : 512;
        const __m256i *from = (const void *)(job->codes + at * bytes);
        __m256i *to = (void *)(codes + g * 512);
        for (int i = 0; i < bytes / 32; i++) {
            __m256i both = _mm256_loadu_si256(from + i);
            to[i] = bits == 4 ? _mm256_and_si256(both, low) : both;
            if (bits == 4) to[i + 8] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        }
        for (int half = 0; half < 2; half++)
            _mm256_store_ps(scales + g * ROWS + half * 8, scales_avx2(job->scales + at * ROWS + half * 8));
    }
}

/* A spread tile times 4 rows of activations, each broadcast number used for both halves of the tile. */
INLINE AVX2 void rows_avx2(const job_t *job, long t, long m, const uint8_t *codes, const float *scales, int bits) {
    const long G = job->G;
    __m256 y[8];
    UNROLL for (int i = 0; i < FEW; i++) y[i] = _mm256_setzero_ps();
    for (long g = 0; g < G; g++) {
        __m256i sums[8];
        UNROLL for (int i = 0; i < FEW; i++) sums[i] = _mm256_setzero_si256();
        UNROLL for (int line = 0; line < 8; line++) {
            const __m256i *w = (const void *)(codes + g * 512 + line * 64), first = w[0], second = w[1];
            UNROLL for (int r = 0; r < 4; r++) {
                const __m256i a = quad_avx2(job->a + ((m + r) * G + g) * GROUP + line * 4);
                sums[2 * r] = dot_avx2(sums[2 * r], first, a, bits);
                sums[2 * r + 1] = dot_avx2(sums[2 * r + 1], second, a, bits);
            }
        }
        UNROLL for (int i = 0; i < FEW; i++) {
            const long at = (m + i / 2) * G + g;
            __m256 sw = _mm256_load_ps(scales + g * ROWS + i % 2 * 8);
            __m256 scale = _mm256_mul_ps(sw, _mm256_set1_ps(job->sa[at]));
            y[i] = _mm256_fmadd_ps(total_avx2(job, at, sums[i], bits), scale, y[i]);
        }
    }
    UNROLL for (int r = 0; r < 4; r++) store_avx2(job, m + r, t, y + 2 * r);
}

INLINE AVX2 void tiles_avx2(job_t *job, int bits) {
    uint8_t *codes = scratch(3, job->G * (512 + ROWS * sizeof(float)));
    float *scales = (float *)(codes + job->G * 512);
    if (!codes) abort(); /* half a megabyte */
    for (long t, step = job->tiles_at_once; (t = atomic_fetch_add(&job->next, step)) < job->tiles;) {
        const long end = t + step < job->tiles ? t + step : job->tiles;
        for (; job->M == 1 && t + 4 <= end; t += 4) block_avx2(job, t, 0, 4, 1, bits);
        for (; t < end; t++) {
            long m = 0;
            if (job->M >= ROWS) {
                spread_avx2(job, t, codes, scales, bits);
                for (; m + 4 <= job->M; m += 4) rows_avx2(job, t, m, codes, scales, bits);
            }
            for (; m + 4 <= job->M; m += 4) block_avx2(job, t, m, 1, 4, bits);
            for (; m + 2 <= job->M; m += 2) block_avx2(job, t, m, 1, 2, bits);
            for (; m < job->M; m++) block_avx2(job, t, m, 1, 1, bits);
        }
    }
}

AVX2 static void work_avx2(void *data) {
    job_t *job = data;
    if (job->bits == 4) tiles_avx2(job, 4);
    else tiles_avx2(job, 8);
}

/* --- AVX-512 VNNI ---------------------------------------------------------------------------------------------- */

INLINE VNNI __m512 scales_vnni(const job_t *job, long t, long g) {
    __m256i half = _mm256_loadu_si256((const void *)(job->scales + (t * job->G + g) * ROWS));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* The codes of one group of a tile as 8 lines: 16 rows by 4 inputs each, unsigned bytes. */
INLINE VNNI void unpack_vnni(const uint8_t *codes, int bits, __m512i *w) {
    const __m512i low = _mm512_set1_epi8(15);
    if (bits == 4) {
        for (int line = 0; line < 4; line++) {
            __m512i both = _mm512_loadu_si512(codes + line * 64);
            w[line] = _mm512_and_si512(both, low);
            w[line + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
    } else {
        for (int line = 0; line < 8; line++) w[line] = _mm512_loadu_si512(codes + line * 64);
    }
}

INLINE VNNI __m512i quad(const int8_t *a) {
    int32_t four;
    memcpy(&four, a, 4);
    return _mm512_set1_epi32(four);
}

/* 16 results as outputs 16 t ... of row m, as many as there are. */
INLINE VNNI void store_vnni(const job_t *job, long m, long t, __m512 y) {
    const long first = t * ROWS, at = m * job->F + first;
    const __mmask16 mask = job->F - first < ROWS ? (__mmask16)((1u << (job->F - first)) - 1) : 0xffff;
    if (!job->is_bf16) {
        _mm512_mask_storeu_ps((float *)job->y + at, mask, y);
        return;
    }
    const __m512i bits = _mm512_castps_si512(y), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i half = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    half = _mm512_mask_set1_epi32(half, _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q), 0x7fc0);
    _mm256_mask_storeu_epi16((uint16_t *)job->y + at, mask, _mm512_cvtepi32_epi16(half));
}

/* `num_tiles` tiles of weights times `num_rows` rows of activations; both known when this is compiled. Several tiles
   at once, for one row, keep more of the memory busy; several rows share the unpacking. */
INLINE VNNI void block_vnni(const job_t *job, long t, long m, int num_tiles, int num_rows, int bits) {
    const long G = job->G, bytes = bits == 4 ? 256 : 512;
    __m512 y[FEW];
    UNROLL for (int i = 0; i < num_tiles * num_rows; i++) y[i] = _mm512_setzero_ps();
    for (long g = 0; g < G; g++) {
        UNROLL for (int i = 0; i < num_tiles; i++) {
            const uint8_t *codes = job->codes + ((t + i) * G + g) * bytes;
            for (int line = 0; line < bytes / 64; line++) _mm_prefetch(codes + AHEAD + line * 64, _MM_HINT_T0);
            __m512i w[8];
            unpack_vnni(codes, bits, w);
            __m512 sw = scales_vnni(job, t + i, g);
            UNROLL for (int r = 0; r < num_rows; r++) {
                const long at = (m + r) * G + g;
                const int8_t *a = job->a + at * GROUP;
                __m512i one = _mm512_set1_epi32(job->shift[at]), two = _mm512_setzero_si512();
                UNROLL for (int line = 0; line < 4; line++) {
                    one = _mm512_dpbusd_epi32(one, w[line], quad(a + line * 4));
                    two = _mm512_dpbusd_epi32(two, w[line + 4], quad(a + 16 + line * 4));
                }
                __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(one, two));
                __m512 scale = _mm512_mul_ps(sw, _mm512_set1_ps(job->sa[at]));
                y[i * num_rows + r] = _mm512_fmadd_ps(sum, scale, y[i * num_rows + r]);
            }
        }
    }
    UNROLL for (int i = 0; i < num_tiles; i++)
        UNROLL for (int r = 0; r < num_rows; r++) store_vnni(job, m + r, t + i, y[i * num_rows + r]);
}

#define BLOCK(tiles, rows) \
    do { \
        if (job->bits == 4) block_vnni(job, t, m, tiles, rows, 4); \
        else block_vnni(job, t, m, tiles, rows, 8); \
    } while (0)

VNNI static void one_row_vnni(const job_t *job, long t, long count) {
    const long m = 0, end = t + count;
    for (; t + 4 <= end; t += 4) BLOCK(4, 1);
    for (; t < end; t++) BLOCK(1, 1);
}

VNNI static void rows_vnni(const job_t *job, long t, long m, long count) {
    switch (count) {
        case 1: BLOCK(1, 1); break;
        case 2: BLOCK(1, 2); break;
        case 3: BLOCK(1, 3); break;
        case 4: BLOCK(1, 4); break;
        case 5: BLOCK(1, 5); break;
        case 6: BLOCK(1, 6); break;
        case 7: BLOCK(1, 7); break;
        case 8: BLOCK(1, 8); break;
    }
}

/* --- AMX ------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) tiles_t;

/* Sums in 0 and 3 (16 rows of 16 int32), activations in 1 (16 rows of 32 bytes), weights in 2 (8 lines of 64). */
static void configure(tiles_t *config) {
    memset(config, 0, sizeof *config);
    config->palette = 1;
    for (int tile = 0; tile < 4; tile++) config->rows[tile] = 16, config->colsb[tile] = 64;
    config->colsb[1] = GROUP, config->rows[2] = 8;
    __asm__ volatile("" ::: "memory"); /* gcc 12 otherwise takes these stores for dead */
}

/* All codes of a tile as signed bytes, [G, 8, 64]. */
AMX static void unpack_amx(const job_t *job, long t, uint8_t *out) {
    const __m512i zero = _mm512_set1_epi8(job->bits == 4 ? 8 : (char)128);
    const long bytes = job->bits == 4 ? 256 : 512;
    for (long g = 0; g < job->G; g++) {
        __m512i w[8];
        unpack_vnni(job->codes + (t * job->G + g) * bytes, job->bits, w);
        for (int line = 0; line < 8; line++)
            _mm512_store_si512(out + g * 512 + line * 64, _mm512_sub_epi8(w[line], zero));
    }
}

INLINE AMX void add_group(const int32_t *sums, __m512 sw, const float *sa, __m512 *y) {
    UNROLL for (int r = 0; r < ROWS; r++) {
        __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * 16));
        y[r] = _mm512_fmadd_ps(sum, _mm512_mul_ps(sw, _mm512_set1_ps(sa[r])), y[r]);
    }
}

/* 16 rows of activations, the block `b`, times one tile of weights; the next group multiplies while one is added. */
AMX static void block_amx(const job_t *job, long t, long b, const uint8_t *weights) {
    const long G = job->G;
    const int8_t *a = job->a + b * G * ROWS * GROUP;
    const float *sa = job->sa + b * G * ROWS;
    int32_t sums[2][256] __attribute__((aligned(64)));
    __m512 y[ROWS];
    UNROLL for (int r = 0; r < ROWS; r++) y[r] = _mm512_setzero_ps();
#define MULTIPLY(tile, g) \
    _tile_zero(tile); \
    _tile_loadd(1, a + (g) * ROWS * GROUP, GROUP); \
    _tile_loadd(2, weights + (g) * 512, 64); \
    _tile_dpbssd(tile, 1, 2); \
    _tile_stored(tile, sums[(tile) / 3], 64);
    MULTIPLY(0, 0)
    for (long g = 0; g < G; g += 2) {
        if (g + 1 < G) { MULTIPLY(3, g + 1) }
        add_group(sums[0], scales_vnni(job, t, g), sa + g * ROWS, y);
        if (g + 1 == G) break;
        if (g + 2 < G) { MULTIPLY(0, g + 2) }
        add_group(sums[1], scales_vnni(job, t, g + 1), sa + (g + 1) * ROWS, y);
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        if (b * ROWS + r < job->M) store_vnni(job, b * ROWS + r, t, y[r]);
}

/* --- all of it ------------------------------------------------------------------------------------------------- */

AMX static void work_amx(void *data) {
    job_t *job = data;
    tiles_t before, config;
    const long blocks = (job->M + ROWS - 1) / ROWS, passes = (blocks + job->rows_at_once - 1) / job->rows_at_once;
    uint8_t *weights = scratch(3, job->G * 512);
    if (!weights) abort(); /* half a megabyte */
    _tile_storeconfig(&before);
    configure(&config);
    _tile_loadconfig(&config);
    for (long at; (at = atomic_fetch_add(&job->next, 1)) < passes * job->tiles;) {
        long t = at % job->tiles, first = at / job->tiles * job->rows_at_once;
        long end = first + job->rows_at_once < blocks ? first + job->rows_at_once : blocks;
        unpack_amx(job, t, weights);
        for (long b = first; b < end; b++) block_amx(job, t, b, weights);
    }
    if (before.palette) _tile_loadconfig(&before);
    else _tile_release();
}

static void work_vnni(void *data) {
    job_t *job = data;
    const long step = job->tiles_at_once;
    for (long t; (t = atomic_fetch_add(&job->next, step)) < job->tiles;) {
        long count = t + step < job->tiles ? step : job->tiles - t;
        if (job->M == 1) {
            one_row_vnni(job, t, count);
            continue;
        }
        for (long end = t + count; t < end; t++)
            for (long m = 0; m < job->M;) {
                long rows = job->M - m < FEW ? job->M - m : FEW;
                rows_vnni(job, t, m, rows);
                m += rows;
            }
    }
}

static void run(parallel_fn parallel, void (*part)(void *), job_t *job, int threads) {
    if (threads > 1 && parallel) parallel(part, job, threads, 0);
    else part(job);
}

/* y = x W^T at a level that this processor has. Returns 0, or 1 where there was no memory. */
int castor_lowbit_product(const void *codes, const void *scales, const void *x, void *y, long M, long F, long D,
                          int bits, int is_bf16, int level, int threads, void *parallel) {
    job_t job = {.codes = codes, .scales = scales, .x = x, .y = y, .M = M, .F = F, .D = D, .bits = bits};
    job.is_bf16 = is_bf16, job.G = (D + GROUP - 1) / GROUP, job.tiles = (F + ROWS - 1) / ROWS;
    job.level = level == LEVEL_AMX && M < ROWS ? LEVEL_VNNI : level;
    const long rows = (M + ROWS - 1) / ROWS * ROWS, groups = rows * job.G;
    job.a = scratch(0, groups * GROUP), job.sa = scratch(1, groups * sizeof(float));
    job.shift = scratch(2, groups * sizeof(int32_t));
    if (!job.a || !job.sa || !job.shift) return 1;
    if (job.level == LEVEL_AMX && M % ROWS) { /* rows that are not there */
        memset(job.a + (rows - ROWS) * job.G * GROUP, 0, ROWS * job.G * GROUP);
        memset(job.sa + (rows - ROWS) * job.G, 0, ROWS * job.G * sizeof(float));
    }
    if (F * D * M < 1 << 17) threads = 1; /* done sooner than another thread wakes up */
    run(parallel, round_rows, &job, M < 16 ? 1 : threads);
    job.tiles_at_once = M == 1 ? 4 : 1;
    job.rows_at_once = (1 << 20) / (job.G * GROUP * ROWS); /* blocks of activations that stay in the second cache */
    if (job.rows_at_once < 4) job.rows_at_once = 4;
    run(parallel, job.level == LEVEL_AMX ? work_amx : job.level == LEVEL_VNNI ? work_vnni : work_avx2, &job, threads);
    return 0;
}

/* The same in three parts, for a caller whose threads are at work already: one of them calls `begin`, then all of them
   `round`, and when all have come back from that, all of them `work`; y is there when all have come back. `job` and
   `room` are the caller's memory until then, of so many bytes, at multiples of 64. Several jobs may have the input of one
   that is `like` them, whose rows alone are rounded then. For float32, and below AMX. */
long castor_lowbit_job_bytes(void) { return (sizeof(job_t) + 63) / 64 * 64; }

long castor_lowbit_room_bytes(long M, long D) {
    return M * ((D + GROUP - 1) / GROUP) * (long)(GROUP + sizeof(float) + sizeof(int32_t)) + 64;
}

void castor_lowbit_begin(void *place, const void *codes, const void *scales, const float *x, float *y, long M, long F,
                         long D, int bits, int level, void *room, const void *like) {
    job_t *job = place;
    const long groups = M * ((D + GROUP - 1) / GROUP);
    memset(job, 0, sizeof *job);
    job->codes = codes, job->scales = scales, job->x = x, job->y = y, job->M = M, job->F = F, job->D = D;
    job->bits = bits, job->level = level, job->G = (D + GROUP - 1) / GROUP, job->tiles = (F + ROWS - 1) / ROWS;
    job->tiles_at_once = M == 1 ? 4 : 1;
    job->a = room, job->sa = (float *)(job->a + groups * GROUP), job->shift = (int32_t *)(job->sa + groups);
    if (like) job->a = ((job_t *)like)->a, job->sa = ((job_t *)like)->sa, job->shift = ((job_t *)like)->shift;
}

void castor_lowbit_round(void *job) { round_rows(job); }

void castor_lowbit_work(void *job) { ((job_t *)job)->level >= LEVEL_VNNI ? work_vnni(job) : work_avx2(job); }

/* Rows of the matrix in float32, out[count, D], by their numbers. */
void castor_lowbit_rows(const uint8_t *codes, const uint16_t *scales, const int64_t *numbers, float *out, long count,
                        long D, int bits) {
    const long G = (D + GROUP - 1) / GROUP, lines = bits == 4 ? 4 : 8;
    for (long n = 0; n < count; n++) {
        const long t = numbers[n] / ROWS, r = numbers[n] % ROWS;
        for (long k = 0; k < D; k++) {
            const long g = k / GROUP, quad = k % GROUP / 4, at = t * G + g;
            const uint8_t code = codes[((at * lines + quad % lines) * ROWS + r) * 4 + k % 4];
            const int value = bits == 8 ? code - 128 : (quad < 4 ? code & 15 : code >> 4) - 8;
            out[n * D + k] = (float)value * bf16_to_float(scales[at * ROWS + r]);
        }
    }
}

/* --- packing ----------------------------------------------------------------------------------------------------- */

typedef float (*round_fn)(const float *w, float scale, float half, int32_t *steps);

typedef struct {
    job_t matrix; /* x [M, D] is the matrix, in float32 or bfloat16 */
    uint8_t *codes;
    uint16_t *scales;
    const float *shares;
    int num_shares;
    round_fn round;
} packing_t;

/* 32 weights as whole multiples of a scale; gives the squared error. Both forms round every weight alike; their sums of
   errors may differ in the last bit. */
VNNI static float round_group_vnni(const float *w, float scale, float half, int32_t *steps) {
    const __m512 low = _mm512_set1_ps(-half), high = _mm512_set1_ps(half - 1), by = _mm512_set1_ps(scale);
    __m512 error = _mm512_setzero_ps();
    for (int i = 0; i < GROUP; i += 16) {
        const __m512 x = _mm512_loadu_ps(w + i);
        __m512 step = scale == 0 ? _mm512_setzero_ps() : _mm512_div_ps(x, by);
        step = _mm512_roundscale_ps(step, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        step = _mm512_min_ps(_mm512_max_ps(step, low), high);
        const __m512 lost = _mm512_sub_ps(_mm512_mul_ps(step, by), x);
        error = _mm512_fmadd_ps(lost, lost, error);
        _mm512_storeu_si512(steps + i, _mm512_cvtps_epi32(step));
    }
    return _mm512_reduce_add_ps(error);
}

AVX2 static float round_group_avx2(const float *w, float scale, float half, int32_t *steps) {
    const __m256 low = _mm256_set1_ps(-half), high = _mm256_set1_ps(half - 1), by = _mm256_set1_ps(scale);
    __m256 error = _mm256_setzero_ps();
    for (int i = 0; i < GROUP; i += 8) {
        const __m256 x = _mm256_loadu_ps(w + i);
        __m256 step = scale == 0 ? _mm256_setzero_ps() : _mm256_div_ps(x, by);
        step = _mm256_round_ps(step, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        step = _mm256_min_ps(_mm256_max_ps(step, low), high);
        const __m256 lost = _mm256_sub_ps(_mm256_mul_ps(step, by), x);
        error = _mm256_fmadd_ps(lost, lost, error);
        _mm256_storeu_si256((void *)(steps + i), _mm256_cvtps_epi32(step));
    }
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(error), _mm256_extractf128_ps(error, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

static void pack_tiles(void *data) {
    packing_t *job = data;
    job_t *matrix = &job->matrix;
    const int half = matrix->bits == 4 ? 8 : 128, lines = matrix->bits == 4 ? 4 : 8;
    for (long t; (t = atomic_fetch_add(&matrix->next, 1)) < matrix->tiles;)
        for (long r = 0; r < ROWS; r++)
            for (long g = 0; g < matrix->G; g++) {
                float w[GROUP] = {0}, most = 0, best = 0, least = 0;
                int32_t whole[GROUP] = {0}, now[GROUP];
                if (t * ROWS + r < matrix->M) read_group(matrix, t * ROWS + r, g, w);
                for (int k = 0; k < GROUP; k++)
                    if (__builtin_fabsf(w[k]) > __builtin_fabsf(most)) most = w[k];
                for (int i = 0; i < job->num_shares; i++) {
                    float scale = bf16_to_float(float_to_bf16(most / -half * job->shares[i]));
                    float error = job->round(w, scale, (float)half, now);
                    if (i && !(error < least)) continue;
                    best = scale, least = error;
                    memcpy(whole, now, sizeof whole);
                }
                uint8_t *out = job->codes + (t * matrix->G + g) * lines * 64 + r * 4;
                for (int k = 0; k < (lines == 4 ? 16 : GROUP); k++) {
                    int code = whole[k] + half;
                    if (lines == 4) code |= (whole[k + 16] + half) << 4;
                    out[k / 4 * 64 + k % 4] = (uint8_t)code;
                }
                job->scales[(t * matrix->G + g) * ROWS + r] = float_to_bf16(best);
            }
}

/* A matrix w [F, D] as codes and scales, as `pack` of packed.py makes them, at a level that this processor has. */
void castor_lowbit_pack(const void *w, long F, long D, int is_bf16, int bits, int level, const float *shares,
                        int num_shares, uint8_t *codes, uint16_t *scales, int threads, void *parallel) {
    packing_t job = {.codes = codes, .scales = scales, .shares = shares, .num_shares = num_shares};
    job.round = level >= LEVEL_VNNI ? round_group_vnni : round_group_avx2;
    job.matrix.x = w, job.matrix.M = F, job.matrix.D = D, job.matrix.bits = bits, job.matrix.is_bf16 = is_bf16;
    job.matrix.G = (D + GROUP - 1) / GROUP, job.matrix.tiles = (F + ROWS - 1) / ROWS;
    if (threads > 1 && parallel) ((parallel_fn)parallel)(pack_tiles, &job, threads, 0);
    else pack_tiles(&job);
}

/* --- how fast memory is read ------------------------------------------------------------------------------------ */

typedef struct {
    const uint8_t *bytes;
    long chunks, chunk;
    atomic_long next;
} reading_t;

AVX2 static void read_chunks(void *data) {
    reading_t *job = data;
    for (long at; (at = atomic_fetch_add(&job->next, 1)) < job->chunks;) {
        const uint8_t *here = job->bytes + at * job->chunk;
        __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
        for (long i = 0; i < job->chunk; i += 128) {
            a = _mm256_xor_si256(a, _mm256_loadu_si256((const void *)(here + i)));
            b = _mm256_xor_si256(b, _mm256_loadu_si256((const void *)(here + i + 32)));
            c = _mm256_xor_si256(c, _mm256_loadu_si256((const void *)(here + i + 64)));
            d = _mm256_xor_si256(d, _mm256_loadu_si256((const void *)(here + i + 96)));
        }
        __m256i all = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
        __asm__ volatile("" ::"x"(all)); /* somebody wants it */
    }
}

/* Read `bytes` bytes, a multiple of `chunk`, once, in chunks (multiples of 128) that threads take in turn. */
void castor_lowbit_read(const void *bytes, long count, long chunk, int threads, void *parallel) {
    reading_t job = {.bytes = bytes, .chunks = count / chunk, .chunk = chunk};
    if (threads > 1 && parallel) ((parallel_fn)parallel)(read_chunks, &job, threads, 0);
    else read_chunks(&job);
}
#endif
