// Tasks, replies and envelopes of proto/README.md, and the digests of what they name.

import { createHash } from 'node:crypto'
import { inflateSync } from 'node:zlib'
import { decode, encode, valuesOf } from './protocol.js'

export const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest()
export const reasonOf = (name) => valuesOf('RefusalReason')[`REFUSAL_REASON_${name}`]

/** Why a task is not done; becomes a Refusal. */
export class Refused extends Error {
  constructor(reason, detail) {
    super(detail)
    this.reason = reasonOf(reason)
  }
}

/** Refuses a task, as MALFORMED unless another reason is given, where something is so. */
export function refuseIf(isSo, detail, reason = 'MALFORMED') {
  if (isSo) throw new Refused(reason, detail)
}

function read(name, schema, bytes) {
  try {
    const message = decode(name, bytes)
    if (schema && message.schema !== schema) throw new Error(`schema is ${message.schema}, expected ${schema}`)
    return message
  } catch (error) {
    throw new Refused('MALFORMED', `${name}: ${error.message}`)
  }
}

const compare = (a, b) => (typeof a === 'string' ? Buffer.compare(Buffer.from(a), Buffer.from(b)) : a - b)

/** A table's entries in their order; keys are text or integers. */
export const entriesOf = (map) => [...map].map(([key, value]) => ({ key, value })).sort((a, b) => compare(a.key, b.key))

export function mapOf(entries) {
  const isWhole = entries.every(({ key, value }) => key !== undefined && value !== undefined)
  const isOrdered = entries.every(({ key }, i) => i === 0 || compare(entries[i - 1].key, key) < 0)
  refuseIf(!isWhole || !isOrdered, 'a table is out of order')
  return new Map(entries.map(({ key, value }) => [key, value]))
}

export function decodeTask(bytes) {
  const { schema, ...task } = read('Task', 3, bytes)
  const [kind] = Object.keys(task)
  refuseIf(!kind, 'task asks for nothing')
  return { kind, ...task[kind] }
}

export const decodeReply = (bytes) => read('Reply', 1, bytes)
export const encodeReply = (reply) => encode('Reply', { schema: 1, ...reply })

const SIGNED = Buffer.from('plait.v1.envelope\0')

/** An envelope's header and payload, of which the digest is checked. */
export function openEnvelope(bytes) {
  const { header: raw, payload, signature } = read('Envelope', 1, bytes)
  const header = read('Header', 0, raw)
  header.metrics = mapOf(header.metrics)
  refuseIf(!payloadDigest(header, payload).equals(header.payload_digest), 'the payload has another digest')
  return { header, payload, signature, signed: Buffer.concat([SIGNED, raw]) }
}

/** The bytes of an envelope; `sign` makes 64 bytes of what is signed, or none. */
export function sealEnvelope(header, payload, sign) {
  const metrics = entriesOf(header.metrics)
  const raw = encode('Header', { ...header, metrics, payload_digest: payloadDigest(header, payload) })
  return encode('Envelope', { schema: 1, header: raw, payload, signature: sign?.(Buffer.concat([SIGNED, raw])) })
}

function payloadDigest({ codec, codec_parameters: parameters }, payload) {
  return sha256(bytesOf(Uint32Array.of(codec, parameters.length)), parameters, payload)
}

const LEAST_LIMIT = 2 ** 24
const MOST_DIMENSIONS = 8

/** A layout: names and shapes in order, with places in one flat array. */
export class Layout {
  constructor(text) {
    this.text = text
    this.digest = sha256(text)
    this.size = 0
    this.tensors = JSON.parse(text).map(([name, shape]) => {
      const tensor = { name, shape, offset: this.size, size: shape.reduce((a, b) => a * b, 1) }
      this.size += tensor.size
      return tensor
    })
  }

  /** From the bytes of a task; at most as many numbers as the base has, or 2^24 if that is more. */
  static unpack(bytes, parameters = 0) {
    const text = inflated(bytes)
    refuseIf(!isLayout(text, Math.max(parameters, LEAST_LIMIT)), 'the layout is none, or too large')
    return new Layout(text)
  }
}

function inflated(bytes) {
  try {
    return inflateSync(bytes, { maxOutputLength: 1 << 24 }).toString('latin1')
  } catch {
    throw new Refused('MALFORMED', 'the layout cannot be unpacked')
  }
}

function isLayout(text, most) {
  try {
    let [size, last] = [0, null]
    for (const [name, shape, ...more] of JSON.parse(text)) {
      const isShape = Array.isArray(shape) && shape.length <= MOST_DIMENSIONS
      const isTensor = typeof name === 'string' && isShape && shape.every((dim) => Number.isSafeInteger(dim) && dim > 0)
      if (more.length || !isTensor || (last !== null && compare(last, name) >= 0)) return false
      size += shape.reduce((a, b) => a * b, 1)
      last = name
      if (size > most) return false
    }
    return size > 0
  } catch {
    return false
  }
}

export const specDigest = (spec, layout) => sha256(spec, layout.digest)
export const bytesOf = (numbers) => Buffer.from(numbers.buffer, numbers.byteOffset, numbers.byteLength)
export const adapterDigest = (layout, numbers) => sha256(layout.digest, bytesOf(numbers))
