// The payload of plait.wire.codecs.rate: indices of a trellis's quantisers in streams of an asymmetric numeral system, whose
// slow version in `streams.py` is the specification. Integers only; values are copied from tables. Bytes are a peer's: every
// index into a buffer is bounded by what is checked here, whatever they are.
#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

namespace {

constexpr int64_t PRECISION = 24, BUCKET_BITS = 11, MOST_STREAMS = 8, STATE_BITS = 8;
constexpr uint32_t WHOLE = 1u << PRECISION;
constexpr uint64_t LOW = 1ull << 32;  // of a state that needs no further word

enum Verdict : int64_t { FINE, NO_MEMORY, CUT_OFF, GOES_ON };

// An index of a quantiser: its frequency, the sum of those before it, the number that it stands for.
struct Entry {
    uint32_t start, frequency;
    float value;
    uint32_t is_odd;
};

// The indices of a group's quantisers, one after the other. Each part of each quantiser's range has in `first` the first index
// that reaches into it.
struct Book {
    const Entry *entries;
    uint16_t first[2 << BUCKET_BITS];

    const Entry &find(uint32_t quantiser, uint32_t at) const {
        const Entry *entry = entries + first[quantiser << BUCKET_BITS | at >> (PRECISION - BUCKET_BITS)];
        while (__builtin_expect(entry[1].start <= at, 0)) entry++;  // ends at the last one's follower, whose start is WHOLE
        return *entry;
    }
};

struct Books {
    std::vector<Entry> entries;
    std::vector<Book> groups;

    // largest: of each group. frequencies, values: of all indices of both quantisers of each group.
    Books(const int32_t *largest, int64_t count, const uint32_t *frequencies, const float *values) : groups(count) {
        int64_t total = 0;
        for (int64_t g = 0; g < count; g++) total += 2 * (2 * static_cast<int64_t>(largest[g]) + 2);
        entries.resize(total);
        Entry *to = entries.data();
        for (int64_t g = 0; g < count; g++) {
            Book &book = groups[g];
            book.entries = to;
            for (int64_t quantiser = 0; quantiser < 2; quantiser++) {
                uint32_t sum = 0;
                int64_t bucket = 0;
                for (int64_t k = -largest[g]; k <= largest[g]; k++) {
                    const uint32_t frequency = *frequencies++;
                    *to = {sum, frequency, values == nullptr ? 0 : *values++, static_cast<uint32_t>(k & 1)};
                    sum += frequency;
                    for (; bucket < 1 << BUCKET_BITS && bucket << (PRECISION - BUCKET_BITS) < sum; bucket++)
                        book.first[quantiser << BUCKET_BITS | bucket] = static_cast<uint16_t>(to - book.entries);
                    to++;
                }
                *to++ = {WHOLE, 0, 0, 0};
            }
        }
    }
};

// The numbers of one group in one row of lanes: coded stream by stream, each with a block of neighbouring lanes, and in
// it those of quantiser 0 before those of quantiser 1.
struct Part {
    int64_t group, first, last;  // numbers, as all are counted
};

std::vector<Part> parts_of(const int64_t *sizes, int64_t groups, int64_t lanes) {
    std::vector<Part> parts;
    int64_t start = 0, end = 0;
    for (int64_t group = 0; group < groups; group++) {
        end += sizes[group];
        while (start < end) {
            const int64_t stop = std::min(end, start - start % lanes + lanes);
            parts.push_back({group, start, stop});
            start = stop;
        }
    }
    return parts;
}

// The lanes of a part, in the order of each stream.
struct Order {
    std::vector<uint32_t> lanes, odd;
    const uint32_t *of[MOST_STREAMS];
    int64_t count[MOST_STREAMS], least = 0;

    explicit Order(int64_t width) : lanes(width), odd(width) {}

