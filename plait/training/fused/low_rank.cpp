// The thin products of low-rank pairs beside several frozen projections of one input, for several adapters whose rows
// lie one after another: sums in float32, each in one fixed order whatever the number of threads. With bfloat16 the
// narrow side is rounded to it before it is multiplied again. thin.py says what each one computes; its plain versions
// there are the specification.
#include <memory>
#include <utility>
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

// What both sides of a product are held in: a cell is one float32, or two bfloat16 that follow each other in the sum,
// where the machine multiplies and adds such twos at once.
inline void accumulate(eight &sum, float z, eight row) { sum += z * row; }
inline void accumulate(wide &sum, float z, wide row) { sum += z * row; }
inline float product(float a, float b) { return a * b; }
inline void pack(float *to, float first, float) { *to = first; }
inline eight eight_cells(const float *x) { return take<eight>(x); }
inline wide wide_cells(const float *x) { return take<wide>(x); }
template <typename T>
wide wide_cells(const T *x, const T *, const float *) {
    return load(x);
}
template <typename T>
void pack_row(float *to, const T *x, int64_t many) {
    for (int64_t k = 0; k < many; k++) to[k] = get(x, k);
}
inline void pack_rows(float *to, const float *x, const float *, int64_t many) {
    std::memcpy(to, x, static_cast<size_t>(many) * sizeof(float));
}

#if defined(__AVX512BF16__) && defined(__AVX512VL__)
#define TWOS
struct two {
    bf16 held[2];
};
inline uint32_t bits_of(two z) {
    uint32_t bits;
    std::memcpy(&bits, &z, sizeof bits);
    return bits;
}
inline void accumulate(eight &sum, two z, __m256bh row) {
    sum = (eight)_mm256_dpbf16_ps((__m256)sum, row, (__m256bh)_mm256_set1_epi32(static_cast<int>(bits_of(z))));
}
inline void accumulate(wide &sum, two z, __m512bh row) {
    sum = (wide)_mm512_dpbf16_ps((__m512)sum, row, (__m512bh)_mm512_set1_epi32(static_cast<int>(bits_of(z))));
}
inline float product(two a, two b) {
    return get(a.held, 0) * get(b.held, 0) + get(a.held, 1) * get(b.held, 1);
}
inline void pack(two *to, float first, float second) {
    put(to->held, 0, first);
    put(to->held, 1, second);
}
inline __m256bh eight_cells(const two *x) { return (__m256bh)_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x)); }
inline __m512bh wide_cells(const two *x) { return (__m512bh)_mm512_loadu_si512(x); }
// Of two rows; the second may be missing.
inline __m512bh wide_cells(const bf16 *x, const bf16 *below, const two *) {
    __m512i cells = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x)));
    if (below != nullptr) {
        const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(below));
        cells = _mm512_or_si512(cells, _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
    }
    return (__m512bh)cells;
}
inline void pack_row(two *to, const bf16 *x, int64_t many) {
    if (many % 2) pack(to + many / 2, get(x, many - 1), 0);
    std::memcpy(static_cast<void *>(to), x, static_cast<size_t>(many / 2) * sizeof(two));
}
// Many is a multiple of EIGHT.
inline void pack_rows(two *to, const float *x, const float *below, int64_t many) {
    for (int64_t k = 0; k < many; k += EIGHT) {
        const __m256i first = _mm256_cvtepu16_epi32((__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(x + k)));
        const __m256i second = _mm256_cvtepu16_epi32((__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(below + k)));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + k), _mm256_or_si256(first, _mm256_slli_epi32(second, 16)));
    }
}
#endif
template <typename T>
struct Held {
    typedef float cell;
    static constexpr int64_t numbers = 1;
};
#ifdef TWOS
template <>
struct Held<bf16> {
    typedef two cell;
    static constexpr int64_t numbers = 2;
};
#endif
template <typename T>
using cell_of = typename Held<T>::cell;
template <typename T>
constexpr int64_t PER_CELL = Held<T>::numbers;
// So many cells hold so many numbers.
template <typename T>
int64_t cells(int64_t numbers) {
    return (numbers + PER_CELL<T> - 1) / PER_CELL<T>;
}

