// Payloads: the numbers of an envelope as bytes, and back. The level "minimal" needs unchanged and fp32.

import { bytesOf, Refused, refuseIf } from './messages.js'
import { valuesOf } from './protocol.js'
import { decodeRate } from './rate.js'
import { encodeRate } from './rate_encoder.js'

const CODEC = valuesOf('Codec')
const NONE = Buffer.alloc(0)
// Codec: bytes of a number, and whether tensors of zeros are left out.
const PLAIN = new Map([
  [CODEC.CODEC_FP32, [4, false]],
  [CODEC.CODEC_BF16, [2, false]],
  [CODEC.CODEC_FP32_PARTIAL, [4, true]],
  [CODEC.CODEC_BF16_PARTIAL, [2, true]],
])

/** The numbers of a payload, (layout.size,). */
export function decodePayload(layout, { codec, codec_parameters: parameters }, payload) {
  const numbers = new Float32Array(layout.size)
  if (codec === CODEC.CODEC_RATE) decodeRate(layout, parameters, payload, numbers)
  else if (codec === CODEC.CODEC_UNCHANGED) refuseIf(parameters.length + payload.length, 'unchanged has a payload')
  else if (PLAIN.has(codec)) decodePlain(layout, ...PLAIN.get(codec), parameters, payload, numbers)
  // Who does not know a codec is sent float32 instead.
  else throw new Refused('NEED_FULL', `codec ${codec} is not known here`)
  refuseIf(!numbers.every(Number.isFinite), 'a number is NaN or infinite')
  return numbers
}

function decodePlain({ tensors }, width, isPartial, mask, payload, numbers) {
  const bits = new Uint32Array(numbers.buffer)
  const spare = mask.length * 8 - tensors.length
  const isRight = isPartial ? spare >= 0 && spare < 8 && !(mask.at(-1) >> (8 - spare)) : !mask.length
  refuseIf(!isRight, 'the mask has another form')
  const sent = tensors.filter((_, i) => !isPartial || (mask[i >> 3] >> (i & 7)) & 1)
  refuseIf(payload.length !== width * sent.reduce((sum, { size }) => sum + size, 0), 'the payload has another size')
  let at = 0
  for (const { offset, size } of sent) {
    for (let i = offset; i < offset + size; i++, at += width) {
      bits[i] = width === 4 ? payload.readUInt32LE(at) : payload.readUInt16LE(at) << 16
    }
  }
}

/** Numbers under what a run's settings call its bits: codec, parameters, payload, and what they decode to. */
export function encodePayload(layout, numbers, bits) {
  const words = new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length)
  const [codec, codec_parameters, payload] = words.every((word) => word === 0) ? [CODEC.CODEC_UNCHANGED, NONE, NONE]
    : bits === 'fp32' ? [CODEC.CODEC_FP32, NONE, bytesOf(numbers)]
    : bits === 'bf16' ? [CODEC.CODEC_BF16, NONE, bytesOf(Uint16Array.from(words, upperHalf))]
    : [CODEC.CODEC_RATE, ...encodeRate(layout, numbers, Number(bits))]
  return { codec, codec_parameters, payload, decoded: decodePayload(layout, { codec, codec_parameters }, payload) }
}

/** The upper half of a binary32: to nearest, ties to even, and no further than the largest finite bfloat16. */
function upperHalf(word) {
  const upper = (word & 0x7fffffff) >>> 16
  const lower = word & 0xffff
  const up = lower > 0x8000 || (lower === 0x8000 && upper & 1) ? 1 : 0
  return ((word >>> 16) & 0x8000) | Math.min(upper + up, 0x7f7f)
}
