// Payloads: the numbers of an envelope as bytes, and back. Level "minimal" needs unchanged and fp32.

import { bytesOf, Refused } from './messages.js'

export const CODEC = { unchanged: 1, fp32: 2, bf16: 3, rate: 4, fp32_partial: 9, bf16_partial: 10 }
const NONE = Buffer.alloc(0)
const refuse = (detail) => {
  throw new Refused('MALFORMED', detail)
}

/** The numbers of a payload, (layout.size,). */
export function decodePayload(layout, { codec, codec_parameters: parameters }, payload) {
  const numbers = new Float32Array(layout.size)
  if (codec === CODEC.rate) decodeRate(layout, parameters, payload, numbers)
  else if (codec === CODEC.unchanged) expect(parameters.length + payload.length === 0)
  else decodePlain(layout, codec, parameters, payload, numbers)
  if (!numbers.every(Number.isFinite)) refuse('a number is NaN or infinite')
  return numbers
}

const expect = (holds) => holds || refuse('the payload has another size or form')

function decodePlain(layout, codec, parameters, payload, numbers) {
  const isPartial = codec === CODEC.fp32_partial || codec === CODEC.bf16_partial
  if (!isPartial && codec !== CODEC.fp32 && codec !== CODEC.bf16) {
    // A client that does not know a codec is sent float32 instead.
    throw new Refused('NEED_FULL', `codec ${codec} is not known here`)
  }
  const bits = new Uint32Array(numbers.buffer)
  const width = codec === CODEC.fp32 || codec === CODEC.fp32_partial ? 4 : 2
  const { tensors } = layout
  expect(parameters.length === (isPartial ? Math.ceil(tensors.length / 8) : 0))
  if (isPartial && tensors.length % 8) expect(parameters.at(-1) >> tensors.length % 8 === 0)
  let at = 0
  for (const [place, { offset, size }] of tensors.entries()) {
    if (isPartial && !((parameters[place >> 3] >> (place & 7)) & 1)) continue
    expect(payload.length >= at + size * width)
    for (let i = offset; i < offset + size; i++, at += width) bits[i] = width === 4 ? payload.readUInt32LE(at) : payload.readUInt16LE(at) << 16
  }
  expect(at === payload.length)
}

/** Numbers under what a run's settings call its wire: codec, parameters, payload, and the numbers that they decode to. */
export function encodePayload(layout, numbers, wire) {
  const bits = new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length)
  const made = (codec, codec_parameters, payload) => ({ codec, codec_parameters, payload, decoded: decodePayload(layout, { codec, codec_parameters }, payload) })
  if (bits.every((word) => word === 0)) return made(CODEC.unchanged, NONE, NONE)
  if (wire === 'fp32') return made(CODEC.fp32, NONE, Buffer.from(bytesOf(numbers)))
  if (wire === 'bf16') return made(CODEC.bf16, NONE, bytesOf(Uint16Array.from(bits, upperHalf)))
  return made(CODEC.rate, ...encodeRate(layout, numbers, Number(wire)))
}

/** The upper half of a binary32: to nearest, ties to even, and no further than the largest finite bfloat16. */
function upperHalf(word) {
  const magnitude = word & 0x7fffffff
  const upper = magnitude >>> 16
  const lower = magnitude & 0xffff
  const up = lower > 0x8000 || (lower === 0x8000 && upper & 1) ? 1 : 0
  return ((word >>> 16) & 0x8000) | Math.min(upper + up, 0x7f7f)
}

const TAPS = { 2: [5, 2], 3: [11, 4], 4: [19, 4], 5: [37, 8], 6: [67, 20], 7: [157, 86], 8: [333, 242] }
const TOTAL = 2 ** 24
const nextState = (bits, state, index) => (state >> 1) ^ ((TAPS[bits][0] >> 1) * (state & 1)) ^ ((TAPS[bits][1] >> 1) * (index & 1))

function knotsOf(largest) {
  const knots = [0]
  while (knots.at(-1) < largest) knots.push(Math.min(largest, Math.max(knots.at(-1) + 1, Math.floor((5 * knots.at(-1)) / 4))))
  return knots
}

