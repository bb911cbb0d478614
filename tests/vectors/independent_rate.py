"""A decoder for payloads of the codec `rate`, written from their specification alone: plain Python."""

import struct
from bisect import bisect_right
from functools import cache
from itertools import accumulate
from math import isqrt


@cache
def power(j):
    """2 to the power of 30 - j / 256, rounded down."""
    root = 1 << (30 * 256 - j)
    for _ in range(8):
        root = isqrt(root)
    return root


def frequencies(costs, knots, largest):
    """Of magnitudes 0 … largest."""
    weights = []
    for magnitude in range(largest + 1):
        left = min(bisect_right(knots, magnitude) - 1, len(knots) - 2)
        low, high = 32 * costs[left], 32 * costs[left + 1]
        cost = low + (high - low) * (magnitude - knots[left]) // (knots[left + 1] - knots[left])
        weights.append(power(cost % 256) >> min(cost // 256, 30))
    weights = weights[:0:-1] + weights
    spare, total = 2**24 - len(weights), sum(weights) or 1
    found = [weight * spare // total + 1 for weight in weights]
    found[largest] += 2**24 - sum(found)
    return found


def rate(parameters, payload, sizes):
    """The numbers of a payload of codec 4, in steps of float32."""
    bits, step, groups = struct.unpack_from("<BfB", parameters)
    h0, h1 = {2: (5, 2), 3: (11, 4), 4: (19, 4), 5: (37, 8), 6: (67, 20), 7: (157, 86), 8: (333, 242)}[bits]
    at = 6 + (len(sizes) + 1) // 2
    member = [parameters[6 + i // 2] >> 4 * (i % 2) & 15 for i in range(len(sizes))]
    quantisers = []
    for _ in range(groups):
        largest, knots = parameters[at] | parameters[at + 1] << 8, [0]
        while knots[-1] < largest:
            knots.append(min(largest, max(knots[-1] + 1, knots[-1] * 5 // 4)))
        shifts, at = struct.unpack_from("<6b", parameters, at + 2), at + 8
        tables = [frequencies(parameters[at + q * len(knots) :][: len(knots)], knots, largest) for q in (0, 1)]
        quantisers.append((largest, (shifts[:3], shifts[3:]), tables))
        at += 2 * len(knots)
    order = [i for group in range(1, groups + 1) for i in range(len(sizes)) if member[i] == group]
    plan = [member[i] - 1 for i in order for _ in range(sizes[i])]
    lanes = max(1, len(plan) // 512)
    words = [*struct.unpack(f"<{len(payload) // 4}I", payload), 0, 0]
    states, lower, span, point, read = (
        [lane % 2**bits for lane in range(lanes)],
        0,
        2**64 - 1,
        words[0] << 32 | words[1],
        2,
    )
    sums = [[[0, *accumulate(t)] for t in tables] for _, _, tables in quantisers]
    numbers = [0.0] * len(plan)
    for start in range(0, len(plan), lanes):
        row = range(start, min(len(plan), start + lanes))
        for i in sorted(row, key=lambda i: (plan[i], states[i - start] & 1)):
            state, (largest, shifts, _) = states[i - start], quantisers[plan[i]]
            q, scale = state & 1, span >> 24
            below = sums[plan[i]][q]
            symbol = bisect_right(below, (point - lower) % 2**64 // scale) - 1
            lower, span, k = (
                lower + scale * below[symbol],
                scale * (below[symbol + 1] - below[symbol]),
                symbol - largest,
            )
            if span < 2**32:
                word, read = words[read] if read < len(words) else 0, read + 1
                lower, span, point = lower << 32, span << 32, point << 32 | word
            states[i - start] = state >> 1 ^ (h0 >> 1) * q ^ (h1 >> 1) * (k & 1)
            size = 2 * abs(k) - q - shifts[q][min(abs(k), 3) - 1] / 64 if k else 0.0
            numbers[i] = struct.pack("<f", step * (size if k >= 0 else -size))[::-1].hex()
    tensors = ["00000000"] * sum(sizes)
    for i in order:
        tensors[sum(sizes[:i]) : sum(sizes[: i + 1])], numbers = numbers[: sizes[i]], numbers[sizes[i] :]
    return tensors
