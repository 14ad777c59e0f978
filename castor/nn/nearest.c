/* The nearest of many short codes: bits by their number of differences, 8-bit vectors by their product with a query.

   One pass over the memory; the best so far stand in a heap, worst first, so that almost every row costs one
   comparison beside its score. Plain C without Python: callers give each thread rows of its own. */

#include <stdint.h>

#if defined(__x86_64__)
#define FAST __attribute__((target("avx2,popcnt")))
#else
#define FAST
#endif

/* Whether this processor can run the code below. */
int castor_nearest_able(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
#else
    return 1;
#endif
}

typedef struct {
    float *scores; /* of the best rows, the lowest at 0 once there are `most` */
    int64_t *rows;
    long held, most;
} best_t;

static void sink(best_t *best, long at) {
    const float score = best->scores[at];
    const int64_t row = best->rows[at];
    for (long below; (below = 2 * at + 1) < best->held; at = below) {
        if (below + 1 < best->held && best->scores[below + 1] < best->scores[below]) below++;
        if (best->scores[below] >= score) break;
        best->scores[at] = best->scores[below];
        best->rows[at] = best->rows[below];
    }
    best->scores[at] = score;
    best->rows[at] = row;
}

static void offer(best_t *best, float score, int64_t row) {
    if (best->held < best->most) {
        best->scores[best->held] = score;
        best->rows[best->held++] = row;
        if (best->held == best->most)
            for (long at = best->most / 2 - 1; at >= 0; at--) sink(best, at);
    } else if (score > best->scores[0]) {
        best->scores[0] = score;
        best->rows[0] = row;
        sink(best, 0);
    }
}

/* words [*, width] uint64, query [width]; rows `first` to `end`, or those that `chosen` names at these places.
   Writes up to `most` rows and minus their differences; gives how many. */
FAST long castor_nearest_bits(const uint64_t *words, long width, const uint64_t *query, const int64_t *chosen, long first,
                              long end, long most, int64_t *rows, float *scores) {
    best_t best = {scores, rows, 0, most};
    for (long at = first; at < end; at++) {
        const int64_t row = chosen ? chosen[at] : at;
        const uint64_t *word = words + row * width;
        long different = 0, other = 0, i = 0;
        for (; i + 4 <= width; i += 4) { /* two sums, so that none waits for the one before */
            different += __builtin_popcountll(word[i] ^ query[i]) + __builtin_popcountll(word[i + 1] ^ query[i + 1]);
            other += __builtin_popcountll(word[i + 2] ^ query[i + 2]) + __builtin_popcountll(word[i + 3] ^ query[i + 3]);
        }
        for (; i < width; i++) different += __builtin_popcountll(word[i] ^ query[i]);
        different += other;
        offer(&best, (float)-different, row);
    }
    return best.held;
}

/* codes [*, width] int8 with a scale each, query int8 [width]; as above, scores are scale times product. */
FAST long castor_nearest_bytes(const int8_t *codes, const float *scales, long width, const int8_t *query,
                               const int64_t *chosen, long first, long end, long most, int64_t *rows, float *scores) {
    best_t best = {scores, rows, 0, most};
    for (long at = first; at < end; at++) {
        const int64_t row = chosen ? chosen[at] : at;
        const int8_t *code = codes + row * width;
        int32_t product = 0;
        for (long i = 0; i < width; i++) product += (int16_t)code[i] * (int16_t)query[i];
        offer(&best, scales[row] * (float)product, row);
    }
    return best.held;
}
