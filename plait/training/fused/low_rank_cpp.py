"""The C++ source of the thin products of low-rank pairs; it follows that of `kernels_cpp` in one file."""

SOURCE = r"""
// The thin products of low-rank pairs beside several frozen projections of one input, for several adapters whose rows
// lie one after another: sums in float32, each in one fixed order whatever the number of threads. thin.py says what
// each one computes; its plain versions there are the specification.
#include <memory>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t LANES = 16;  // numbers of a wide vector, whatever the machine makes of it
constexpr int64_t EIGHT = 8;   // ranks go by eights
constexpr int64_t ROWS = 8;    // rows that share what is loaded of a matrix
constexpr int64_t CHUNK = 512;
constexpr int64_t COLUMNS = 2 * LANES;

typedef float wide __attribute__((vector_size(64)));
typedef float eight __attribute__((vector_size(32)));
typedef uint32_t wide_bits __attribute__((vector_size(64)));
typedef uint16_t bf16_bits __attribute__((vector_size(32)));

template <typename V>
V take(const float *x) {
    V v;
    std::memcpy(&v, x, sizeof v);
    return v;
}

template <typename V>
void give(float *x, V v) {
    std::memcpy(x, &v, sizeof v);
}

inline wide load(const float *x) { return take<wide>(x); }
inline void store(float *x, wide v) { give(x, v); }

inline wide load(const bf16 *x) {
    bf16_bits bits;
    std::memcpy(&bits, x, sizeof bits);
    const wide_bits raised = __builtin_convertvector(bits, wide_bits) << 16;
    wide v;
    std::memcpy(&v, &raised, sizeof v);
    return v;
}

inline void store(bf16 *x, wide v) {
#ifdef __AVX512BF16__
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
#else
    wide_bits bits;
    std::memcpy(&bits, &v, sizeof bits);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bf16_bits rounded = __builtin_convertvector(bits, bf16_bits);
#endif
    std::memcpy(static_cast<void *>(x), &rounded, sizeof rounded);
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t padded(int64_t ranks) { return (ranks + EIGHT - 1) / EIGHT * EIGHT; }

// to += x @ matrix for ROWS rows and V eights of columns. x: rows CHUNK apart; matrix and to: rows `stride` apart.
template <int V>
void narrow_tile(const float *x, int64_t depth, const float *matrix, float *to, int64_t stride) {
    eight sums[ROWS][V];
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t v = 0; v < V; v++) sums[i][v] = take<eight>(to + i * stride + v * EIGHT);
    for (int64_t k = 0; k < depth; k++) {
        eight row[V];
        for (int64_t v = 0; v < V; v++) row[v] = take<eight>(matrix + k * stride + v * EIGHT);
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t v = 0; v < V; v++) sums[i][v] += x[i * CHUNK + k] * row[v];
    }
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t v = 0; v < V; v++) give(to + i * stride + v * EIGHT, sums[i][v]);
}

// to (ROWS, stride) = x (rows, depth) @ matrix (depth, stride), stride a multiple of EIGHT; rows beyond are 0.
template <typename T>
void narrow(const T *x, int64_t rows, int64_t depth, const float *matrix, float *to, int64_t stride) {
    float held[ROWS * CHUNK];
    if (rows < ROWS) std::memset(held, 0, sizeof held);
    std::memset(to, 0, static_cast<size_t>(ROWS * stride) * sizeof(float));
    for (int64_t first = 0; first < depth; first += CHUNK) {
        const int64_t many = least(CHUNK, depth - first);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < many; k++) held[i * CHUNK + k] = get(x + i * depth + first, k);
        const float *part = matrix + first * stride;
        int64_t at = 0;
        for (; at + 3 * EIGHT <= stride; at += 3 * EIGHT) narrow_tile<3>(held, many, part + at, to + at, stride);
        if (stride - at == 2 * EIGHT) narrow_tile<2>(held, many, part + at, to + at, stride);
        if (stride - at == EIGHT) narrow_tile<1>(held, many, part + at, to + at, stride);
    }
}

// out (rows, width) += z (rows, ranks) @ matrix (ranks, width); rows of z are z_stride apart.
template <typename T>
void widen(const float *z, int64_t z_stride, int64_t rows, int64_t ranks, const float *matrix, T *out, int64_t width) {
    int64_t column = 0;
    for (; rows == ROWS && column + COLUMNS <= width; column += COLUMNS) {
        wide sums[ROWS][2];
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t v = 0; v < 2; v++) sums[i][v] = load(out + i * width + column + v * LANES);
        for (int64_t r = 0; r < ranks; r++)
            for (int64_t v = 0; v < 2; v++) {
                const wide row = load(matrix + r * width + column + v * LANES);
                for (int64_t i = 0; i < ROWS; i++) sums[i][v] += z[i * z_stride + r] * row;
            }
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t v = 0; v < 2; v++) store(out + i * width + column + v * LANES, sums[i][v]);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = column; j < width; j++) {
            float sum = get(out, i * width + j);
            for (int64_t r = 0; r < ranks; r++) sum += z[i * z_stride + r] * matrix[r * width + j];
            put(out, i * width + j, sum);
        }
}

// Columns first to first + COLUMNS of z' x, for `some` ranks, at most EIGHT. z: (rows, stride), x: (rows, width).
template <typename T>
void cross(const float *z, int64_t stride, int64_t some, const T *x, int64_t width, int64_t rows, int64_t first,
           float (*to)[COLUMNS]) {
    if (some == EIGHT && first + COLUMNS <= width) {
        wide sums[EIGHT][2] = {};
        for (int64_t i = 0; i < rows; i++)
            for (int64_t v = 0; v < 2; v++) {
                const wide row = load(x + i * width + first + v * LANES);
                for (int64_t r = 0; r < EIGHT; r++) sums[r][v] += z[i * stride + r] * row;
            }
        for (int64_t r = 0; r < EIGHT; r++)
            for (int64_t v = 0; v < 2; v++) store(to[r] + v * LANES, sums[r][v]);
        return;
    }
    const int64_t many = least(COLUMNS, width - first);
    std::memset(to, 0, EIGHT * COLUMNS * sizeof(float));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t r = 0; r < some; r++)
            for (int64_t j = 0; j < many; j++) to[r][j] += z[i * stride + r] * get(x, i * width + first + j);
}

// The pairs beside the projections of one input, for each adapter: A (ranks[p], depth), B (widths[p], ranks[p]).
template <typename T>
struct Pairs {
    const T *const *A;
    const T *const *B;
    const float *scales;
    const int64_t *ranks;
    const int64_t *widths;
    int64_t parts;
    int64_t depth;
    int64_t stride;  // of the narrow side: all ranks, padded

    int64_t all_ranks() const {
        int64_t all = 0;
        for (int64_t p = 0; p < parts; p++) all += ranks[p];
        return all;
    }
};

// Rows of one adapter.
struct Block {
    int64_t adapter, first, rows;
};

std::vector<Block> blocks(const int64_t *rows, int64_t adapters, int64_t most) {
    std::vector<Block> found;
    int64_t start = 0;
    for (int64_t adapter = 0; adapter < adapters; start += rows[adapter++])
        for (int64_t at = 0; at < rows[adapter]; at += most)
            found.push_back({adapter, start + at, least(most, rows[adapter] - at)});
    return found;
}

template <typename T>
void add_pairs(const T *x, const Pairs<T> &pairs, T *const *outs, const int64_t *rows, int64_t adapters, float *inner) {
    const int64_t depth = pairs.depth, stride = pairs.stride;
    std::vector<int64_t> starts;  // of each projection's B among all of an adapter's
    int64_t size = 0;
    for (int64_t p = 0; p < pairs.parts; size += pairs.ranks[p] * pairs.widths[p], p++) starts.push_back(size);
    const std::vector<Block> all = blocks(rows, adapters, ROWS);
    // scale A' and B', in float32.
    const std::unique_ptr<float[]> down(new float[static_cast<size_t>(adapters * depth * stride)]);
    const std::unique_ptr<float[]> up(new float[static_cast<size_t>(adapters * size)]);
#pragma omp parallel
    {
#pragma omp for schedule(static) collapse(2) nowait
        for (int64_t a = 0; a < adapters; a++)
            for (int64_t k = 0; k < depth; k++) {
                float *to = down.get() + (a * depth + k) * stride;
                int64_t at = 0;
                for (int64_t p = 0; p < pairs.parts; p++)
                    for (int64_t r = 0; r < pairs.ranks[p]; r++)
                        to[at++] = pairs.scales[p] * get(pairs.A[p], (a * pairs.ranks[p] + r) * depth + k);
                while (at < stride) to[at++] = 0;
            }
#pragma omp for schedule(static) collapse(2)
        for (int64_t a = 0; a < adapters; a++)
            for (int64_t p = 0; p < pairs.parts; p++) {
                const int64_t ranks = pairs.ranks[p], width = pairs.widths[p];
                float *to = up.get() + a * size + starts[static_cast<size_t>(p)];
                for (int64_t r = 0; r < ranks; r++)
                    for (int64_t j = 0; j < width; j++)
                        to[r * width + j] = get(pairs.B[p], (a * width + j) * ranks + r);
            }
        std::vector<float> z(static_cast<size_t>(ROWS * stride));
#pragma omp for schedule(static)
        for (size_t b = 0; b < all.size(); b++) {
            const Block &block = all[b];
            narrow(x + block.first * depth, block.rows, depth, down.get() + block.adapter * depth * stride, z.data(),
                   stride);
            std::memcpy(inner + block.first * stride, z.data(),
                        static_cast<size_t>(block.rows * stride) * sizeof(float));
            int64_t at = 0;
            for (int64_t p = 0; p < pairs.parts; at += pairs.ranks[p++])
                widen(z.data() + at, stride, block.rows, pairs.ranks[p],
                      up.get() + block.adapter * size + starts[static_cast<size_t>(p)],
                      outs[p] + block.first * pairs.widths[p], pairs.widths[p]);
        }
    }
}

template <typename T>
void add_input_gradient(const T *const *grads, const Pairs<T> &pairs, const int64_t *rows, int64_t adapters,
                        float *grad_inner, T *grad_x) {
    const int64_t depth = pairs.depth, stride = pairs.stride, ranks_in_all = pairs.all_ranks();
    std::vector<int64_t> starts;
    int64_t size = 0, most = 0;
    for (int64_t p = 0; p < pairs.parts; p++) {
        starts.push_back(size);
        size += padded(pairs.ranks[p]) * pairs.widths[p];
        most = padded(pairs.ranks[p]) > most ? padded(pairs.ranks[p]) : most;
    }
    const std::vector<Block> all = blocks(rows, adapters, ROWS);
    // scale B and A, in float32.
    const std::unique_ptr<float[]> down(new float[static_cast<size_t>(adapters * size)]);
    const std::unique_ptr<float[]> up(new float[static_cast<size_t>(adapters * ranks_in_all * depth)]);
#pragma omp parallel
    {
#pragma omp for schedule(static) collapse(2)
        for (int64_t a = 0; a < adapters; a++)
            for (int64_t p = 0; p < pairs.parts; p++) {
                const int64_t ranks = pairs.ranks[p], width = pairs.widths[p], pad = padded(ranks);
                float *to = down.get() + a * size + starts[static_cast<size_t>(p)];
                for (int64_t j = 0; j < width; j++)
                    for (int64_t r = 0; r < pad; r++)
                        to[j * pad + r] =
                            r < ranks ? pairs.scales[p] * get(pairs.B[p], (a * width + j) * ranks + r) : 0;
                int64_t before = 0;
                for (int64_t q = 0; q < p; q++) before += pairs.ranks[q];
                to = up.get() + (a * ranks_in_all + before) * depth;
                for (int64_t i = 0; i < ranks * depth; i++) to[i] = get(pairs.A[p], a * ranks * depth + i);
            }
        std::vector<float> z(static_cast<size_t>(ROWS * stride)), part(static_cast<size_t>(ROWS * most));
#pragma omp for schedule(static)
        for (size_t b = 0; b < all.size(); b++) {
            const Block &block = all[b];
            int64_t at = 0;
            for (int64_t p = 0; p < pairs.parts; at += pairs.ranks[p++]) {
                const int64_t pad = padded(pairs.ranks[p]);
                narrow(grads[p] + block.first * pairs.widths[p], block.rows, pairs.widths[p],
                       down.get() + block.adapter * size + starts[static_cast<size_t>(p)], part.data(), pad);
                for (int64_t i = 0; i < ROWS; i++)
                    for (int64_t r = 0; r < pairs.ranks[p]; r++)
                        z[static_cast<size_t>(i * stride + at + r)] = part[static_cast<size_t>(i * pad + r)];
            }
            std::memcpy(grad_inner + block.first * stride, z.data(),
                        static_cast<size_t>(block.rows * stride) * sizeof(float));
            if (grad_x != nullptr)
                widen(z.data(), stride, block.rows, ranks_in_all, up.get() + block.adapter * ranks_in_all * depth,
                      grad_x + block.first * depth, depth);
        }
    }
}

// One tensor's gradient is to be: left' right, or its transpose.
template <typename T>
struct Wanted {
    const float *left;  // (rows, stride)
    const T *right;     // (rows, width)
    int64_t ranks, width;
    T *out;
    bool transposed;
};

template <typename T>
void pair_gradients(const T *x, const T *const *grads, const float *inner, const float *grad_inner,
                    const Pairs<T> &pairs, const int64_t *rows, int64_t adapters, T *const *grad_A, T *const *grad_B) {
    struct Task {
        Wanted<T> of;
        Block block;
        int64_t rank, column;
    };
    std::vector<Task> tasks;
    int64_t at = 0;
    for (int64_t p = 0; p < pairs.parts; at += pairs.ranks[p++]) {
        const Wanted<T> both[] = {{grad_inner + at, x, pairs.ranks[p], pairs.depth, grad_A[p], false},
                                  {inner + at, grads[p], pairs.ranks[p], pairs.widths[p], grad_B[p], true}};
        for (const Wanted<T> &of : both)
            for (const Block &block : blocks(rows, adapters, INT64_MAX))
                for (int64_t rank = 0; of.out != nullptr && rank < of.ranks; rank += EIGHT)
                    for (int64_t column = 0; column < of.width; column += COLUMNS)
                        tasks.push_back({of, block, rank, column});
    }
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < tasks.size(); t++) {
        const Task &task = tasks[t];
        const Wanted<T> &of = task.of;
        const int64_t some = least(EIGHT, of.ranks - task.rank), many = least(COLUMNS, of.width - task.column);
        float sums[EIGHT][COLUMNS];
        cross(of.left + task.block.first * pairs.stride + task.rank, pairs.stride, some,
              of.right + task.block.first * of.width, of.width, task.block.rows, task.column, sums);
        T *out = of.out + task.block.adapter * of.ranks * of.width;
        for (int64_t r = 0; r < some; r++)
            for (int64_t j = 0; j < many; j++)
                put(out, of.transposed ? (task.column + j) * of.ranks + task.rank + r
                                       : (task.rank + r) * of.width + task.column + j,
                    sums[r][j]);
    }
}

}  // namespace

#define EXPORT_PAIRS(T, SUFFIX)                                                                                        \
    extern "C" void add_pairs_##SUFFIX(const T *x, const T *const *A, const T *const *B, const float *scales,          \
                                       const int64_t *ranks, const int64_t *widths, int64_t parts, int64_t depth,      \
                                       int64_t stride, const int64_t *rows, int64_t adapters, T *const *outs,          \
                                       float *inner) {                                                                 \
        add_pairs(x, Pairs<T>{A, B, scales, ranks, widths, parts, depth, stride}, outs, rows, adapters, inner);        \
    }                                                                                                                  \
    extern "C" void add_input_gradient_##SUFFIX(                                                                       \
        const T *const *grads, const T *const *A, const T *const *B, const float *scales, const int64_t *ranks,        \
        const int64_t *widths, int64_t parts, int64_t depth, int64_t stride, const int64_t *rows, int64_t adapters,    \
        float *grad_inner, T *grad_x) {                                                                                \
        add_input_gradient(grads, Pairs<T>{A, B, scales, ranks, widths, parts, depth, stride}, rows, adapters,         \
                           grad_inner, grad_x);                                                                        \
    }                                                                                                                  \
    extern "C" void pair_gradients_##SUFFIX(                                                                           \
        const T *x, const T *const *grads, const float *inner, const float *grad_inner, const int64_t *ranks,          \
        const int64_t *widths, int64_t parts, int64_t depth, int64_t stride, const int64_t *rows, int64_t adapters,    \
        T *const *grad_A, T *const *grad_B) {                                                                          \
        pair_gradients(x, grads, inner, grad_inner,                                                                    \
                       Pairs<T>{nullptr, nullptr, nullptr, ranks, widths, parts, depth, stride}, rows, adapters,       \
                       grad_A, grad_B);                                                                                \
    }

EXPORT_PAIRS(float, f32)
EXPORT_PAIRS(bf16, bf16)
"""
