// Layers for inference on a CPU: a whole decode step in one call, and the work between products on many rows.
//
// The plain forms are torch's: Decoder.embed, run and project over a BlockCache; rms_norm, rotate and FeedForward. This
// computes the same with float32 in between. Weights, keys and values are float32 or bfloat16. Every sum runs in one
// order whatever the number of rows, so that a row's result does not depend on its company. Built by native.py with
// plain C types, so that no header of torch is needed. Matrices in 4 or 8 bits are multiplied by `lowbit.c`, whose
// functions the caller hands in. The decode step leaves out experts, per-layer inputs, shared keys and biases: such
// models take the plain form.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "vectors.h"

struct Packed {  // a matrix in few bits
    const void *codes, *scales;
};

struct Lowbit {  // functions of lowbit.c
    void (*begin)(void *job, const void *codes, const void *scales, const float *x, float *y, long rows, long out,
                  long in, int bits, int level, void *room, const void *like);
    void (*round)(void *job);
    void (*work)(void *job);
    void (*rows)(const void *codes, const void *scales, const int64_t *ids, float *out, long count, long dim, int bits);
    int64_t job_bytes, room_bytes;  // of one job, and of the widest input of these rows
};

struct Layer {
    const void *q, *k, *v, *o, *gate, *up, *down;  // [out, in], or Packed; v null: the values are the keys' product
    const float *input_norm, *post_attention_norm, *pre_feedforward_norm, *post_feedforward_norm, *q_norm, *k_norm;
    void *room;  // [block, token, 2, K, H]
    const float *frequency;  // [H / 2]
    float scalar;
    int32_t heads, key_heads, head_dim, inner, kind;
};

struct Model {
    const Layer *layers;
    const void *embedding;  // [V, D] or Packed, the output projection too
    const float *norm;
    float eps, embed_scale, soft_cap;  // soft_cap 0: none
    int32_t num_layers, dim, vocab, is_bf16, block_tokens;
    int32_t window[2];  // by kind; 0: everything
    int32_t bits, table_bits, level;  // of packed matrices and the packed table, and of the processor; bits 0: none is
};

struct Rows {
    const int64_t *ids, *positions;  // [B]
    const int32_t *table[2], *first[2];  // by kind: blocks [B, width], and how many blocks before them are gone [B]
    float *logits;  // [B, V]
    const Lowbit *lowbit;  // null where nothing is packed
    int32_t count, width[2];
};

struct Target {  // a product with an input that others share
    const void *matrix;
    float *to;
    int64_t out;
};

// The sums of N vectors, to out[0..N).
template <int N>
static inline void write_sums(const vec *x, float *out) {
    if constexpr (N > LANES) {
        write_sums<LANES>(x, out);
        write_sums<N - LANES>(x + LANES, out + LANES);
    } else {
        vec total = sums<N>(x);
        for (int i = 0; i < N; ++i) out[i] = total[i];
    }
}

// R rows of the weights times C rows of the input: y[c][r]. One accumulator for each pair, in rising order of k.
template <class W, int R, int C>
static void products(const W *w, const float *x, float *y, int64_t in, int64_t out) {
    vec acc[C * R];
    for (int i = 0; i < C * R; ++i) acc[i] = vec{};
    int64_t k = 0;
    for (; k + LANES <= in; k += LANES) {
        vec wide[R];
        for (int r = 0; r < R; ++r) wide[r] = load(w + r * in + k);
        for (int c = 0; c < C; ++c) {
            vec own = load(x + c * in + k);
            for (int r = 0; r < R; ++r) acc[c * R + r] += wide[r] * own;
        }
    }
    float total[C * R];
    write_sums<C * R>(acc, total);
    for (int c = 0; c < C; ++c)
        for (int r = 0; r < R; ++r) y[c * out + r] = total[c * R + r];
    for (; k < in; ++k)
        for (int c = 0; c < C; ++c)
            for (int r = 0; r < R; ++r) y[c * out + r] += to_float(w[r * in + k]) * x[c * in + k];
}

// The same for any number of rows of the input from the c-th on, C at a time and what is left in fewer.
template <class W, int R, int C>
static void row_products(const W *w, const float *x, float *y, int64_t in, int64_t out, int rows, int c = 0) {
    for (; c + C <= rows; c += C) products<W, R, C>(w, x + c * in, y + c * out, in, out);
    if constexpr (C > 1) row_products<W, R, C - 1>(w, x, y, in, out, rows, c);
}