// to += x @ matrix for ROWS rows and V eights of columns. x: rows CHUNK apart; matrix and to: rows `stride` apart.
template <int V, typename C>
void narrow_tile(const C *x, int64_t depth, const C *matrix, float *to, int64_t stride) {
    eight sums[ROWS][V];
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t v = 0; v < V; v++) sums[i][v] = take<eight>(to + i * stride + v * EIGHT);
    for (int64_t k = 0; k < depth; k++) {
        decltype(eight_cells(matrix)) row[V];
        for (int64_t v = 0; v < V; v++) row[v] = eight_cells(matrix + k * stride + v * EIGHT);
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t v = 0; v < V; v++) accumulate(sums[i][v], x[i * CHUNK + k], row[v]);
    }
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t v = 0; v < V; v++) give(to + i * stride + v * EIGHT, sums[i][v]);
}

// to (ROWS, stride) = x (rows, depth) @ matrix (cells of depth, stride), stride a multiple of EIGHT; rows beyond are 0.
template <typename T>
void narrow(const T *x, int64_t rows, int64_t depth, const cell_of<T> *matrix, float *to, int64_t stride) {
    cell_of<T> held[ROWS * CHUNK];
    if (rows < ROWS) std::memset(static_cast<void *>(held), 0, sizeof held);
    std::memset(to, 0, static_cast<size_t>(ROWS * stride) * sizeof(float));
    for (int64_t first = 0; first < depth; first += CHUNK * PER_CELL<T>) {
        const int64_t numbers = least(CHUNK * PER_CELL<T>, depth - first), many = cells<T>(numbers);
        for (int64_t i = 0; i < rows; i++) pack_row(held + i * CHUNK, x + i * depth + first, numbers);
        const cell_of<T> *part = matrix + first / PER_CELL<T> * stride;
        int64_t at = 0;
        for (; at + 3 * EIGHT <= stride; at += 3 * EIGHT) narrow_tile<3>(held, many, part + at, to + at, stride);
        if (stride - at == 2 * EIGHT) narrow_tile<2>(held, many, part + at, to + at, stride);
        if (stride - at == EIGHT) narrow_tile<1>(held, many, part + at, to + at, stride);
    }
}

// out (rows, width) += z (rows, depth) @ matrix (depth, width), depth in cells.
template <typename T>
void widen(const cell_of<T> *z, int64_t rows, int64_t depth, const cell_of<T> *matrix, T *out, int64_t width) {
    int64_t column = 0;
    for (; rows == ROWS && column + COLUMNS <= width; column += COLUMNS) {
        wide sums[ROWS][2];
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t v = 0; v < 2; v++) sums[i][v] = load(out + i * width + column + v * LANES);
        for (int64_t r = 0; r < depth; r++)
            for (int64_t v = 0; v < 2; v++) {
                const auto row = wide_cells(matrix + r * width + column + v * LANES);
                for (int64_t i = 0; i < ROWS; i++) accumulate(sums[i][v], z[i * depth + r], row);
            }
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t v = 0; v < 2; v++) store(out + i * width + column + v * LANES, sums[i][v]);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = column; j < width; j++) {
            float sum = get(out, i * width + j);
            for (int64_t r = 0; r < depth; r++) sum += product(z[i * depth + r], matrix[r * width + j]);
            put(out, i * width + j, sum);
        }
}

