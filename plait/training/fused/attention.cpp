// Causal attention of sequences that lie one after another, straight on what projections give: heads side by side in a
// row, turned by position (RoPE, arXiv 2104.09864) on the way in, and gradients back on the way out. Scores are held
// for TILE queries at a time, in float32, and computed anew for the gradient; chances and gradients of scores are
// rounded to the type of the arguments before they are multiplied. Each key head of a sequence is one task, summed in
// one fixed order whatever the number of threads. attention.py says what is computed.

namespace {

constexpr int64_t TILE = 8;     // queries (or keys) that share what is loaded of a matrix
constexpr int64_t BLOCK = 128;   // queries whose chances are held for the gradients of keys and values
#ifdef __AVX512F__
constexpr int64_t VECTORS = 3;
#else
constexpr int64_t VECTORS = 1;
#endif

inline int64_t whole(int64_t numbers, int64_t by) { return (numbers + by - 1) / by * by; }

// to (TILE rows, V vectors) = x y or, if it goes on, += x y, over `depth` cells. x's cell of row i and depth k lies at
// i * by_row + k * by_depth.
template <int64_t V, bool GOES_ON, typename C>
void multiply_tile(const C *x, int64_t by_row, int64_t by_depth, const C *y, int64_t y_stride, int64_t depth, float *to,
                   int64_t stride) {
    wide sums[TILE][V];
    for (int64_t i = 0; i < TILE; i++)
        for (int64_t v = 0; v < V; v++) sums[i][v] = GOES_ON ? load(to + i * stride + v * LANES) : wide{};
    for (int64_t k = 0; k < depth; k++) {
        decltype(wide_cells(y)) row[V];
        for (int64_t v = 0; v < V; v++) row[v] = wide_cells(y + k * y_stride + v * LANES);
        for (int64_t i = 0; i < TILE; i++)
            for (int64_t v = 0; v < V; v++) accumulate(sums[i][v], x[i * by_row + k * by_depth], row[v]);
    }
    for (int64_t i = 0; i < TILE; i++)
        for (int64_t v = 0; v < V; v++) store(to + i * stride + v * LANES, sums[i][v]);
}

// The same for any number of columns that is a multiple of LANES.
template <bool GOES_ON, typename C>
void multiply(const C *x, int64_t by_row, int64_t by_depth, const C *y, int64_t y_stride, int64_t depth, float *to,
              int64_t stride, int64_t columns) {
    int64_t at = 0;
    for (; at + VECTORS * LANES <= columns; at += VECTORS * LANES)
        multiply_tile<VECTORS, GOES_ON>(x, by_row, by_depth, y + at, y_stride, depth, to + at, stride);
    for (; at < columns; at += LANES)
        multiply_tile<1, GOES_ON>(x, by_row, by_depth, y + at, y_stride, depth, to + at, stride);
}

// Two rows as one of cells, and a row of float32 as cells of its own.
template <typename T>
void pack_two(float *to, const T *x, const T *, int64_t many) {
    for (int64_t k = 0; k < many; k++) to[k] = get(x, k);
}
inline void pack_floats(float *to, const float *x, int64_t many) {
    std::memcpy(to, x, static_cast<size_t>(many) * sizeof(float));
}
#ifdef TWOS
// Many is a multiple of LANES, here and below.
inline void pack_two(two *to, const bf16 *x, const bf16 *below, int64_t many) {
    for (int64_t k = 0; k < many; k += LANES) _mm512_storeu_si512(to + k, (__m512i)wide_cells(x + k, below + k, to));
}
inline void pack_floats(two *to, const float *x, int64_t many) {
    for (int64_t k = 0; k < many; k += LANES) store(reinterpret_cast<bf16 *>(to) + k, load(x + k));
}
#endif

struct Angles {
    const float *cosine, *sine;  // (longest, width); null turns nothing
    int64_t width;

    // Both halves of a head by the position's angles, or back by them.
    template <bool BACK, typename S, typename T>
    void turn(const S *from, T *to, int64_t position) const {
        if (cosine == nullptr) {
            for (int64_t j = 0; j < width; j += LANES) store(to + j, load(from + j));
            return;
        }
        const float *c = cosine + position * width, *n = sine + position * width;
        const int64_t half = width / 2;
        int64_t j = 0;
        for (; j + LANES <= half; j += LANES) {
            const wide first = load(from + j), second = load(from + j + half);
            const wide cross = BACK ? second * load(n + j + half) : -second * load(n + j);
            const wide other = BACK ? -first * load(n + j) : first * load(n + j + half);
            store(to + j, first * load(c + j) + cross);
            store(to + j + half, second * load(c + j + half) + other);
        }
        for (; j < half; j++) {
            const float first = get(from, j), second = get(from, j + half);
            put(to, j, first * c[j] + (BACK ? second * n[j + half] : -second * n[j]));
            put(to, j + half, second * c[j + half] + (BACK ? -first * n[j] : first * n[j + half]));
        }
    }
};

// One head of one sequence in the ways in which products want it; rows beyond its length are zero.
template <typename T>
struct Head {
    typedef cell_of<T> cell;
    int64_t length, width, rows;  // rows: length, padded
    std::vector<T> plain;         // (rows, width)
    std::vector<cell> by_width;   // (rows, cells of width): a row's cells follow its width
    std::vector<cell> by_row;     // (cells of rows, width): a column's cells follow the rows
    std::vector<cell> across;     // (cells of width, rows): by_width, transposed

