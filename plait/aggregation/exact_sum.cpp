// The sums of plait.aggregation.exact_sum, whose numpy version is the specification. Nothing is rounded, so it does not matter
// what is added first. Cutting takes time and is seldom needed: addends whose lowest and highest bits are close enough, such as
// a coarse codec's, add up exactly in plain float64. So each block of the sum has a float64 in front of its limbs, with the
// place of its lowest bit and a bound, and only what would round is cut.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t STRIP = 512, LIMB_BITS = 32, WHOLE_BITS = 53;
constexpr int64_t MANTISSA_BITS = 23, BIAS = 127;  // of float32
constexpr int64_t DONE = -1;

int64_t place_of(int64_t exponent) { return exponent >> 5; }

// Of numbers and their sums in any order: the exponent of a common unit, and what no sum exceeds.
struct Extent {
    int64_t unit = 1 << 16;
    double most = 0;

    static Extent of(const float *values, int64_t count) {
        uint32_t largest = 0, least = UINT32_MAX;
        for (int64_t i = 0; i < count; i++) {
            uint32_t size;
            std::memcpy(&size, values + i, sizeof size);
            size &= 0x7FFFFFFF;
            largest = std::max(largest, size);
            least = std::min(least, size - 1);  // a zero becomes the largest of all
        }
        if (largest == 0) return {};
        const int64_t exponent = (least + 1) >> MANTISSA_BITS, most = largest >> MANTISSA_BITS;
        return {std::max<int64_t>(exponent, 1) - BIAS - MANTISSA_BITS, std::ldexp(1.0, most - BIAS + 1)};
    }

    Extent times(int64_t piece, int64_t exponent) const {
        return most == 0 ? *this : Extent{unit + exponent, std::ldexp(most * piece, exponent)};
    }

    Extent plus(const Extent &other) const { return {std::min(unit, other.unit), most + other.most}; }

    // No sum exceeds 2^top.
    int64_t top() const { return std::ilogb(most) + 1; }

    bool is_exact() const { return most == 0 || top() - unit <= WHOLE_BITS; }
};

struct Limbs {
    double *const *at;
    int64_t lowest, count;

    bool hold(const Extent &extent) const {
        return extent.most == 0 || (place_of(extent.unit) >= lowest && place_of(extent.top()) < lowest + count);
    }

    // Add numbers from `start` on, which become zeros.
    void cut(double *values, int64_t count, int64_t start, const Extent &extent) const {
        for (int64_t place = place_of(extent.top()); extent.most != 0 && place >= place_of(extent.unit); place--) {
            // Adding 1.5 * 2^52 units rounds to whole units.
            const double anchor = std::ldexp(1.5, 52 + LIMB_BITS * place), scale = std::ldexp(1.0, -LIMB_BITS * place);
            double *__restrict limb = at[place - lowest] + start;
            for (int64_t i = 0; i < count; i++) {
                const double whole = (values[i] + anchor) - anchor;
                values[i] -= whole;
                limb[i] += whole * scale;
            }
        }
    }
};

template <typename Number>
void add(double *__restrict to, const Number *__restrict row, int64_t count, double factor) {
    for (int64_t i = 0; i < count; i++) to[i] += factor * row[i];
}

}  // namespace

// Add rows, each times piece 2^exponent, to a sum. rows: addresses of (size) float32. front: (size). units, mosts: (blocks) the
// extents of the front, by blocks of
// `block_size`. With no rows the front is cut. limbs: addresses of (size) float64 by place, from `lowest` on. Begins with block `first`; gives the block
// that needs further places, and in `needed` the lowest and the highest, or DONE.
extern "C" int64_t exact_add(const float *const *rows, const int64_t *pieces, const int64_t *exponents, int64_t count,
                             int64_t size, int64_t block_size, double *front, int64_t *units, double *mosts, double *const *limbs,
                             int64_t lowest, int64_t places, int64_t first, int64_t *needed) {
    const Limbs into{limbs, lowest, places};
    for (int64_t block = first; block * block_size < size; block++) {
        const int64_t start = block * block_size, width = std::min(block_size, size - start);
        const Extent before = mosts[block] == 0 ? Extent{} : Extent{units[block], mosts[block]};
        Extent own, added;
        for (int64_t row = 0; row < count; row++) {
            // A weight of several pieces comes with the same values in a row.
            if (row == 0 || rows[row] != rows[row - 1]) own = Extent::of(rows[row] + start, width);
            added = added.plus(own.times(pieces[row], exponents[row]));
        }
        Extent after = before.plus(added);
        if (!after.is_exact() || count == 0) {
            const Extent &cut = added.is_exact() ? before : after;
            if (!into.hold(cut)) {
                needed[0] = place_of(cut.unit);
                needed[1] = place_of(cut.top());
                return block;
            }
            into.cut(front + start, width, start, before);
            after = added;
        }
        units[block] = after.unit;
        mosts[block] = after.most;
        const bool is_exact = after.is_exact();
        for (int64_t at = start; at < start + width; at += STRIP) {
            const int64_t some = std::min(STRIP, start + width - at);
            for (int64_t row = 0; row < count; row++) {
                add(front + at, rows[row] + at, some, std::ldexp(static_cast<double>(pieces[row]), exponents[row]));
                if (!is_exact) into.cut(front + at, some, at, added);
            }
        }
        if (!is_exact) mosts[block] = 0;
    }
    return DONE;
}

// Carry from limb to limb, all but the highest, and write what they come to: the same for the same sum.
extern "C" void exact_total(double *const *limbs, int64_t lowest, int64_t places, int64_t size, double *total) {
    for (int64_t start = 0; start < size; start += STRIP) {
        const int64_t width = std::min(STRIP, size - start);
        for (int64_t k = 0; k + 1 < places; k++) {
            double *__restrict limb = limbs[k] + start, *__restrict next = limbs[k + 1] + start;
            for (int64_t i = 0; i < width; i++) {
                const double up = std::floor(limb[i] * 0x1p-32);
                limb[i] -= up * 0x1p32;
                next[i] += up;
            }
        }
        double *__restrict to = total + start;
        std::fill(to, to + width, 0.0);
        for (int64_t k = places; k-- > 0;) add(to, limbs[k] + start, width, std::ldexp(1.0, LIMB_BITS * (lowest + k)));
    }
}