    // What `word` gives of a lane is kept, and begins with the quantiser in its lowest bit.
    template <typename Word>
    void sort(int64_t begin, int64_t end, int64_t width, int64_t streams, Word word) {
        least = end - begin;
        for (int64_t j = 0; j < streams; j++) {
            const int64_t a = std::max(begin, width * j / streams), b = std::min(end, width * (j + 1) / streams);
            of[j] = lanes.data() + a;
            count[j] = std::max<int64_t>(0, b - a);
            least = std::min(least, count[j]);
            uint32_t *even = lanes.data() + a, *other = odd.data();
            for (int64_t lane = a; lane < b; lane++) {
                const uint32_t found = word(lane), second = found & 1;
                *even = found;
                *other = found;
                even += 1 - second;
                other += second;
            }
            std::copy(odd.data(), other, even);
        }
    }
};

// Words are taken from the end.
struct Reader {
    uint64_t state = 0;
    const uint32_t *begin = nullptr, *at = nullptr;

    bool open(const uint32_t *words, int64_t count) {
        begin = words;
        at = words + count;
        if (count == 0) return true;
        if (at[-1] == 0) return false;
        state = *--at;
        if (at != begin) state = state << 32 | *--at;
        return true;
    }

    const Entry &next(const Book &book, uint32_t quantiser) {
        const uint32_t slot = static_cast<uint32_t>(state) & (WHOLE - 1);
        const Entry &entry = book.find(quantiser, slot);
        state = entry.frequency * (state >> PRECISION) + (slot - entry.start);
        if (__builtin_expect(state < LOW, 0) && at != begin) state = state << 32 | *--at;
        return entry;
    }
};

struct Writer {
    uint64_t state = 0;
    std::vector<uint32_t> words;

    inline void put(const Entry &entry) {
        if (state >> (64 - PRECISION) >= entry.frequency) {
            words.push_back(static_cast<uint32_t>(state));
            state >>= 32;
        }
        state = (state / entry.frequency) << PRECISION | (entry.start + state % entry.frequency);
    }

    void finish() {
        if (state) words.push_back(static_cast<uint32_t>(state));
        if (state >> 32) words.push_back(static_cast<uint32_t>(state >> 32));
    }
};

// Where numbers go that are in group order.
struct Scatter {
    const int64_t *places, *end;  // (offset, size) of each tensor
    float *flat;
    int64_t offset = 0, left = 0;

