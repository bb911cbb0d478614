// Weights of few bits, back to float32 or bfloat16: NF4, and the blocks of GGUF files. few_bits.py says what each format
// holds; its plain versions there are the specification.
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

constexpr int64_t NORMAL_BLOCK = 64, OUTER_BLOCK = 256;  // values that share a scale, and scales that do
constexpr float NORMAL[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// The values of the sixteen codes in eight bytes, the high half of a byte first.
#if defined(__AVX512F__)
inline wide normal_values(const uint8_t *bytes) {
    const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(bytes)), low = _mm_set1_epi8(15);
    const __m128i codes = _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(both, 4), low), _mm_and_si128(both, low));
    return (wide)_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), _mm512_loadu_ps(NORMAL));
}
#elif defined(__AVX2__)
inline __m256 normal_half(__m256i codes) {
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(NORMAL), codes);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(NORMAL + 8), codes);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
}
inline wide normal_values(const uint8_t *bytes) {
    const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(bytes)), low = _mm_set1_epi8(15);
    const __m128i codes = _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(both, 4), low), _mm_and_si128(both, low));
    float values[16];
    _mm256_storeu_ps(values, normal_half(_mm256_cvtepu8_epi32(codes)));
    _mm256_storeu_ps(values + 8, normal_half(_mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8))));
    return load(values);
}
#elif defined(__aarch64__)
inline wide normal_values(const uint8_t *bytes) {
    const uint8x8_t both = vld1_u8(bytes), high = vshr_n_u8(both, 4), low = vand_u8(both, vdup_n_u8(15));
    const uint8x16_t codes = vcombine_u8(vzip1_u8(high, low), vzip2_u8(high, low));
    // The table's 64 bytes are looked up one by one: byte b of value c is at 4 c + b.
    const uint8x16x4_t table = vld1q_u8_x4(reinterpret_cast<const uint8_t *>(NORMAL));
    static const uint8_t spread[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    static const uint8_t within[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    uint8_t values[64];
    for (uint8_t quarter = 0; quarter < 4; quarter++) {
        const uint8x16_t four = vqtbl1q_u8(codes, vaddq_u8(vld1q_u8(spread), vdupq_n_u8(4 * quarter)));
        vst1q_u8(values + 16 * quarter, vqtbl4q_u8(table, vaddq_u8(vshlq_n_u8(four, 2), vld1q_u8(within))));
    }
    wide v;
    std::memcpy(&v, values, sizeof v);
    return v;
}
#else
inline wide normal_values(const uint8_t *bytes) {
    float values[16];
    for (int64_t j = 0; j < 8; j++) {
        values[2 * j] = NORMAL[bytes[j] >> 4];
        values[2 * j + 1] = NORMAL[bytes[j] & 15];
    }
    return load(values);
}
#endif

// The scales are in eight bits themselves: numbers in `map`, with a scale for every OUTER_BLOCK and an offset for all.
struct Scales {
    const uint8_t *numbers;
    const float *outer, *map;
    float offset;

    float of(int64_t block) const {
        // Rounded before it is added to, whatever the compiler would rather do.
        const volatile float product = map[numbers[block]] * outer[block / OUTER_BLOCK];
        return product + offset;
    }
};

template <typename T>
void unpack_normal(const uint8_t *codes, const Scales &scales, T *out, int64_t blocks) {
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        const float scale = scales.of(b);
        for (int64_t j = 0; j < NORMAL_BLOCK; j += LANES)
            store(out + b * NORMAL_BLOCK + j, normal_values(codes + (b * NORMAL_BLOCK + j) / 2) * scale);
    }
}

// Each value's code is the number of bounds, midway between neighbouring values, that lie below it.
template <typename T>
void pack_normal(const T *x, uint8_t *codes, float *scales, int64_t blocks) {
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        float from[NORMAL_BLOCK], most = 0;
        for (int64_t j = 0; j < NORMAL_BLOCK; j++) from[j] = get(x, b * NORMAL_BLOCK + j);
        for (int64_t j = 0; j < NORMAL_BLOCK; j++) most = std::fmax(most, std::fabs(from[j]));
        scales[b] = most;
        const float inverse = 1.0f / std::fmax(most, 1e-38f);
        int32_t below[NORMAL_BLOCK] = {};
        for (int64_t k = 0; k < 15; k++) {
            const float bound = (NORMAL[k] + NORMAL[k + 1]) / 2;
            for (int64_t j = 0; j < NORMAL_BLOCK; j++) below[j] += from[j] * inverse > bound;
        }
        for (int64_t j = 0; j < NORMAL_BLOCK; j += 2)
            codes[(b * NORMAL_BLOCK + j) / 2] = static_cast<uint8_t>(below[j] << 4 | below[j + 1]);
    }
}