// Rows [from, to) of the weights times all B rows of the input, into y [B, out]. Accumulators stay in registers.
template <class W>
static void matmul(const W *w, const float *x, float *y, int64_t in, int64_t out, int64_t from, int64_t to, int rows) {
    constexpr int at_once = LANES == 16 ? 4 : 3;
    int64_t r = from;
    if (rows == 1)
        for (; r + 8 <= to; r += 8) products<W, 8, 1>(w + r * in, x, y + r, in, out);
    for (; r + 4 <= to; r += 4) row_products<W, 4, at_once>(w + r * in, x, y + r, in, out, rows);
    for (; r < to; ++r) row_products<W, 1, 1>(w + r * in, x, y + r, in, out, rows);
}

static float inverse_rms(const float *x, int64_t n, float eps) {
    vec acc = {};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) acc += load(x + i) * load(x + i);
    float total = sum(acc);
    for (; i < n; ++i) total += x[i] * x[i];
    return 1.0f / std::sqrt(total / n + eps);
}

static void normalise(const float *x, const float *weight, float *y, int64_t n, float eps) {
    float scale = inverse_rms(x, n, eps);
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale * (weight ? weight[i] : 1.0f);
}

static void rotate(float *x, const float *angle, int64_t dim) {  // angle: cosines, then sines
    int64_t half = dim / 2;
    for (int64_t i = 0; i < half; ++i) {
        float first = x[i], second = x[i + half];
        x[i] = first * angle[i] - second * angle[half + i];
        x[i + half] = second * angle[i] + first * angle[half + i];
    }
}

template <class W>
struct Step {
    const Model &model;
    const Rows &rows;
    std::vector<float> x, normed, q, k, v, mixed, moved, inner, other;
    std::vector<char> memory;  // of packed products: three jobs, and their rounded input
    char *jobs = nullptr;

    Step(const Model &m, const Rows &r) : model(m), rows(r) {
        int64_t width = 0, key_width = 0, wide = 0;
        for (int i = 0; i < m.num_layers; ++i) {
            const Layer &l = m.layers[i];
            width = std::max<int64_t>(width, l.heads * l.head_dim);
            key_width = std::max<int64_t>(key_width, l.key_heads * l.head_dim);
            wide = std::max<int64_t>(wide, l.inner);
        }
        int64_t b = r.count;
        for (auto *of_dim : {&x, &normed, &moved}) of_dim->resize(b * m.dim);
        q.resize(b * width), mixed.resize(b * width), k.resize(b * key_width), v.resize(b * key_width);
        inner.resize(b * wide);
        if (m.bits) {
            other.resize(b * wide);
            memory.resize(3 * r.lowbit->job_bytes + r.lowbit->room_bytes + 64);
            jobs = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
        }
    }

    const W *weights(const void *at) const { return static_cast<const W *>(at); }