// Columns first to first + COLUMNS of z' x, for `some` ranks, at most EIGHT. z: (cells of rows, stride), x: (rows,
// width).
template <typename T>
void cross(const cell_of<T> *z, int64_t stride, int64_t some, const T *x, int64_t width, int64_t rows, int64_t first,
           float (*to)[COLUMNS]) {
    if (some == EIGHT && first + COLUMNS <= width) {
        wide sums[EIGHT][2] = {};
        for (int64_t i = 0; i < rows; i += PER_CELL<T>)
            for (int64_t v = 0; v < 2; v++) {
                const T *at = x + i * width + first + v * LANES;
                const auto row = wide_cells(at, i + 1 < rows ? at + width : nullptr, z);
                for (int64_t r = 0; r < EIGHT; r++) accumulate(sums[r][v], z[i / PER_CELL<T> * stride + r], row);
            }
        for (int64_t r = 0; r < EIGHT; r++)
            for (int64_t v = 0; v < 2; v++) store(to[r] + v * LANES, sums[r][v]);
        return;
    }
    const int64_t many = least(COLUMNS, width - first);
    std::memset(to, 0, EIGHT * COLUMNS * sizeof(float));
    for (int64_t i = 0; i < rows; i += PER_CELL<T>)
        for (int64_t r = 0; r < some; r++)
            for (int64_t j = 0; j < many; j++) {
                const int64_t at = i * width + first + j;
                cell_of<T> cell;
                pack(&cell, get(x, at), i + 1 < rows ? get(x, at + width) : 0);
                to[r][j] += product(z[i / PER_CELL<T> * stride + r], cell);
            }
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

// Cells of z's columns at to at + ranks, for ROWS rows. z: rows `stride` apart.
template <typename T>
void pack_columns(cell_of<T> *to, const float *z, int64_t stride, int64_t ranks) {
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t r = 0; r < ranks; r += PER_CELL<T>)
            pack(to++, z[i * stride + r], r + 1 < ranks ? z[i * stride + r + 1] : 0);
}

template <typename T>
void add_pairs(const T *x, const Pairs<T> &pairs, T *const *outs, const int64_t *rows, int64_t adapters, float *inner) {
    typedef cell_of<T> cell;
    const int64_t depth = pairs.depth, stride = pairs.stride, per = PER_CELL<T>, depth_cells = cells<T>(depth);
    std::vector<int64_t> starts;  // of each projection's B among all of an adapter's
    int64_t size = 0;
    for (int64_t p = 0; p < pairs.parts; p++) {
        starts.push_back(size);
        size += cells<T>(pairs.ranks[p]) * pairs.widths[p];
    }
    const std::vector<Block> all = blocks(rows, adapters, ROWS);
    const std::unique_ptr<cell[]> down(new cell[static_cast<size_t>(adapters * depth_cells * stride)]);  // A'
    const std::unique_ptr<cell[]> up(new cell[static_cast<size_t>(adapters * size)]);                    // B'
#pragma omp parallel
    {
#pragma omp for schedule(static) collapse(2) nowait
        for (int64_t a = 0; a < adapters; a++)
            for (int64_t c = 0; c < depth_cells; c++) {
                cell *to = down.get() + (a * depth_cells + c) * stride;
                const int64_t k = c * per;
                int64_t at = 0;
                for (int64_t p = 0; p < pairs.parts; p++)
                    for (int64_t r = 0; r < pairs.ranks[p]; r++) {
                        const T *row = pairs.A[p] + (a * pairs.ranks[p] + r) * depth;
                        pack(to + at++, get(row, k), k + 1 < depth ? get(row, k + 1) : 0);
                    }
                while (at < stride) pack(to + at++, 0, 0);
            }
#pragma omp for schedule(static) collapse(2)
        for (int64_t a = 0; a < adapters; a++)
            for (int64_t p = 0; p < pairs.parts; p++) {
                const int64_t ranks = pairs.ranks[p], width = pairs.widths[p];
                cell *to = up.get() + a * size + starts[static_cast<size_t>(p)];
                for (int64_t r = 0; r < ranks; r += per)
                    for (int64_t j = 0; j < width; j++) {
                        const T *row = pairs.B[p] + (a * width + j) * ranks;
                        pack(to++, get(row, r), r + 1 < ranks ? get(row, r + 1) : 0);
                    }
            }
        std::vector<float> z(static_cast<size_t>(ROWS * stride));
        std::vector<cell> part(static_cast<size_t>(ROWS * stride));
#pragma omp for schedule(static)
        for (size_t b = 0; b < all.size(); b++) {
            const Block &block = all[b];
            narrow(x + block.first * depth, block.rows, depth, down.get() + block.adapter * depth_cells * stride,
                   z.data(), stride);
            int64_t at = 0;
            for (int64_t p = 0; p < pairs.parts; at += pairs.ranks[p++]) {
                for (int64_t i = 0; i < ROWS; i++)
                    for (int64_t r = 0; r < pairs.ranks[p]; r++)
                        z[static_cast<size_t>(i * stride + at + r)] *= pairs.scales[p];
                pack_columns<T>(part.data(), z.data() + at, stride, pairs.ranks[p]);
                widen(part.data(), block.rows, cells<T>(pairs.ranks[p]),
                      up.get() + block.adapter * size + starts[static_cast<size_t>(p)],
                      outs[p] + block.first * pairs.widths[p], pairs.widths[p]);
            }
            std::memcpy(inner + block.first * stride, z.data(),
                        static_cast<size_t>(block.rows * stride) * sizeof(float));
        }
    }
}