inline float half_at(const uint8_t *bytes) {
    uint16_t half;
    std::memcpy(&half, bytes, 2);
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7fff;
    // Moved to float32's place, the exponent is 112 too small, which a product mends: of subnormal numbers too.
    uint32_t bits = rest << 13;
    float value;
    std::memcpy(&value, &bits, 4);
    value *= 5.192296858534828e33f;  // 2^112
    std::memcpy(&bits, &value, 4);
    if (rest >= 0x7c00) bits = rest << 13 | 0x7f800000u;
    bits |= sign;
    std::memcpy(&value, &bits, 4);
    return value;
}

struct Q8_0 {  // scale; 32 signed numbers
    static constexpr int64_t values = 32, bytes = 34;
    static void unpack(const uint8_t *from, float *to) {
        const float scale = half_at(from);
        for (int64_t j = 0; j < 32; j++) to[j] = scale * static_cast<float>(static_cast<int8_t>(from[2 + j]));
    }
};

// 16 bytes hold 32 numbers: the low halves are the first sixteen.
struct Q4_0 {
    static constexpr int64_t values = 32, bytes = 18;
    static void unpack(const uint8_t *from, float *to) {
        const float scale = half_at(from);
        for (int64_t j = 0; j < 16; j++) {
            to[j] = scale * static_cast<float>((from[2 + j] & 15) - 8);
            to[j + 16] = scale * static_cast<float>((from[2 + j] >> 4) - 8);
        }
    }
};

struct Q4_1 {  // scale and least value
    static constexpr int64_t values = 32, bytes = 20;
    static void unpack(const uint8_t *from, float *to) {
        const float scale = half_at(from), least_value = half_at(from + 2);
        for (int64_t j = 0; j < 16; j++) {
            to[j] = scale * static_cast<float>(from[4 + j] & 15) + least_value;
            to[j + 16] = scale * static_cast<float>(from[4 + j] >> 4) + least_value;
        }
    }
};

struct Q5_0 {  // the fifth bits apart
    static constexpr int64_t values = 32, bytes = 22;
    static void unpack(const uint8_t *from, float *to) {
        const float scale = half_at(from);
        uint32_t fifth;
        std::memcpy(&fifth, from + 2, 4);
        for (int64_t j = 0; j < 16; j++) {
            const int32_t low = (from[6 + j] & 15) | static_cast<int32_t>((fifth >> j & 1) << 4);
            const int32_t high = (from[6 + j] >> 4) | static_cast<int32_t>((fifth >> (j + 16) & 1) << 4);
            to[j] = scale * static_cast<float>(low - 16);
            to[j + 16] = scale * static_cast<float>(high - 16);
        }
    }
};

// Eight pairs of six bits in twelve bytes: a scale and a minimum for every 32 values.
inline void scale_and_minimum(const uint8_t *from, int64_t j, float &scale, float &minimum) {
    if (j < 4) {
        scale = static_cast<float>(from[j] & 63);
        minimum = static_cast<float>(from[j + 4] & 63);
    } else {
        scale = static_cast<float>((from[j + 4] & 15) | (from[j - 4] >> 6) << 4);
        minimum = static_cast<float>((from[j + 4] >> 4) | (from[j] >> 6) << 4);
    }
}