    // Every thread takes runs of the output until none is left. Nobody waits at the end.
    void begin_product(const void *w, const float *from, float *to, int64_t in, int64_t out) {
        int64_t run = std::max<int64_t>(8, (32768 / in + 7) / 8 * 8), count = (out + run - 1) / run;
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t i = 0; i < count; ++i)
            matmul<W>(weights(w), from, to, in, out, i * run, std::min(out, (i + 1) * run), rows.count);
    }
    void product(const void *w, const float *from, float *to, int64_t in, int64_t out) {
        if (model.bits) return packed_products({{w, to, out}}, from, in, model.bits);
        begin_product(w, from, to, in, out);
#pragma omp barrier
    }

    // Up to three products with matrices of few bits; the input is rounded once.
    void packed_products(std::initializer_list<Target> targets, const float *from, int64_t in, int bits) {
        const int64_t size = rows.lowbit->job_bytes;
#pragma omp single
        {
            char *job = jobs, *room = jobs + 3 * size;
            for (const Target &each : targets) {
                const Packed *w = static_cast<const Packed *>(each.matrix);
                rows.lowbit->begin(job, w->codes, w->scales, from, each.to, rows.count, each.out, in, bits, model.level,
                                   room, job == jobs ? nullptr : jobs);
                job += size;
            }
        }
        rows.lowbit->round(jobs);
#pragma omp barrier
        for (size_t i = 0; i < targets.size(); ++i) rows.lowbit->work(jobs + i * size);
#pragma omp barrier
    }

    void normalise_rows(const float *weight) {
#pragma omp for schedule(static)
        for (int b = 0; b < rows.count; ++b)
            normalise(&x[b * model.dim], weight, &normed[b * model.dim], model.dim, model.eps);
    }

    // x += norm(moved) and then times a scalar; normed = norm(x) for what comes next
    void add_rows(const float *weight, float scalar, const float *next) {
#pragma omp for schedule(static)
        for (int b = 0; b < rows.count; ++b) {
            float *own = &x[b * model.dim], *added = &moved[b * model.dim];
            float scale = inverse_rms(added, model.dim, model.eps);
            for (int64_t i = 0; i < model.dim; ++i) own[i] = (own[i] + added[i] * scale * weight[i]) * scalar;
            normalise(own, next, &normed[b * model.dim], model.dim, model.eps);
        }
    }

    void qkv(const Layer &l) {
        int64_t width = l.heads * l.head_dim, key_width = l.key_heads * l.head_dim;
        if (model.bits && l.v)
            return packed_products({{l.q, q.data(), width}, {l.v, v.data(), key_width}, {l.k, k.data(), key_width}},
                                   normed.data(), model.dim, model.bits);
        if (model.bits)
            return packed_products({{l.q, q.data(), width}, {l.k, k.data(), key_width}}, normed.data(), model.dim,
                                   model.bits);
        begin_product(l.q, normed.data(), q.data(), model.dim, width);
        if (l.v) begin_product(l.v, normed.data(), v.data(), model.dim, key_width);
        product(l.k, normed.data(), k.data(), model.dim, key_width);
    }

    W *slot(const Layer &l, int b, int64_t position) const {
        int64_t size = model.block_tokens, at = position / size - rows.first[l.kind][b];
        int64_t block = rows.table[l.kind][b * rows.width[l.kind] + at];
        return static_cast<W *>(l.room) + (block * size + position % size) * 2 * l.key_heads * l.head_dim;
    }

    // norms and turns of queries and keys; what is new goes to the cache
    void place(const Layer &l) {
        int64_t dim = l.head_dim, heads = l.heads, key_heads = l.key_heads;
#pragma omp for schedule(static)
        for (int b = 0; b < rows.count; ++b) {
            std::vector<float> angle(dim), value(dim);
            for (int64_t i = 0; i < dim / 2; ++i) {
                float at = float(rows.positions[b]) * l.frequency[i];
                angle[i] = std::cos(at), angle[dim / 2 + i] = std::sin(at);
            }
            for (int64_t n = 0; n < heads; ++n) {
                float *own = &q[(b * heads + n) * dim];
                normalise(own, l.q_norm, own, dim, model.eps);
                rotate(own, angle.data(), dim);
            }
            W *to = slot(l, b, rows.positions[b]);
            for (int64_t n = 0; n < key_heads; ++n) {
                float *key = &k[(b * key_heads + n) * dim];
                normalise(l.v ? &v[(b * key_heads + n) * dim] : key, nullptr, value.data(), dim, model.eps);
                normalise(key, l.k_norm, key, dim, model.eps);
                rotate(key, angle.data(), dim);
                for (int64_t i = 0; i < dim; ++i) {
                    store(to + n * dim + i, key[i]);
                    store(to + (key_heads + n) * dim + i, value[i]);
                }
            }
        }
    }

    void attend(const Layer &l) {
        int64_t dim = l.head_dim, group = l.heads / l.key_heads, stride = 2 * l.key_heads * dim;
#pragma omp for schedule(dynamic, 1)
        for (int64_t at = 0; at < int64_t(rows.count) * l.heads; ++at) {
            int b = at / l.heads;
            int64_t n = at % l.heads, last = rows.positions[b], window = model.window[l.kind];
            int64_t first = window ? std::max<int64_t>(0, last - window + 1) : 0, size = model.block_tokens;
            std::vector<float> score((last - first + LANES) / LANES * LANES, -1e30f);
            const float *query = &q[at * dim];
            float most = -1e30f;
            for (int64_t p = first; p <= last;) {
                const W *key = slot(l, b, p) + n / group * dim;
                for (int64_t stop = std::min(last + 1, (p / size + 1) * size); p < stop; ++p, key += stride) {
                    products<W, 1, 1>(key, query, &score[p - first], dim, 1);
                    most = std::max(most, score[p - first]);
                }
            }
            vec total = {};
            for (size_t i = 0; i < score.size(); i += LANES) {
                vec e = exp_of(load(&score[i]) - most);
                for (int64_t lane = last - first - int64_t(i) + 1; lane < LANES; ++lane) e[lane] = 0;
                store(&score[i], e);
                total += e;
            }
            float *out = &mixed[at * dim], scale = 1.0f / sum(total);
            std::fill(out, out + dim, 0.0f);
            for (int64_t p = first; p <= last;) {
                const W *value = slot(l, b, p) + (l.key_heads + n / group) * dim;
                for (int64_t stop = std::min(last + 1, (p / size + 1) * size); p < stop; ++p, value += stride) {
                    float share = score[p - first] * scale;
                    int64_t i = 0;
                    for (; i + LANES <= dim; i += LANES)
                        *reinterpret_cast<vec *>(out + i) += load(value + i) * share;
                    for (; i < dim; ++i) out[i] += to_float(value[i]) * share;
                }
            }
        }
    }

    void packed_feed_forward(const Layer &l) {
        packed_products({{l.gate, inner.data(), l.inner}, {l.up, other.data(), l.inner}}, normed.data(), model.dim,
                        model.bits);
        const int64_t count = int64_t(rows.count) * l.inner;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count / LANES; ++i)
            store(&inner[LANES * i], gelu_of(load(&inner[LANES * i])) * load(&other[LANES * i]));
