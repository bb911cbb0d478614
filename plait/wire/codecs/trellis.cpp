// The search of plait.wire.codecs.trellis, whose numpy version is the specification: integers only, so the paths are the
// same. Lanes are independent of each other; WIDTH of them go through the trellis side by side.
#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t WIDTH = 64;
constexpr int64_t STEPS_BETWEEN_REBASES = 8;
constexpr int16_t UNREACHABLE = 8 * 2047 + 1;

using Row = int16_t[WIDTH];

}  // namespace

// cell: (size) of each number, in lane i % lanes. costs: (cells, 4) by branch. before: (states, 2) by parity of the branch.
extern "C" int64_t trellis_search(const int32_t *cell, const int16_t *costs, const int64_t *before, int64_t size,
                                  int64_t lanes, int64_t states, uint8_t *branches) {
    const int64_t steps = (size + lanes - 1) / lanes, half = states / 2;
    std::vector<uint8_t> parity(steps * states * WIDTH);
    std::vector<int16_t> sums(2 * states * WIDTH);
    for (int64_t first = 0; first < lanes; first += WIDTH) {
        const int64_t width = std::min(WIDTH, lanes - first);
        Row *now = reinterpret_cast<Row *>(sums.data()), *next = now + states;
        std::fill(sums.begin(), sums.begin() + states * WIDTH, UNREACHABLE);
        for (int64_t lane = 0; lane < WIDTH; lane++) now[(first + lane) % states][lane] = 0;
        for (int64_t step = 0; step < steps; step++) {
            const int64_t at = step * lanes + first, there = std::min(width, size - at);
            Row cost[4] = {};  // free beyond the last number
            for (int64_t lane = 0; lane < there; lane++)
                for (int64_t branch = 0; branch < 4; branch++)
                    cost[branch][lane] = costs[4 * static_cast<int64_t>(cell[at + lane]) + branch];
            for (int64_t state = 0; state < states; state++) {
                const int64_t quantiser = state >= half;
                const int16_t *even = now[before[2 * state]], *odd = now[before[2 * state + 1]];
                const int16_t *cost0 = cost[2 * quantiser], *cost1 = cost[2 * quantiser + 1];
                int16_t *sum = next[state];
                uint8_t *is_odd = parity.data() + (step * states + state) * WIDTH;
                for (int64_t lane = 0; lane < WIDTH; lane++) {
                    const int16_t one = even[lane] + cost0[lane], other = odd[lane] + cost1[lane];
                    is_odd[lane] = other < one;
                    sum[lane] = other < one ? other : one;
                }
            }
            std::swap(now, next);
            if (step % STEPS_BETWEEN_REBASES == STEPS_BETWEEN_REBASES - 1) {
                Row least;
                std::copy(now[0], now[0] + WIDTH, least);
                for (int64_t state = 1; state < states; state++)
                    for (int64_t lane = 0; lane < WIDTH; lane++) least[lane] = std::min(least[lane], now[state][lane]);
                for (int64_t state = 0; state < states; state++)
                    for (int64_t lane = 0; lane < WIDTH; lane++) now[state][lane] -= least[lane];
            }
        }
        int64_t state_of[WIDTH] = {};
        for (int64_t state = 1; state < states; state++)
            for (int64_t lane = 0; lane < width; lane++)
                if (now[state][lane] < now[state_of[lane]][lane]) state_of[lane] = state;
        for (int64_t step = steps - 1; step >= 0; step--) {
            const int64_t at = step * lanes + first, there = std::min(width, size - at);
            const uint8_t *is_odd = parity.data() + step * states * WIDTH;
            for (int64_t lane = 0; lane < width; lane++) {
                const int64_t state = state_of[lane], odd = is_odd[state * WIDTH + lane];
                if (lane < there) branches[at + lane] = static_cast<uint8_t>(2 * (state >= half) + odd);
                state_of[lane] = before[2 * state + odd];
            }
        }
    }
    return 0;
}
