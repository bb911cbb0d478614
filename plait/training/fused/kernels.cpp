// Elementwise kernels of a Llama-like decoder on the CPU, for float32 and bfloat16: read once, compute in float32,
// round once, write once. Every row is summed in one fixed order, so results do not depend on the number of threads.
// kernels.py says what each one computes; its plain versions there are the specification.
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct bf16 {
    uint16_t bits;
};

inline float get(const float *x, int64_t i) { return x[i]; }
inline void put(float *x, int64_t i, float value) { x[i] = value; }

inline float get(const bf16 *x, int64_t i) {
    uint32_t bits = static_cast<uint32_t>(x[i].bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline void put(bf16 *x, int64_t i, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits += 0x7fffu + ((bits >> 16) & 1u);  // to nearest, ties to even
    x[i].bits = static_cast<uint16_t>(bits >> 16);
}

// exp(x) to 2 ulp: 2^n * p(r), |r| <= ln(2)/2 (Cephes' polynomial), of a float or of a vector of them, with integers of
// the same shape. libm's does not vectorise. Beyond float's range it saturates; callers see to it that NaN is not lost.
template <typename V, typename I>
inline V exp_of(V x) {
    const V lowest = V{} - 87.3f, highest = V{} + 88.3f;
    x = x < lowest ? lowest : x;
    x = x > highest ? highest : x;
    const V shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23 rounds to an integer
    const V n = shifted - 12582912.0f;
    const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    V p = V{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    I bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4b400000 + 127) << 23;
    V two_to_n;
    std::memcpy(&two_to_n, &bits, sizeof bits);
    return p * two_to_n;
}

inline float exp_fast(float x) { return exp_of<float, int32_t>(x); }

// Whether x is neither infinite nor NaN; by its bits, for the compiler may take all numbers for finite.
inline bool is_finite(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

inline float not_a_number() {
    const uint32_t bits = 0x7fc00000u;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

template <typename T>
float inverse_rms(const T *x, int64_t width, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; j++) sum += get(x, j) * get(x, j);
    return 1.0f / std::sqrt(sum / static_cast<float>(width) + eps);
}

template <typename T>
void rms_norm(const T *x, const T *weight, T *out, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const T *row = x + i * width;
        T *to = out + i * width;
        const float scale = inverse_rms(row, width, eps);
#pragma omp simd
        for (int64_t j = 0; j < width; j++) put(to, j, get(row, j) * scale * get(weight, j));
    }
}

template <typename T>
void rms_norm_gradient(const T *x, const T *weight, const T *grad, const T *residual, T *out, int64_t rows,
                       int64_t width, float eps) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const T *row = x + i * width, *g = grad + i * width, *skip = residual + i * width;
        T *to = out + i * width;
        const float scale = inverse_rms(row, width, eps);
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < width; j++) dot += get(g, j) * get(weight, j) * get(row, j);
        const float along = dot * scale * scale / static_cast<float>(width);
#pragma omp simd
        for (int64_t j = 0; j < width; j++)
            put(to, j, get(skip, j) + scale * (get(g, j) * get(weight, j) - get(row, j) * along));
    }
}

template <typename T>
void swiglu(const T *gate, const T *up, T *out, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const T *g = gate + i * width, *u = up + i * width;
        T *to = out + i * width;
#pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            const float v = get(g, j);
            put(to, j, v / (1.0f + exp_fast(-v)) * get(u, j));
        }
    }
}

template <typename T>
void swiglu_gradient(const T *grad, const T *gate, const T *up, T *out, T *grad_gate, T *grad_up, int64_t rows,
                     int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const int64_t at = i * width;
        const T *d = grad + at, *g = gate + at, *u = up + at;
        T *h = out + at, *dg = grad_gate + at, *du = grad_up + at;
#pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            const float v = get(g, j), other = get(u, j), from = get(d, j);
            const float sigmoid = 1.0f / (1.0f + exp_fast(-v));
            const float silu = v * sigmoid;
            put(h, j, silu * other);
            put(dg, j, from * other * (sigmoid + silu * (1.0f - sigmoid)));
            put(du, j, from * silu);
        }
    }
}

const float no_logit = -1e30f;  // below every logit, and finite

template <typename T>
void absorb_logits(T *logits, const int64_t *targets, int64_t first, float *most, float *sum, float *hit,
                   float *rescale, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        T *row = logits + i * width;
        const int64_t target = targets[i] - first;
        if (0 <= target && target < width) {
            hit[i] = get(row, target);
            put(row, target, no_logit);
        }
        float top = most[i], check = 0, added = 0;
#pragma omp simd reduction(max : top) reduction(+ : check)
        for (int64_t j = 0; j < width; j++) {
            top = std::fmax(top, get(row, j));
            check += get(row, j);
        }
#pragma omp simd reduction(+ : added)
        for (int64_t j = 0; j < width; j++) {
            const float e = exp_fast(get(row, j) - top);
            added += e;
            put(row, j, e);
        }
        rescale[i] = exp_fast(most[i] - top);
        sum[i] = is_finite(check) ? sum[i] * rescale[i] + added : not_a_number();
        most[i] = top;
    }
}

template <typename T>
void accumulate_rescaled(float *total, const T *added, const float *rescale, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        float *to = total + i * width;
        const T *from = added + i * width;
        const float factor = rescale[i];
#pragma omp simd
        for (int64_t j = 0; j < width; j++) to[j] = to[j] * factor + get(from, j);
    }
}

}  // namespace

#define EXPORT(T, SUFFIX)                                                                                              \
    extern "C" void rms_norm_##SUFFIX(const T *x, const T *weight, T *out, int64_t rows, int64_t width, float eps) {   \
        rms_norm(x, weight, out, rows, width, eps);                                                                    \
    }                                                                                                                  \
    extern "C" void rms_norm_gradient_##SUFFIX(const T *x, const T *weight, const T *grad, const T *residual, T *out,  \
                                               int64_t rows, int64_t width, float eps) {                               \
        rms_norm_gradient(x, weight, grad, residual, out, rows, width, eps);                                           \
    }                                                                                                                  \
    extern "C" void swiglu_##SUFFIX(const T *gate, const T *up, T *out, int64_t rows, int64_t width) {                 \
        swiglu(gate, up, out, rows, width);                                                                            \
    }                                                                                                                  \
    extern "C" void swiglu_gradient_##SUFFIX(const T *grad, const T *gate, const T *up, T *out, T *grad_gate,          \
                                             T *grad_up, int64_t rows, int64_t width) {                                \
        swiglu_gradient(grad, gate, up, out, grad_gate, grad_up, rows, width);                                         \
    }                                                                                                                  \
    extern "C" void absorb_logits_##SUFFIX(T *logits, const int64_t *targets, int64_t first, float *most, float *sum,  \
                                           float *hit, float *rescale, int64_t rows, int64_t width) {                  \
        absorb_logits(logits, targets, first, most, sum, hit, rescale, rows, width);                                   \
    }                                                                                                                  \
    extern "C" void accumulate_rescaled_##SUFFIX(float *total, const T *added, const float *rescale, int64_t rows,     \
                                                 int64_t width) {                                                      \
        accumulate_rescaled(total, added, rescale, rows, width);                                                       \
    }

EXPORT(float, f32)
EXPORT(bf16, bf16)