template <typename T>
void add_input_gradient(const T *const *grads, const Pairs<T> &pairs, const int64_t *rows, int64_t adapters,
                        float *grad_inner, T *grad_x) {
    typedef cell_of<T> cell;
    const int64_t depth = pairs.depth, stride = pairs.stride, per = PER_CELL<T>;
    const int64_t ranks_in_all = pairs.all_ranks(), rank_cells = cells<T>(ranks_in_all);
    std::vector<int64_t> starts;
    int64_t size = 0, most = 0;
    for (int64_t p = 0; p < pairs.parts; p++) {
        starts.push_back(size);
        size += padded(pairs.ranks[p]) * cells<T>(pairs.widths[p]);
        most = padded(pairs.ranks[p]) > most ? padded(pairs.ranks[p]) : most;
    }
    // The rows of all A, one after another's.
    std::vector<std::pair<const T *, int64_t>> of_rank;  // in the first adapter, and how far it is to the next one's
    for (int64_t p = 0; p < pairs.parts; p++)
        for (int64_t r = 0; r < pairs.ranks[p]; r++)
            of_rank.push_back({pairs.A[p] + r * depth, pairs.ranks[p] * depth});
    const std::vector<Block> all = blocks(rows, adapters, ROWS);
    const std::unique_ptr<cell[]> down(new cell[static_cast<size_t>(adapters * size)]);               // B
    const std::unique_ptr<cell[]> up(new cell[static_cast<size_t>(adapters * rank_cells * depth)]);  // A
#pragma omp parallel
    {
#pragma omp for schedule(static) collapse(2) nowait
        for (int64_t a = 0; a < adapters; a++)
            for (int64_t p = 0; p < pairs.parts; p++) {
                const int64_t ranks = pairs.ranks[p], width = pairs.widths[p], pad = padded(ranks);
                cell *to = down.get() + a * size + starts[static_cast<size_t>(p)];
                for (int64_t j = 0; j < width; j += per)
                    for (int64_t r = 0; r < pad; r++) {
                        const T *at = pairs.B[p] + (a * width + j) * ranks + r;
                        pack(to++, r < ranks ? get(at, 0) : 0, r < ranks && j + 1 < width ? get(at, ranks) : 0);
                    }
            }
#pragma omp for schedule(static) collapse(2)
        for (int64_t a = 0; a < adapters; a++)
            for (int64_t c = 0; c < rank_cells; c++) {
                const size_t r = static_cast<size_t>(c * per);
                cell *to = up.get() + (a * rank_cells + c) * depth;
                const T *row = of_rank[r].first + a * of_rank[r].second, *below = nullptr;
                if (per == 2 && r + 1 < of_rank.size()) below = of_rank[r + 1].first + a * of_rank[r + 1].second;
                for (int64_t k = 0; k < depth; k++) pack(to + k, get(row, k), below == nullptr ? 0 : get(below, k));
            }
        std::vector<float> z(static_cast<size_t>(ROWS * stride)), part(static_cast<size_t>(ROWS * most));
        std::vector<cell> packed(static_cast<size_t>(ROWS * rank_cells));
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
                        z[static_cast<size_t>(i * stride + at + r)] =
                            pairs.scales[p] * part[static_cast<size_t>(i * pad + r)];
            }
            std::memcpy(grad_inner + block.first * stride, z.data(),
                        static_cast<size_t>(block.rows * stride) * sizeof(float));
            if (grad_x != nullptr) {
                pack_columns<T>(packed.data(), z.data(), stride, ranks_in_all);
                widen(packed.data(), block.rows, rank_cells, up.get() + block.adapter * rank_cells * depth,
                      grad_x + block.first * depth, depth);
            }
        }
    }
}