#pragma omp single
        for (int64_t i = count / LANES * LANES; i < count; ++i) inner[i] = gelu_of(fill(inner[i]))[0] * other[i];
        product(l.down, inner.data(), moved.data(), l.inner, model.dim);
    }

    void feed_forward(const Layer &l) {
        if (model.bits) return packed_feed_forward(l);
        int64_t run = std::max<int64_t>(16, (16384 / model.dim + 15) / 16 * 16), count = (l.inner + run - 1) / run;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < count; ++i) {
            int64_t from = i * run, to = std::min<int64_t>(l.inner, from + run), n = to - from;
            std::vector<float> up(rows.count * n);
            matmul<W>(weights(l.gate), normed.data(), inner.data(), model.dim, l.inner, from, to, rows.count);
            matmul<W>(weights(l.up) + from * model.dim, normed.data(), up.data(), model.dim, n, 0, n, rows.count);
            for (int b = 0; b < rows.count; ++b) {
                float *gate = &inner[b * l.inner + from], *own = &up[b * n];
                int64_t j = 0;
                for (; j + LANES <= n; j += LANES) store(gate + j, gelu_of(load(gate + j)) * load(own + j));
                for (; j < n; ++j) gate[j] = gelu_of(fill(gate[j]))[0] * own[j];
            }
        }
        product(l.down, inner.data(), moved.data(), l.inner, model.dim);
    }

    void packed_embed() {
        const Packed *table = static_cast<const Packed *>(model.embedding);
#pragma omp single
        {
            rows.lowbit->rows(table->codes, table->scales, rows.ids, x.data(), rows.count, model.dim, model.table_bits);
            for (float &each : x) {
                W rounded;
                store(&rounded, each);
                store(&rounded, to_float(rounded) * model.embed_scale);
                each = to_float(rounded);
            }
        }
    }

    void embed() {
        if (model.bits) return packed_embed();
#pragma omp for schedule(static)
        for (int b = 0; b < rows.count; ++b)
            for (int64_t i = 0; i < model.dim; ++i) {
                W rounded;
                store(&rounded, to_float(weights(model.embedding)[rows.ids[b] * model.dim + i]) * model.embed_scale);
                x[b * model.dim + i] = to_float(rounded);
            }
    }

    void run() {  // by every thread
        embed();
        normalise_rows(model.layers[0].input_norm);
        for (int i = 0; i < model.num_layers; ++i) {
            const Layer &l = model.layers[i];
            qkv(l);
            place(l);
            attend(l);
            product(l.o, mixed.data(), moved.data(), l.heads * l.head_dim, model.dim);
            add_rows(l.post_attention_norm, 1.0f, l.pre_feedforward_norm);
            feed_forward(l);
            const float *next = i + 1 < model.num_layers ? model.layers[i + 1].input_norm : model.norm;
            add_rows(l.post_feedforward_norm, l.scalar, next);
        }
        if (model.bits)
            packed_products({{model.embedding, rows.logits, model.vocab}}, normed.data(), model.dim, model.table_bits);
        else
            product(model.embedding, normed.data(), rows.logits, model.dim, model.vocab);
        if (model.soft_cap > 0) {
            const int64_t count = int64_t(rows.count) * model.vocab;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < count / LANES; ++i) {
                float *at = rows.logits + LANES * i;
                store(at, tanh_of(load(at) / model.soft_cap) * model.soft_cap);
            }
#pragma omp single
            for (int64_t i = count / LANES * LANES; i < count; ++i)
                rows.logits[i] = tanh_of(fill(rows.logits[i] / model.soft_cap))[0] * model.soft_cap;
        }
    }
};

