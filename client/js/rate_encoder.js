// An encoder of codec 4 of proto/README.md, at a rate in bits for each number. A client can do without it.

import { bytesOf } from './messages.js'
import { inOrder, knotsOf, LEAST_STEP, MOST_STEP, nextState, sequenceOf, sum, sumsOf } from './rate.js'

const BITS = 3
const STATES = 2 ** BITS

/** Parameters and payload of at most about `rate` bits for each number; all tensors in one group. */
export function encodeRate(layout, numbers, rate) {
  const isSent = layout.tensors.map(({ offset, size }) => +numbers.subarray(offset, offset + size).some((x) => x !== 0))
  const sequence = sequenceOf(layout, (i) => isSent[i], 1)
  const values = Float64Array.from(sequence.places, (place) => numbers[place])
  const spread = Math.sqrt(sum(values.map((value) => value * value)) / values.length)
  const peak = peakOf(values)
  // No number is clipped.
  let [low, high, best] = [Math.max(spread / 64, peak / 8190), Math.max(spread * 8, peak / 4095), null]
  for (let i = 0; i < 8; i++) {
    const step = Math.fround(Math.min(Math.max(Math.sqrt(low * high), LEAST_STEP), MOST_STEP))
    const found = quantised(sequence, values.map((value) => value / step))
    const fits = 8 * found.payload.length <= rate * values.length
    if (fits || !best) best = { step, ...found }
    if (fits) high = step
    else low = step
  }
  const members = isSent.flatMap((sent, i) => (i % 2 ? [] : [sent | (isSent[i + 1] << 4)]))
  const head = [BITS, ...bytesOf(Float32Array.of(best.step)), 1, ...members]
  return [Buffer.from([...head, ...best.book]), best.payload]
}

const peakOf = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)

/** Values in steps under prices of magnitudes in bits: a guess first, then what they cost under the first indices. */
function quantised(sequence, values) {
  const magnitudes = Array.from({ length: Math.min(4096, Math.ceil(peakOf(values) / 2) + 1) + 1 }, (_, k) => k)
  const guess = magnitudes.map((k) => 1 + 2 * Math.log2(1 + k))
  const largest = magnitudes.at(-1)
  const { sums } = coded(sequence, searched(sequence, values, [guess, guess]), largest)
  const prices = sums.map((of) => magnitudes.map((k) => 24 - Math.log2(of[largest + k + 1] - of[largest + k])))
  const { book, symbols, sums: frequencies } = coded(sequence, searched(sequence, values, prices), largest)
  const streams = symbols.map((each) => streamOf(each, frequencies))
  const lengths = streams.slice(0, -1).map((words) => words.length)
  return { book, payload: bytesOf(Uint32Array.from([...lengths, ...streams.flat()])) }
}

/** Viterbi's search of each lane for the least squared error plus a price of bits; the indices. */
function searched({ lanes }, values, prices) {
  const indices = new Int16Array(values.length)
  for (let lane = 0; lane < lanes; lane++) {
    const length = Math.ceil((values.length - lane) / lanes)
    const [from, chosen] = [new Uint8Array(length * STATES), new Int16Array(length * STATES)]
    let [costs, after] = [new Float64Array(STATES).fill(Infinity), new Float64Array(STATES)]
    costs[lane % STATES] = 0
    for (let t = 0; t < length; t++) {
      const size = Math.abs(values[lane + t * lanes])
      after.fill(Infinity)
      for (let state = 0; state < STATES; state++) {
        const quantiser = state & 1
        const near = Math.min(prices[0].length - 2, Math.round((size + quantiser) / 2))
        for (let k = near + 1; k >= 0; k = k > near - 1 ? k - 1 : k === 0 ? -1 : 0) {
          const error = size - (k === 0 ? 0 : 2 * k - quantiser)
          const cost = costs[state] + error * error + 0.6 * prices[quantiser][k]
          const to = nextState(BITS, state, k)
          if (cost >= after[to]) continue
          after[to] = cost
          from[t * STATES + to] = state
          chosen[t * STATES + to] = k
        }
      }
      ;[costs, after] = [after, costs]
    }
    for (let t = length - 1, state = costs.indexOf(Math.min(...costs)); t >= 0; t--) {
      indices[lane + t * lanes] = Math.sign(values[lane + t * lanes]) * chosen[t * STATES + state]
      state = from[t * STATES + state]
    }
  }
  return indices
}

/** Symbols of each stream, twice an index plus its quantiser; the parameters of their group, and their frequencies. */
function coded(sequence, indices, largest) {
  const symbols = Array.from({ length: sequence.streams }, () => [])
  const counts = [0, 1].map(() => Array(largest + 1).fill(0))
  inOrder(sequence, BITS, (i, _, state, stream) => {
    counts[state & 1][Math.abs(indices[i])]++
    symbols[stream].push(2 * (indices[i] + largest) + (state & 1))
    return indices[i]
  })
  const knots = knotsOf(largest)
  const costs = counts.map((of) => costsOf(of, knots))
  const sums = costs.map((of) => sumsOf(of, knots))
  const book = [largest & 255, largest >> 8, 0, 0, 0, 0, 0, 0, ...costs.flat()]
  return { book, sums, symbols }
}

/** The costs of the knots, as bytes, from how often each magnitude is there. */
function costsOf(counts, knots) {
  const total = sum(counts) + 0.05 * counts.length
  return knots.map((k, i) => {
    const near = counts.slice(k, knots[i + 1] ?? k + 1)
    const mean = 0.05 + sum(near) / near.length / (k === 0 ? 1 : 2)
    return Math.min(255, Math.max(0, Math.round(8 * Math.log2(total / mean))))
  })
}

/** The words of a stream, from its last symbol to its first. */
function streamOf(symbols, sums) {
  const words = []
  let x = 0n
  const shift = () => {
    words.push(Number(x & 0xffffffffn))
    x >>= 32n
  }
  for (const symbol of symbols.reverse()) {
    const [from, to] = [sums[symbol & 1][symbol >> 1], sums[symbol & 1][(symbol >> 1) + 1]]
    const frequency = BigInt(to - from)
    if (x >> 40n >= frequency) shift()
    x = ((x / frequency) << 24n) + (x % frequency) + BigInt(from)
  }
  while (x) shift()
  return words
}