/** Sums of the frequencies of the indices -m ... m, (2 m + 2,). */
function sumsOf(costs, knots, largest) {
  const weights = []
  for (let k = 0, left = 0; k <= largest; k++) {
    while (left + 2 < knots.length && knots[left + 1] <= k) left++
    const rise = 32 * (costs[left + 1] - costs[left]) * (k - knots[left])
    const cost = 32 * costs[left] + Math.floor(rise / (knots[left + 1] - knots[left]))
    weights.push(Math.floor(2 ** (30 - (cost % 256) / 256)) >>> Math.min(cost >> 8, 30))
  }
  const both = [...weights.slice(1).reverse(), ...weights]
  const whole = BigInt(both.reduce((a, b) => a + b, 0) || 1)
  const found = both.map((weight) => Number((BigInt(weight) * BigInt(TOTAL - both.length)) / whole) + 1)
  found[largest] += TOTAL - found.reduce((a, b) => a + b, 0)
  const sums = [0]
  for (const each of found) sums.push(sums.at(-1) + each)
  return sums
}

const laneCount = (count) => Math.max(1, Math.floor(count / 512))

/** Calls `visit(place, lane, group, quantiser)` for every number in the order of the payload; it returns the index. */
function inOrder(bits, places, groups, visit) {
  const lanes = laneCount(places.length)
  const states = Int32Array.from({ length: lanes }, (_, lane) => lane % (1 << bits))
  for (let start = 0; start < places.length; start += lanes) {
    const row = Array.from({ length: Math.min(lanes, places.length - start) }, (_, lane) => lane)
    const key = (lane) => 2 * groups[start + lane] + (states[lane] & 1)
    row.sort((a, b) => key(a) - key(b) || a - b)
    for (const lane of row) states[lane] = nextState(bits, states[lane], visit(start + lane, groups[start + lane], states[lane] & 1))
  }
}

const valueOf = (index, quantiser, shifts, step) =>
  index === 0 ? 0 : Math.sign(index) * (2 * Math.abs(index) - quantiser - shifts[quantiser][Math.min(Math.abs(index), 3) - 1] / 64) * step

function decodeRate(layout, parameters, payload, numbers) {
  const { tensors } = layout
  const count = tensors.length
  expect(parameters.length >= 6 + Math.ceil(count / 2) && payload.length % 4 === 0)
  const [bits, step, groupCount] = [parameters[0], parameters.readFloatLE(1), parameters[5]]
  expect(TAPS[bits] && step >= 2 ** -126 && step <= 2 ** 114 && groupCount <= 15)
  const member = (i) => (parameters[6 + (i >> 1)] >> (4 * (i & 1))) & 15
  let at = 6 + Math.ceil(count / 2)
  const books = [null]
  for (let group = 0; group < groupCount; group++) {
    expect(parameters.length >= at + 8)
    const largest = parameters.readUInt16LE(at)
    expect(largest >= 1 && largest <= 4096)
    const knots = knotsOf(largest)
    const shift = (i) => parameters.readInt8(at + 2 + i)
    const shifts = [[shift(0), shift(1), shift(2)], [shift(3), shift(4), shift(5)]]
    expect(parameters.length >= at + 8 + 2 * knots.length)
    const sums = [0, 1].map((q) => sumsOf(parameters.subarray(at + 8 + q * knots.length), knots, largest))
    books.push({ largest, shifts, sums })
    at += 8 + 2 * knots.length
  }
  expect(at === parameters.length)
  const [places, groups] = travelling(tensors, member, groupCount)
  const streams = streamsOf(places.length)
  const words = Array.from({ length: payload.length / 4 }, (_, i) => payload.readUInt32LE(4 * i))
  const coders = []
  let start = streams.count - 1
  for (let i = 0; i < streams.count; i++) {
    const end = i < streams.count - 1 ? start + (words[i] ?? 0) : words.length
    expect(start <= end && end <= words.length && (start === end || words[end - 1] !== 0))
    const stack = words.slice(start, end)
    const [high, low] = [stack.pop(), stack.pop()]
    coders.push({ stack, x: high === undefined ? 0n : low === undefined ? BigInt(high) : (BigInt(high) << 32n) | BigInt(low) })
    start = end
  }
  inOrder(bits, places, groups, (i, group, quantiser) => {
    const { largest, shifts, sums } = books[group]
    const coder = coders[streams.of(i)]
    const wanted = Number(coder.x & 0xffffffn)
    let [low, high] = [0, sums[quantiser].length - 1]
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (sums[quantiser][middle] <= wanted) low = middle
      else high = middle
    }
    const [from, to] = [sums[quantiser][low], sums[quantiser][low + 1]]
    coder.x = BigInt(to - from) * (coder.x >> 24n) + BigInt(wanted - from)
    if (coder.x < 1n << 32n && coder.stack.length) coder.x = (coder.x << 32n) | BigInt(coder.stack.pop())
    numbers[places[i]] = valueOf(low - largest, quantiser, shifts, step)
    return low - largest
  })
  expect(coders.every(({ stack, x }) => x === 0n && !stack.length))
}

