// A delta as whole numbers on the grid of a sum under masks, and back: "Numbers" of proto/README.md.

import { createCipheriv } from 'node:crypto'
import { sha256 } from './messages.js'

/** AES-256-CTR from a counter of zero. */
export const stream = (key, length) => createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length))

/** The rows of a rotation, its signs, and how many numbers it has; `seed` is the adapter and the round as text. */
export function rotationOf(size, seed) {
  const rows = size >= 32768 ? 4096 : 64
  const length = Math.ceil(size / rows) * rows
  const bits = stream(sha256('plait rotation 1', seed), length / 8 + 1)
  return { rows, length, sign: (i) => ((bits[i >> 3] >> (7 - (i & 7))) & 1 ? 1 : -1) }
}

/** A vector under a rotation. */
export function rotated(vector, { rows, length, sign }) {
  return hadamard(Float64Array.from({ length }, (_, i) => (i < vector.length ? vector[i] * sign(i) : 0)), rows)
}

/** The orthonormal Walsh-Hadamard matrix times every column of a matrix of so many rows. */
function hadamard(values, rows) {
  const columns = values.length / rows
  for (let half = columns; half < values.length; half *= 2) {
    for (let i = 0; i < values.length; i++) {
      // Row by row, so that half a block is `half` numbers.
      if (Math.floor(i / half) % 2) continue
      const [a, b] = [values[i], values[i + half]]
      values[i] = a + b
      values[i + half] = a - b
    }
  }
  return values.map((value) => value / Math.sqrt(rows))
}

const squareOf = (numbers) => numbers.reduce((sum, value) => sum + value * value, 0)

/** Whole numbers on a roster's grid, right on average, and what they decode to; `key` decides how they are rounded. */
export function onGrid(vector, { bits, unit, offers: { length: n } }, seed, key) {
  const rotation = rotationOf(vector.length, seed)
  const m = 2 ** (bits - 1) / 4
  const most = rotation.length * (Math.max(m * m - n / 4, (m * m) / 4) / n + 1 / 4)
  let x = rotated(vector, rotation).map((value) => value / unit)
  const shorten = (square) => (x = x.map((value) => value * Math.sqrt(most / square)))
  if (squareOf(x) > most) shorten(squareOf(x))
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  for (;;) {
    const drawn = cipher.update(Buffer.alloc(4 * x.length))
    const numbers = Int32Array.from(x, (value, i) => Math.floor(value + (drawn.readUInt32LE(4 * i) >>> 8) / 2 ** 24))
    if (squareOf(numbers) <= most) {
      const back = hadamard(Float64Array.from(numbers, (value) => value * unit), rotation.rows)
      return { numbers, decoded: Float32Array.from(vector, (_, i) => back[i] * rotation.sign(i)) }
    }
    shorten(squareOf(numbers) * 1.002)
  }
}