    void take(const T *x, int64_t stride, int64_t count, const Angles &angles) {
        length = count;
        width = angles.width;
        rows = whole(length, LANES);
        plain.resize(static_cast<size_t>(rows * width));
        std::memset(static_cast<void *>(plain.data() + length * width), 0,
                    static_cast<size_t>((rows - length) * width) * sizeof(T));
        for (int64_t i = 0; i < length; i++) angles.template turn<false>(x + i * stride, plain.data() + i * width, i);
    }

    void pack_by_width() {
        by_width.resize(static_cast<size_t>(rows * cells<T>(width)));
        pack_row(by_width.data(), plain.data(), rows * width);
    }

    void pack_by_row() {
        by_row.resize(static_cast<size_t>(cells<T>(rows) * width));
        for (int64_t i = 0; i < rows; i += PER_CELL<T>) {
            const T *row = plain.data() + i * width;
            pack_two(by_row.data() + i / PER_CELL<T> * width, row, row + (PER_CELL<T> - 1) * width, width);
        }
    }

    void pack_across() {
        pack_by_width();
        const int64_t deep = cells<T>(width);
        across.resize(static_cast<size_t>(deep * rows));
        for (int64_t first = 0; first < rows; first += LANES)
            for (int64_t c = 0; c < deep; c++)
                for (int64_t i = first; i < first + LANES; i++)
                    across[static_cast<size_t>(c * rows + i)] = by_width[static_cast<size_t>(i * deep + c)];
    }
};

inline wide lane_numbers() {
    wide lanes;
    for (int64_t j = 0; j < LANES; j++) lanes[j] = static_cast<float>(j);
    return lanes;
}
inline wide larger(wide a, wide b) { return a > b ? a : b; }
inline eight lower_half(wide v) { return take<eight>(reinterpret_cast<const float *>(&v)); }
inline eight upper_half(wide v) { return take<eight>(reinterpret_cast<const float *>(&v) + EIGHT); }
inline float sum_of(wide v) {
    const eight two_by_two = lower_half(v) + upper_half(v);
    float sums[4];
    for (int64_t j = 0; j < 4; j++) sums[j] = two_by_two[j] + two_by_two[j + 4];
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}
inline float largest_of(wide v) {
    const eight low = lower_half(v), high = upper_half(v), both = low > high ? low : high;
    float most[4];
    for (int64_t j = 0; j < 4; j++) most[j] = both[j] > both[j + 4] ? both[j] : both[j + 4];
    return std::fmax(std::fmax(most[0], most[2]), std::fmax(most[1], most[3]));
}
typedef int32_t wide_ints __attribute__((vector_size(64)));
inline wide exp_fast(wide x) { return exp_of<wide, wide_ints>(x); }

// Scores of TILE rows become exp(scale * (score - the row's largest)) up to each one's query and 0 beyond, up to
// `columns`, less than LANES of which no row sees; inverses are one over the sums of rows.
inline void softmax_tile(float *scores, int64_t stride, int64_t columns, int64_t first, int64_t length, float scale,
                         float *inverses) {
    const int64_t last = columns - LANES;
    const wide lanes = lane_numbers();
    for (int64_t i = 0; i < TILE; i++) {
        float *row = scores + i * stride;
        const auto seen = lanes < static_cast<float>(least(first + i + 1, length) - last);
        const wide final_scores = load(row + last);
        // A score stands in for those that are not seen, which may be anything but infinite.
        wide most = seen ? final_scores : wide{} + row[last], check = most;
        for (int64_t j = 0; j < last; j += LANES) {
            const wide score = load(row + j);
            most = larger(most, score);
            check += score;
        }
        const float largest = largest_of(most);
        wide sum = {};
        for (int64_t j = 0; j < last; j += LANES) {
            const wide e = exp_fast((load(row + j) - largest) * scale);
            store(row + j, e);
            sum += e;
        }
        const wide e = seen ? exp_fast((final_scores - largest) * scale) : wide{};
        store(row + last, e);
        inverses[i] = is_finite(sum_of(check)) ? 1.0f / sum_of(sum + e) : not_a_number();
    }
}

struct Shape {
    const int64_t *sequences;  // (count, 2): first row and length
    int64_t count, queries, keys, width;
    float scale;