/** The streams of a payload, and which of them a number is in. */
function streamsOf(count) {
  const lanes = laneCount(count)
  const streams = Math.min(8, Math.max(1, Math.floor(lanes / 64)))
  const owner = Array.from({ length: lanes }, (_, lane) => {
    let stream = 0
    while (Math.floor((lanes * (stream + 1)) / streams) <= lane) stream++
    return stream
  })
  return { count: streams, of: (i) => owner[i % lanes] }
}

/** Where the numbers that are sent stand, and their groups: group by group, in the order of the layout. */
function travelling(tensors, member, groupCount) {
  const [places, groups] = [[], []]
  for (let group = 1; group <= groupCount; group++) {
    for (const [i, { offset, size }] of tensors.entries()) {
      if (member(i) !== group) continue
      for (let place = offset; place < offset + size; place++) [places[places.length], groups[groups.length]] = [place, group]
    }
  }
  return [places, groups]
}

const BITS = 3

/** Parameters and payload at about `rate` bits for each number; all tensors in one group. */
function encodeRate(layout, numbers, rate) {
  const { tensors } = layout
  const isSent = tensors.map(({ offset, size }) => numbers.subarray(offset, offset + size).some((x) => x !== 0))
  const [places, groups] = travelling(tensors, (i) => (isSent[i] ? 1 : 0), 1)
  const spread = Math.sqrt(places.reduce((sum, place) => sum + numbers[place] ** 2, 0) / places.length)
  let [low, high, best] = [spread / 64, spread * 8, null]
  for (let i = 0; i < 8; i++) {
    const step = Math.fround(Math.min(Math.max(Math.sqrt(low * high), 2 ** -126), 2 ** 114))
    const found = quantised(numbers, places, groups, step)
    if (found.bits <= rate * places.length) [best, high] = [found, step]
    else low = step
    best ??= found
  }
  const { step, largest, indices, tables } = best
  const head = Buffer.alloc(6 + Math.ceil(tensors.length / 2))
  head[0] = BITS
  head.writeFloatLE(step, 1)
  head[5] = 1
  isSent.forEach((sent, i) => (head[6 + (i >> 1)] |= (sent ? 1 : 0) << (4 * (i & 1))))
  const book = Buffer.alloc(8)
  book.writeUInt16LE(largest)
  const parameters = Buffer.concat([head, book, ...tables.map(({ costs }) => Buffer.from(costs))])
  return [parameters, streamed(places, groups, indices, largest, tables)]
}