    void write(const float *from, int64_t count) {
        while (count > 0) {
            while (left == 0 && places != end) {
                offset = places[0];
                left = places[1];
                places += 2;
            }
            const int64_t some = std::min(left, count);
            if (some == 0) return;
            std::copy(from, from + some, flat + offset);
            from += some;
            count -= some;
            offset += some;
            left -= some;
        }
    }
};

// Decode the lanes of a part: all streams side by side as long as each has some left.
void follow(Reader *__restrict readers, int64_t streams, const Order &order, const Book &book,
            const uint16_t *__restrict following, uint16_t *__restrict state, float *__restrict row) {
    const auto one = [&](Reader &reader, uint32_t word) {
        const uint32_t lane = word >> STATE_BITS, now = word & ((1 << STATE_BITS) - 1);
        const Entry &entry = reader.next(book, now & 1);
        state[lane] = following[2 * now + entry.is_odd];
        row[lane] = entry.value;
    };
    int64_t done = 0;
    if (streams == MOST_STREAMS) {
        Reader own[MOST_STREAMS];
        std::copy(readers, readers + MOST_STREAMS, own);
        for (; done < order.least; done++)
#pragma GCC unroll 8
            for (int64_t j = 0; j < MOST_STREAMS; j++) one(own[j], order.of[j][done]);
        std::copy(own, own + MOST_STREAMS, readers);
    }
    for (int64_t j = 0; j < streams; j++)
        for (int64_t t = done; t < order.count[j]; t++) one(readers[j], order.of[j][t]);
}

int64_t unpack(const uint32_t *words, const int64_t *lengths, int64_t streams, const int64_t *sizes,
               const int32_t *largest, int64_t groups, const uint32_t *frequencies, const float *values,
               const uint16_t *following, int64_t states, int64_t lanes, const int64_t *places, int64_t tensors,
               float *flat) {
    const Books books(largest, groups, frequencies, values);
    Reader readers[MOST_STREAMS];
    for (int64_t j = 0; j < streams; j++) {
        if (!readers[j].open(words, lengths[j])) return CUT_OFF;
        words += lengths[j];
    }
    std::vector<uint16_t> state(lanes);
    for (int64_t lane = 0; lane < lanes; lane++) state[lane] = static_cast<uint16_t>(lane % states);
    std::vector<float> row(lanes);
    Order order(lanes);
    Scatter scatter{places, places + 2 * tensors, flat};
    for (const Part &part : parts_of(sizes, groups, lanes)) {
        const int64_t begin = part.first % lanes, end = begin + part.last - part.first;
        order.sort(begin, end, lanes, streams,
                   [&](int64_t lane) { return static_cast<uint32_t>(lane) << STATE_BITS | state[lane]; });
        follow(readers, streams, order, books.groups[part.group], following, state.data(), row.data());
        scatter.write(row.data() + begin, end - begin);
    }
    for (int64_t j = 0; j < streams; j++)
        if (readers[j].state != 0 || readers[j].at != readers[j].begin) return GOES_ON;
    return FINE;
}

int64_t pack(const int32_t *symbols, const uint8_t *second, const int64_t *sizes, const int32_t *largest,
             int64_t groups, const uint32_t *frequencies, int64_t lanes, int64_t streams, uint32_t *words,
             int64_t most, int64_t *lengths) {
    const Books books(largest, groups, frequencies, nullptr);
    Writer writers[MOST_STREAMS];
    Order order(lanes);
    const std::vector<Part> parts = parts_of(sizes, groups, lanes);
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
        const int64_t begin = part->first % lanes, end = begin + part->last - part->first, row = part->first - begin;
        order.sort(begin, end, lanes, streams,
                   [&](int64_t lane) { return static_cast<uint32_t>(lane) << 1 | second[row + lane]; });
        const Entry *entries = books.groups[part->group].entries;
        const int64_t side = 2 * static_cast<int64_t>(largest[part->group]) + 2;
        for (int64_t j = 0; j < streams; j++)
            for (int64_t t = order.count[j]; t-- > 0;) {
                const uint32_t word = order.of[j][t];
                writers[j].put(entries[side * (word & 1) + symbols[row + (word >> 1)]]);
            }
    }
    for (int64_t j = 0; j < streams; j++) {
        writers[j].finish();
        lengths[j] = static_cast<int64_t>(writers[j].words.size());
        if ((most -= lengths[j]) < 0) return GOES_ON;
        words = std::copy(writers[j].words.begin(), writers[j].words.end(), words);
    }
    return FINE;
}

}  // namespace

// words: those of each stream, one after the other. lengths: (streams) of each. sizes, largest: (groups). frequencies, values:
// of all indices of both quantisers of every group, each side's sum being 2^24. following: (states, 2). places: (tensors, 2)
// offset and size of every tensor in group order. flat: the result. Gives a Verdict.
extern "C" int64_t rate_unpack(const uint32_t *words, const int64_t *lengths, int64_t streams, const int64_t *sizes,
                               const int32_t *largest, int64_t groups, const uint32_t *frequencies, const float *values,
                               const uint16_t *following, int64_t states, int64_t lanes, const int64_t *places,
                               int64_t tensors, float *flat) {
    try {
        return unpack(words, lengths, streams, sizes, largest, groups, frequencies, values, following, states, lanes,
                      places, tensors, flat);
    } catch (const std::bad_alloc &) {
        return NO_MEMORY;
    }
}

// symbols, second: of every number, from 0 on, and whether it is of quantiser 1. words: room for `most`. lengths: the result's.
extern "C" int64_t rate_pack(const int32_t *symbols, const uint8_t *second, const int64_t *sizes, const int32_t *largest,
                             int64_t groups, const uint32_t *frequencies, int64_t lanes, int64_t streams,
                             uint32_t *words, int64_t most, int64_t *lengths) {
    try {
        return pack(symbols, second, sizes, largest, groups, frequencies, lanes, streams, words, most, lengths);
    } catch (const std::bad_alloc &) {
        return NO_MEMORY;
    }
}