    int64_t tasks() const { return count * keys; }
};

// The key head of a sequence, and the query heads that share it.
struct Task {
    int64_t first, length;  // rows
    int64_t key, query, queries_end;

    Task(const Shape &shape, int64_t number) {
        const int64_t *sequence = shape.sequences + number / shape.keys * 2;
        const int64_t group = shape.queries / shape.keys;
        first = sequence[0];
        length = sequence[1];
        key = number % shape.keys;
        query = key * group;
        queries_end = query + group;
    }
};

template <typename T>
void attend(const T *q, const T *k, const T *v, T *out, const Angles &angles, const Shape &shape) {
    typedef cell_of<T> cell;
    const int64_t width = shape.width, deep = cells<T>(width);
    const int64_t q_stride = shape.queries * width, kv_stride = shape.keys * width;
    const Angles still{nullptr, nullptr, width};
#pragma omp parallel
    {
        Head<T> query, key, value;
        std::vector<float> scores;
        std::vector<cell> chances;
        float inverses[TILE];
        std::vector<float> mixed(static_cast<size_t>(TILE * width));
#pragma omp for schedule(dynamic)
        for (int64_t number = 0; number < shape.tasks(); number++) {
            const Task task(shape, number);
            const int64_t first = task.first, length = task.length;
            key.take(k + first * kv_stride + task.key * width, kv_stride, length, angles);
            key.pack_across();
            value.take(v + first * kv_stride + task.key * width, kv_stride, length, still);
            value.pack_by_row();
            const int64_t rows = key.rows;
            scores.resize(static_cast<size_t>(TILE * rows));
            chances.resize(static_cast<size_t>(TILE * rows));
            for (int64_t h = task.query; h < task.queries_end; h++) {
                query.take(q + first * q_stride + h * width, q_stride, length, angles);
                query.pack_by_width();
                for (int64_t i = 0; i < length; i += TILE) {
                    const int64_t columns = whole(least(i + TILE, length), LANES);
                    multiply<false>(query.by_width.data() + i * deep, deep, 1, key.across.data(), rows, deep,
                                    scores.data(), rows, columns);
                    softmax_tile(scores.data(), rows, columns, i, length, shape.scale, inverses);
                    for (int64_t r = 0; r < TILE; r++)
                        pack_floats(chances.data() + r * rows, scores.data() + r * rows, columns);
                    multiply<false>(chances.data(), rows, 1, value.by_row.data(), width, columns / PER_CELL<T>,
                                    mixed.data(), width, width);
                    for (int64_t r = 0; r < least(TILE, length - i); r++)
                        for (int64_t j = 0; j < width; j += LANES)
                            store(out + (first + i + r) * q_stride + h * width + j,
                                  load(mixed.data() + r * width + j) * inverses[r]);
                }
            }
        }
    }
}

template <typename T>
void attend_gradient(const T *q, const T *k, const T *v, const T *grad, T *grad_q, T *grad_k, T *grad_v,
                     const Angles &angles, const Shape &shape) {
    typedef cell_of<T> cell;
    constexpr int64_t per = PER_CELL<T>;
    const int64_t width = shape.width, deep = cells<T>(width);
    const int64_t q_stride = shape.queries * width, kv_stride = shape.keys * width;
    const Angles still{nullptr, nullptr, width};
#pragma omp parallel
    {
        Head<T> query, key, value, given;
        std::vector<float> chances, grads, in_keys, in_values;
        std::vector<cell> turned, held_chances, held_grads;
        std::vector<float> in_query(static_cast<size_t>(TILE * width));
        float inverses[TILE];
#pragma omp for schedule(dynamic)
        for (int64_t number = 0; number < shape.tasks(); number++) {
            const Task task(shape, number);
            const int64_t first = task.first, length = task.length;
            key.take(k + first * kv_stride + task.key * width, kv_stride, length, angles);
            key.pack_across();
            key.pack_by_row();
            value.take(v + first * kv_stride + task.key * width, kv_stride, length, still);
            value.pack_across();
            const int64_t rows = key.rows;
            in_keys.assign(static_cast<size_t>(rows * width), 0);
            in_values.assign(static_cast<size_t>(rows * width), 0);
            chances.resize(static_cast<size_t>(TILE * rows));
            grads.resize(static_cast<size_t>(TILE * rows));
            turned.resize(static_cast<size_t>(TILE * rows));
            held_chances.resize(static_cast<size_t>(BLOCK / per * rows));
            held_grads.resize(static_cast<size_t>(BLOCK / per * rows));
            for (int64_t h = task.query; h < task.queries_end; h++) {
                query.take(q + first * q_stride + h * width, q_stride, length, angles);
                query.pack_by_width();
                query.pack_by_row();
                given.take(grad + first * q_stride + h * width, q_stride, length, still);
                given.pack_by_width();
                given.pack_by_row();
                for (int64_t start = 0; start < length; start += BLOCK) {
                    const int64_t end = least(start + BLOCK, whole(length, TILE));
                    for (int64_t i = start; i < end; i += TILE) {
                        const int64_t columns = whole(least(i + TILE, length), LANES);
                        multiply<false>(query.by_width.data() + i * deep, deep, 1, key.across.data(), rows, deep,
                                        chances.data(), rows, columns);
                        softmax_tile(chances.data(), rows, columns, i, length, shape.scale, inverses);
                        multiply<false>(given.by_width.data() + i * deep, deep, 1, value.across.data(), rows, deep,
                                        grads.data(), rows, columns);
                        for (int64_t r = 0; r < TILE; r++) {
                            float *p = chances.data() + r * rows, *g = grads.data() + r * rows;
                            wide sums = {};
                            for (int64_t j = 0; j < columns; j += LANES) {
                                const wide chance = load(p + j) * inverses[r];
                                store(p + j, chance);
                                sums += chance * load(g + j);
                            }
                            const float dot = sum_of(sums);
                            for (int64_t j = 0; j < columns; j += LANES)
                                store(g + j, shape.scale * load(p + j) * (load(g + j) - dot));
                            pack_floats(turned.data() + r * rows, g, columns);
                        }
                        for (int64_t r = 0; r < TILE; r += per) {
                            const int64_t to = (i - start + r) / per * rows;
                            const int64_t at = r * rows, below = at + (per - 1) * rows;
                            pack_rows(held_chances.data() + to, chances.data() + at, chances.data() + below, columns);
                            pack_rows(held_grads.data() + to, grads.data() + at, grads.data() + below, columns);
                        }
                        multiply<false>(turned.data(), rows, 1, key.by_row.data(), width, columns / per,
                                        in_query.data(), width, width);
                        for (int64_t r = 0; r < least(TILE, length - i); r++)
                            angles.template turn<true>(in_query.data() + r * width,
                                             grad_q + (first + i + r) * q_stride + h * width, i + r);
                    }
                    for (int64_t j = 0; j < end; j += TILE) {
                        const int64_t from = j > start ? j : start, depth = (end - from) / per;
                        const int64_t at = (from - start) / per * rows + j, beside = from / per * width;
                        multiply<true>(held_chances.data() + at, 1, rows, given.by_row.data() + beside, width, depth,
                                       in_values.data() + j * width, width, width);
                        multiply<true>(held_grads.data() + at, 1, rows, query.by_row.data() + beside, width, depth,
                                       in_keys.data() + j * width, width, width);
                    }
                }
            }
            for (int64_t i = 0; i < length; i++) {
                const int64_t to = (first + i) * kv_stride + task.key * width;
                angles.template turn<true>(in_keys.data() + i * width, grad_k + to, i);
                still.template turn<true>(in_values.data() + i * width, grad_v + to, i);
            }
        }
    }
}

}  // namespace

#define EXPORT_ATTENTION(T, SUFFIX)                                                                                    \
    extern "C" void attend_##SUFFIX(const T *q, const T *k, const T *v, T *out, const float *cosine,                   \
                                    const float *sine, const int64_t *sequences, int64_t count, int64_t queries,       \
                                    int64_t keys, int64_t width, float scale) {                                        \
        attend(q, k, v, out, Angles{cosine, sine, width}, Shape{sequences, count, queries, keys, width, scale});       \
    }                                                                                                                  \
    extern "C" void attend_gradient_##SUFFIX(const T *q, const T *k, const T *v, const T *grad, T *grad_q, T *grad_k,  \
                                             T *grad_v, const float *cosine, const float *sine,                        \
                                             const int64_t *sequences, int64_t count, int64_t queries, int64_t keys,   \
                                             int64_t width, float scale) {                                             \
        attend_gradient(q, k, v, grad, grad_q, grad_k, grad_v, Angles{cosine, sine, width},                            \
                        Shape{sequences, count, queries, keys, width, scale});                                         \
    }

EXPORT_ATTENTION(float, f32)
EXPORT_ATTENTION(bf16, bf16)