/** Indices of one step, the tables that code them, and about how many bits that takes. */
function quantised(numbers, places, groups, step) {
  const peak = places.reduce((most, place) => Math.max(most, Math.abs(numbers[place])), 0)
  const largest = Math.min(4096, Math.max(1, Math.ceil(peak / step / 2) + 1))
  const lanes = laneCount(places.length)
  const knots = knotsOf(largest)
  const indices = new Int32Array(places.length)
  // Bits of a magnitude under each quantiser: a guess first, then what its frequencies cost.
  let prices = [0, 1].map(() => Float64Array.from({ length: largest + 1 }, (_, k) => 1 + 2 * Math.log2(1 + k)))
  let [tables, bits] = [null, 0]
  for (let pass = 0; pass < 2; pass++) {
    for (let lane = 0; lane < lanes; lane++) searchLane(numbers, places, lane, lanes, step, largest, prices, indices)
    const counts = [0, 1].map(() => new Float64Array(largest + 1))
    inOrder(BITS, places, groups, (i, _, quantiser) => (counts[quantiser][Math.abs(indices[i])]++, indices[i]))
    tables = counts.map((of) => {
      const total = of.reduce((a, b) => a + b + 0.05, 0)
      const costs = knots.map((k, i) => {
        const end = knots[i + 1] ?? k + 1
        const mean = 0.05 + of.subarray(k, end).reduce((a, b) => a + b, 0) / (end - k) / (k === 0 ? 1 : 2)
        return Math.min(255, Math.max(0, Math.round(8 * -Math.log2(mean / total))))
      })
      return { costs, sums: sumsOf(costs, knots, largest) }
    })
    prices = tables.map(({ sums }) => Float64Array.from({ length: largest + 1 }, (_, k) => 24 - Math.log2(sums[largest + k + 1] - sums[largest + k])))
    bits = counts.reduce((sum, of, q) => sum + of.reduce((a, count, k) => a + count * prices[q][k], 0), 0)
  }
  return { step, largest, indices, tables, bits }
}

/** Viterbi's search of one lane for the least squared error plus a price of bits. */
function searchLane(numbers, places, lane, lanes, step, largest, prices, indices) {
  const states = 1 << BITS
  const length = Math.ceil((places.length - lane) / lanes)
  const [from, chosen] = [new Uint8Array(length * states), new Int16Array(length * states)]
  let costs = new Float64Array(states).fill(Infinity)
  costs[lane % states] = 0
  let after = new Float64Array(states)
  for (let t = 0; t < length; t++) {
    const x = numbers[places[lane + t * lanes]] / step
    const size = Math.abs(x)
    after.fill(Infinity)
    for (let state = 0; state < states; state++) {
      if (costs[state] === Infinity) continue
      const quantiser = state & 1
      const near = Math.round((size + quantiser) / 2)
      for (let k = Math.min(largest, near + 1); k >= 0; k = k === 0 || k > near - 1 ? k - 1 : 0) {
        const error = size - (k === 0 ? 0 : 2 * k - quantiser)
        const cost = costs[state] + error * error + 0.6 * prices[quantiser][k]
        const to = nextState(BITS, state, k)
        if (cost >= after[to]) continue
        after[to] = cost
        from[t * states + to] = state
        chosen[t * states + to] = x < 0 ? -k : k
      }
    }
    const spare = costs
    costs = after
    after = spare
  }
  let state = costs.indexOf(Math.min(...costs))
  for (let t = length - 1; t >= 0; t--) {
    indices[lane + t * lanes] = chosen[t * states + state]
    state = from[t * states + state]
  }
}

/** The streams of an asymmetric numeral system, written from the last symbol to the first. */
function streamed(places, groups, indices, largest, tables) {
  const streams = streamsOf(places.length)
  const symbols = Array.from({ length: streams.count }, () => [])
  inOrder(BITS, places, groups, (i, _, quantiser) => {
    const { sums } = tables[quantiser]
    const symbol = indices[i] + largest
    symbols[streams.of(i)].push(sums[symbol], sums[symbol + 1] - sums[symbol])
    return indices[i]
  })
  const coded = symbols.map((each) => {
    const words = []
    let x = 0n
    for (let i = each.length - 2; i >= 0; i -= 2) {
      const frequency = BigInt(each[i + 1])
      if (x >> 40n >= frequency) {
        words.push(Number(x & 0xffffffffn))
        x >>= 32n
      }
      x = ((x / frequency) << 24n) + (x % frequency) + BigInt(each[i])
    }
    for (; x; x >>= 32n) words.push(Number(x & 0xffffffffn))
    return words
  })
  return bytesOf(Uint32Array.from([...coded.slice(0, -1).map((words) => words.length), ...coded.flat()]))
}