struct Q4_K {
    static constexpr int64_t values = 256, bytes = 144;
    static void unpack(const uint8_t *from, float *to) {
        const float scale = half_at(from), minimum = half_at(from + 2);
        for (int64_t part = 0; part < 8; part++) {
            const uint8_t *codes = from + 16 + part / 2 * 32;
            float by, less;
            scale_and_minimum(from + 4, part, by, less);
            const float step = scale * by, shift = minimum * less;
            const int32_t half = part % 2 * 4;
            for (int64_t j = 0; j < 32; j++)
                to[part * 32 + j] = step * static_cast<float>(codes[j] >> half & 15) - shift;
        }
    }
};

struct Q6_K {  // four bits, two bits, sixteen scales, one scale for all
    static constexpr int64_t values = 256, bytes = 210;
    static void unpack(const uint8_t *from, float *to) {
        const float scale = half_at(from + 208);
        for (int64_t part = 0; part < 8; part++) {
            const int64_t upper = part / 4, quarter = part % 4;
            const uint8_t *four = from + upper * 64 + quarter % 2 * 32, *two = from + 128 + upper * 32;
            const int64_t half = quarter / 2 * 4, at = quarter * 2;
            for (int64_t j = 0; j < 32; j++) {
                const int32_t code = (four[j] >> half & 15) | (two[j] >> at & 3) << 4;
                const float by = scale * static_cast<float>(static_cast<int8_t>(from[192 + part * 2 + j / 16]));
                to[part * 32 + j] = by * static_cast<float>(code - 32);
            }
        }
    }
};

// Rows of `blocks` blocks each; those that `chosen` names, or the first `rows`.
template <typename Format, typename T>
void unpack_rows(const uint8_t *held, const int64_t *chosen, T *out, int64_t rows, int64_t blocks) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const uint8_t *from = held + (chosen == nullptr ? i : chosen[i]) * blocks * Format::bytes;
        for (int64_t b = 0; b < blocks; b++) {
            float values[Format::values];
            Format::unpack(from + b * Format::bytes, values);
            T *to = out + (i * blocks + b) * Format::values;
            for (int64_t j = 0; j < Format::values; j += LANES) store(to + j, load(values + j));
        }
    }
}

}  // namespace

#define EXPORT_FORMAT(FORMAT, NAME, T, SUFFIX)                                                                         \
    extern "C" void unpack_##NAME##_##SUFFIX(const uint8_t *held, const int64_t *chosen, T *out, int64_t rows,         \
                                             int64_t blocks) {                                                         \
        unpack_rows<FORMAT>(held, chosen, out, rows, blocks);                                                          \
    }
#define EXPORT_FEW_BITS(T, SUFFIX)                                                                                     \
    EXPORT_FORMAT(Q8_0, q8_0, T, SUFFIX)                                                                               \
    EXPORT_FORMAT(Q4_0, q4_0, T, SUFFIX)                                                                               \
    EXPORT_FORMAT(Q4_1, q4_1, T, SUFFIX)                                                                               \
    EXPORT_FORMAT(Q5_0, q5_0, T, SUFFIX)                                                                               \
    EXPORT_FORMAT(Q4_K, q4_k, T, SUFFIX)                                                                               \
    EXPORT_FORMAT(Q6_K, q6_k, T, SUFFIX)                                                                               \
    extern "C" void unpack_normal_##SUFFIX(const uint8_t *codes, const uint8_t *scales, const float *outer,            \
                                           const float *map, float offset, T *out, int64_t blocks) {                   \
        unpack_normal(codes, Scales{scales, outer, map, offset}, out, blocks);                                         \
    }                                                                                                                  \
    extern "C" void pack_normal_##SUFFIX(const T *x, uint8_t *codes, float *scales, int64_t blocks) {                  \
        pack_normal(x, codes, scales, blocks);                                                                         \
    }

EXPORT_FEW_BITS(float, f32)
EXPORT_FEW_BITS(bf16, bf16)