template <class W>
static void step(const Model &model, const Rows &rows, int threads) {
    Step<W> one(model, rows);
#pragma omp parallel num_threads(threads)
    one.run();
}

extern "C" void castor_decode_step(const Model *model, const Rows *rows, int32_t threads) {
    if (model->is_bf16)
        step<bf16>(*model, *rows, threads);
    else
        step<float>(*model, *rows, threads);
}

// The work between products, on rows of n numbers: [rows, n] each.

template <class W>
static void norm_rows(const W *x, const W *weight, W *y, int64_t rows, int64_t n, float eps, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * n > 32768)
    for (int64_t r = 0; r < rows; ++r) {
        const W *from = x + r * n;
        W *to = y + r * n;
        vec acc = {};
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES) acc += load(from + i) * load(from + i);
        float total = sum(acc);
        for (; i < n; ++i) total += to_float(from[i]) * to_float(from[i]);
        const float scale = 1.0f / std::sqrt(total / n + eps);
        for (i = 0; i + LANES <= n; i += LANES)
            store(to + i, weight ? load(from + i) * scale * load(weight + i) : load(from + i) * scale);
        for (; i < n; ++i) store(to + i, to_float(from[i]) * scale * (weight ? to_float(weight[i]) : 1.0f));
    }
}

// Every row of `heads` vectors of `dim` by the angles of its place: cosines and sines [rows, dim / 2].
template <class W>
static void rotate_rows(const W *x, const float *cosine, const float *sine, W *y, int64_t rows, int64_t heads,
                        int64_t dim, int threads) {
    const int64_t half = dim / 2;
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * heads * dim > 32768)
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t n = 0; n < heads; ++n) {
            const W *from = x + (r * heads + n) * dim;
            W *to = y + (r * heads + n) * dim;
            const float *c = cosine + r * half, *s = sine + r * half;
            int64_t i = 0;
            for (; i + LANES <= half; i += LANES) {
                vec first = load(from + i), second = load(from + half + i);
                store(to + i, first * load(c + i) - second * load(s + i));
                store(to + half + i, second * load(c + i) + first * load(s + i));
            }
            for (; i < half; ++i) {
                float first = to_float(from[i]), second = to_float(from[half + i]);
                store(to + i, first * c[i] - second * s[i]);
                store(to + half + i, second * c[i] + first * s[i]);
            }
        }
}

template <class W>
static void gate_rows(W *gate, const W *up, int64_t count, int threads) {  // gate <- gelu(gate) * up
#pragma omp parallel for schedule(static) num_threads(threads) if (count > 32768)
    for (int64_t i = 0; i < count / LANES * LANES; i += LANES) store(gate + i, gelu_of(load(gate + i)) * load(up + i));
    for (int64_t i = count / LANES * LANES; i < count; ++i)
        store(gate + i, gelu_of(fill(to_float(gate[i])))[0] * to_float(up[i]));
}

#define FOR_BOTH_TYPES(W, name)                                                                                        \
    extern "C" void castor_norm_##name(const W *x, const W *weight, W *y, int64_t rows, int64_t n, float eps, int t) { \
        norm_rows(x, weight, y, rows, n, eps, t);                                                                      \
    }                                                                                                                  \
    extern "C" void castor_rotate_##name(const W *x, const float *c, const float *s, W *y, int64_t rows, int64_t n,    \
                                         int64_t dim, int t) {                                                         \
        rotate_rows(x, c, s, y, rows, n, dim, t);                                                                      \
    }                                                                                                                  \
    extern "C" void castor_gate_##name(W *gate, const W *up, int64_t n, int t) { gate_rows(gate, up, n, t); }
FOR_BOTH_TYPES(float, float32)
FOR_BOTH_TYPES(bf16, bfloat16)