// One tensor's gradient is to be: left' right, or its transpose.
template <typename T>
struct Wanted {
    const cell_of<T> *left;  // (cells of each adapter's rows, stride)
    const T *right;          // (rows, width)
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
        int64_t left, rank, column;
    };
    const int64_t stride = pairs.stride, per = PER_CELL<T>;
    const std::vector<Block> whole = blocks(rows, adapters, INT64_MAX);
    std::vector<int64_t> starts;  // of each adapter's rows among the cells
    int64_t all = 0;
    for (const Block &block : whole) {
        starts.push_back(all);
        all += cells<T>(block.rows);
    }
    const std::unique_ptr<cell_of<T>[]> packed(new cell_of<T>[static_cast<size_t>(2 * all * stride)]);
    cell_of<T> *const in_A = packed.get(), *const in_B = packed.get() + all * stride;
    std::vector<Task> tasks;
    int64_t at = 0;
    for (int64_t p = 0; p < pairs.parts; at += pairs.ranks[p++]) {
        const Wanted<T> both[] = {{in_A + at, x, pairs.ranks[p], pairs.depth, grad_A[p], false},
                                  {in_B + at, grads[p], pairs.ranks[p], pairs.widths[p], grad_B[p], true}};
        for (const Wanted<T> &of : both)
            for (size_t b = 0; b < whole.size(); b++)
                for (int64_t rank = 0; of.out != nullptr && rank < of.ranks; rank += EIGHT)
                    for (int64_t column = 0; column < of.width; column += COLUMNS)
                        tasks.push_back({of, whole[b], starts[b], rank, column});
    }
    const std::vector<float> nothing(static_cast<size_t>(stride));
#pragma omp parallel
    {
        for (size_t b = 0; b < whole.size(); b++) {
            const int64_t many = whole[b].rows;
#pragma omp for schedule(static) nowait
            for (int64_t c = 0; c < cells<T>(many); c++) {
                const int64_t from = (whole[b].first + c * per) * stride, to = (starts[b] + c) * stride;
                const bool both = c * per + 1 < many;
                pack_rows(in_A + to, grad_inner + from, both ? grad_inner + from + stride : nothing.data(), stride);
                pack_rows(in_B + to, inner + from, both ? inner + from + stride : nothing.data(), stride);
            }
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (size_t t = 0; t < tasks.size(); t++) {
            const Task &task = tasks[t];
            const Wanted<T> &of = task.of;
            const int64_t some = least(EIGHT, of.ranks - task.rank), many = least(COLUMNS, of.width - task.column);
            float sums[EIGHT][COLUMNS];
            cross(of.left + task.left * stride + task.rank, stride, some, of.right + task.block.first * of.width,
                  of.width, task.block.rows, task.column, sums);
            T *out = of.out + task.block.adapter * of.ranks * of.width;
            for (int64_t r = 0; r < some; r++)
                for (int64_t j = 0; j < many; j++)
                    put(out, of.transposed ? (task.column + j) * of.ranks + task.rank + r
                                           : (task.rank + r) * of.width + task.column + j,
                        sums[r][j]);
        }
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
