// Codec 4 of proto/README.md: indices of a trellis-coded quantiser under an asymmetric numeral system.

import { refuseIf } from './messages.js'

const TAPS = { 2: [5, 2], 3: [11, 4], 4: [19, 4], 5: [37, 8], 6: [67, 20], 7: [157, 86], 8: [333, 242] }
const TOTAL = 2 ** 24
export const [LEAST_STEP, MOST_STEP] = [2 ** -126, 2 ** 114]
const expect = (holds) => refuseIf(!holds, 'the payload has another size or form')
export const sum = (numbers) => numbers.reduce((a, b) => a + b, 0)

export function nextState(bits, state, index) {
  const [h0, h1] = TAPS[bits]
  return (state >> 1) ^ ((h0 >> 1) * (state & 1)) ^ ((h1 >> 1) * (index & 1))
}

export function knotsOf(largest) {
  const knots = [0]
  const after = (knot) => Math.min(largest, Math.max(knot + 1, Math.floor((5 * knot) / 4)))
  while (knots.at(-1) < largest) knots.push(after(knots.at(-1)))
  return knots
}

/** Sums of the frequencies of the indices -m ... m, (2 m + 2,). */
export function sumsOf(costs, knots) {
  const largest = knots.at(-1)
  const weights = Array.from({ length: 2 * largest + 1 }, (_, i) => {
    const k = Math.abs(i - largest)
    const left = Math.max(0, knots.findLastIndex((knot) => knot < k))
    const rise = 32 * (costs[left + 1] - costs[left]) * (k - knots[left])
    const cost = 32 * costs[left] + Math.floor(rise / (knots[left + 1] - knots[left]))
    return Math.floor(2 ** (30 - (cost % 256) / 256)) >>> Math.min(cost >> 8, 30)
  })
  const [spare, whole] = [BigInt(TOTAL - weights.length), BigInt(sum(weights) || 1)]
  const frequencies = weights.map((weight) => Number((BigInt(weight) * spare) / whole) + 1)
  frequencies[largest] += TOTAL - sum(frequencies)
  let total = 0
  return [0, ...frequencies.map((frequency) => (total += frequency))]
}

/** The numbers that are sent, in order: their places and groups, how many lanes there are, and each lane's stream. */
export function sequenceOf({ tensors }, groupOf, groupCount) {
  const all = tensors.map(({ offset, size }, i) => ({ offset, size, group: groupOf(i) }))
  expect(all.every(({ group }) => group <= groupCount))
  const sent = all.filter(({ group }) => group > 0).sort((a, b) => a.group - b.group)
  const places = sent.flatMap(({ offset, size }) => Array.from({ length: size }, (_, i) => offset + i))
  const groups = sent.flatMap(({ group, size }) => Array(size).fill(group))
  const lanes = Math.max(1, Math.floor(places.length / 512))
  const streams = Math.min(8, Math.max(1, Math.floor(lanes / 64)))
  const streamOf = Array.from({ length: lanes }, (_, lane) => Math.floor(((lane + 1) * streams - 1) / lanes))
  return { places, groups, lanes, streams, streamOf }
}

/** Calls `visit(i, group, state, stream)` for every number in the order of the payload; it returns the index. */
export function inOrder({ places, groups, lanes, streamOf }, bits, visit) {
  const states = Array.from({ length: lanes }, (_, lane) => lane % (1 << bits))
  for (let start = 0; start < places.length; start += lanes) {
    const row = Array.from({ length: Math.min(lanes, places.length - start) }, (_, lane) => lane)
    const key = (lane) => 2 * groups[start + lane] + (states[lane] & 1)
    for (const lane of row.sort((a, b) => key(a) - key(b) || a - b)) {
      const index = visit(start + lane, groups[start + lane], states[lane], streamOf[lane])
      states[lane] = nextState(bits, states[lane], index)
    }
  }
}

/** Writes the numbers of a payload to their places. */
export function decodeRate(layout, parameters, payload, numbers) {
  let at = 0
  const take = (size) => {
    expect(parameters.length >= at + size)
    return parameters.subarray(at, (at += size))
  }
  const head = take(6)
  const [bits, step, groupCount] = [head[0], head.readFloatLE(1), head[5]]
  expect(TAPS[bits] && step >= LEAST_STEP && step <= MOST_STEP && groupCount <= 15)
  const members = take(Math.ceil(layout.tensors.length / 2))
  const books = [null]
  while (books.length <= groupCount) {
    const largest = take(2).readUInt16LE()
    expect(largest >= 1 && largest <= 4096)
    const [shifts, knots] = [take(6), knotsOf(largest)]
    books.push({ largest, shifts, sums: [0, 1].map(() => sumsOf(take(knots.length), knots)) })
  }
  expect(at === parameters.length)
  const sequence = sequenceOf(layout, (i) => (members[i >> 1] >> (4 * (i & 1))) & 15, groupCount)
  const coders = codersOf(payload, sequence.streams)
  inOrder(sequence, bits, (i, group, state, stream) => {
    const { largest, shifts, sums } = books[group]
    const quantiser = state & 1
    const index = nextSymbol(coders[stream], sums[quantiser]) - largest
    const size = Math.abs(index)
    const shift = size && shifts.readInt8(3 * quantiser + Math.min(size, 3) - 1) / 64
    if (size) numbers[sequence.places[i]] = Math.sign(index) * (2 * size - quantiser - shift) * step
    return index
  })
  expect(coders.every(({ words, x }) => x === 0n && !words.length))
}

/** Every stream: its words, the next one last, and its state. */
function codersOf(payload, streams) {
  expect(payload.length % 4 === 0 && payload.length >= 4 * (streams - 1))
  const words = Array.from({ length: payload.length / 4 }, (_, i) => payload.readUInt32LE(4 * i))
  const lengths = words.splice(0, streams - 1)
  const last = words.length - sum(lengths)
  const coders = [...lengths, last].map((length) => ({ words: words.splice(0, length), x: 0n }))
  expect(last >= 0 && coders.every((coder) => coder.words.at(-1) !== 0))
  return coders
}

function nextSymbol(coder, sums) {
  while (coder.x < 1n << 32n && coder.words.length) coder.x = (coder.x << 32n) | BigInt(coder.words.pop())
  const wanted = Number(coder.x & 0xffffffn)
  const symbol = sums.findLastIndex((each) => each <= wanted)
  coder.x = BigInt(sums[symbol + 1] - sums[symbol]) * (coder.x >> 24n) + BigInt(wanted - sums[symbol])
  return symbol
}
