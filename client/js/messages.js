// The messages of proto/README.md as tables, and what is made of them: tasks, replies, envelopes.

import { createHash } from 'node:crypto'
import { inflateSync } from 'node:zlib'
import { decodeCanonical, encode } from './protobuf.js'

export const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest()

const list = (first, ...kinds) =>
  Object.fromEntries(kinds.flatMap((each) => each.split(' ')).map((each, i) => [each.split(':')[0], [first + i, each.split(':')[1]]]))
const table = (key, value) => [{ key: [1, `${key}?`], value: [2, `${value}?`] }]

const SETTINGS = {
  seed: [10, 'U'], round: [13, 'u'], done_steps: [15, 'u'], trained: [17, 'u'], ...list(24, 'digest:b json:t steps:u'),
}
const WORK = { settings: [1, SETTINGS], broadcast: [2, 'b'], base: [3, 'b'] }
const OFFER = list(1, 'client:t identity:b encryption:b masking:b commitment:b signature:b certificate:b endorsement:b')
const MASKING = {
  ...list(1, 'run_id:b purpose:t round:u attempt:b'),
  roster: [5, { offers: [1, [OFFER]], ...list(2, 'bits:u unit:d size:u figures:u') }],
  delivery: [6, { sharers: [1, 'b'], parcels: [2, table('u', 'b')] }],
  survivors: [7, { survivors: [1, 'b'] }],
  unmasking: [8, { survivors: [1, 'b'], signatures: [2, table('u', 'b')] }],
  opening: [9, { receivers: [1, 'b'] }],
}
const TASK = {
  schema: [1, 'u'],
  describe: [2, { settings: [1, SETTINGS], spec_json: [2, 't'], layout: [3, 'b'] }],
  train: [3, WORK],
  evaluate: [4, WORK],
  masking: [5, MASKING],
}
const CARD = {
  ...list(1, 'client:t base_fingerprint:b spec_digest:b train_examples:u train_tokens:u held_out_examples:u held_out_tokens:u'),
  histogram: [8, table('t', 'u')],
  ...list(10, 'max_rank:u cut_examples:u left_out_examples:u clients:u members:b'),
}
const EVALUATION = list(1, 'client:t round:u loss:d tokens:u examples:u correct:u? own_loss:d? own_correct:u? loss_error:d? change:d?',
  'change_error:d? own_loss_error:d? own_change:d? own_change_error:d? reward_margin:d? own_reward_margin:d?')
const PARTS = { parts: [1, table('u', 'b')] }
const MASKED = {
  client: [1, 't'], offer: [2, OFFER], parcels: [3, PARTS], ready: [4, 'f'], signature: [5, 'b'], revealed: [6, PARTS],
  update: [7, list(1, 'values:b figures:b')], unreadable: [8, 'b'], opened: [9, PARTS],
}
const REPLY = {
  schema: [1, 'u'], card: [2, CARD], update: [3, 'b?'], evaluation: [4, EVALUATION],
  refusal: [5, list(1, 'client:t reason:u detail:t')], masked: [6, MASKED],
}
const ENVELOPE = list(1, 'schema:u header:b payload:b signature:b')
const HEADER = {
  ...list(1, 'direction:u run_id:b round:u client:t base_fingerprint:b spec_digest:b relative_to:b result_digest:b codec:u'),
  ...list(10, 'codec_parameters:b payload_digest:b spec_json:t examples:u'),
  metrics: [14, table('t', 'd')],
}

export const REASONS = {
  NEED_FULL: 1, BASE_MISMATCH: 2, SPEC_MISMATCH: 3, MALFORMED: 4, TOO_LITTLE_DATA: 5, FAILED: 6, BUSY: 7, POLICY: 8,
  UNUSABLE_DATA: 9,
}

/** Why a task is not done; becomes a Refusal. */
export class Refused extends Error {
  constructor(reason, detail) {
    super(detail)
    this.reason = REASONS[reason]
  }
}

function read(fields, schema, what, bytes) {
  try {
    const message = decodeCanonical(fields, bytes)
    if (schema && message.schema !== schema) throw new Error(`schema is ${message.schema}, expected ${schema}`)
    return message
  } catch (error) {
    throw error instanceof Refused ? error : new Refused('MALFORMED', `${what}: ${error.message}`)
  }
}

const ascending = (entries, compare) =>
  entries.every((entry, i) => entry.key !== undefined && entry.value !== undefined && (i === 0 || compare(entries[i - 1].key, entry.key) < 0))
const byBytes = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))

/** A table's entries in their order; keys are text or integers. */
export const entriesOf = (map) =>
  [...map].map(([key, value]) => ({ key, value })).sort((a, b) => (typeof a.key === 'string' ? byBytes(a.key, b.key) : a.key - b.key))

export function mapOf(entries) {
  if (!ascending(entries, (a, b) => (typeof a === 'string' ? byBytes(a, b) : a - b))) throw new Refused('MALFORMED', 'a table is out of order')
  return new Map(entries.map(({ key, value }) => [key, value]))
}

export function decodeTask(bytes) {
  const task = read(TASK, 3, 'task', bytes)
  const kinds = Object.keys(task).filter((name) => name !== 'schema')
  if (kinds.length !== 1) throw new Refused('MALFORMED', 'task has not one field')
  return { kind: kinds[0], ...task[kinds[0]] }
}

export const decodeReply = (bytes) => read(REPLY, 1, 'reply', bytes)
export const encodeReply = (reply) => encode(REPLY, { schema: 1, ...reply })
export const encodeTask = (task) => encode(TASK, { schema: 3, ...task })

/** An envelope's header and payload, of which the digest is checked. */
export function openEnvelope(bytes) {
  const { header: raw, payload, signature } = read(ENVELOPE, 1, 'envelope', bytes)
  const header = read(HEADER, 0, 'header', raw)
  header.metrics = mapOf(header.metrics)
  if (!payloadDigest(header, payload).equals(header.payload_digest)) throw new Refused('MALFORMED', 'the payload has another digest')
  return { header, payload, signature, signed: Buffer.concat([SIGNED, raw]) }
}

const SIGNED = Buffer.from('plait.v1.envelope\0')

/** The bytes of an envelope; `sign` makes 64 bytes of what is signed, or none. */
export function sealEnvelope(header, payload, sign) {
  const digested = { ...header, payload_digest: payloadDigest(header, payload), metrics: entriesOf(header.metrics ?? new Map()) }
  const raw = encode(HEADER, digested)
  return encode(ENVELOPE, { schema: 1, header: raw, payload, signature: sign?.(Buffer.concat([SIGNED, raw])) })
}

function payloadDigest({ codec, codec_parameters: parameters }, payload) {
  const head = Buffer.alloc(8)
  head.writeUInt32LE(codec)
  head.writeUInt32LE(parameters.length, 4)
  return sha256(head, parameters, payload)
}

/** The settings of a task, from its own fields and the text that it names. */
export function readSettings(task, text) {
  if (!sha256(text).equals(task.digest)) throw new Refused('MALFORMED', 'the settings have another digest')
  const { json, ...own } = task
  const said = JSON.parse(text)
  return { wire: 'fp32', total_steps: 0, warmup_steps: 0, lr_schedule: 'constant', personal: '', proximal: 0, ...said, ...own, text }
}

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

  static unpack(bytes) {
    return new Layout(inflateSync(bytes, { maxOutputLength: 1 << 24 }).toString('latin1'))
  }
}

export const specDigest = (spec, layout) => sha256(spec, layout.digest)
export const bytesOf = (numbers) => Buffer.from(numbers.buffer, numbers.byteOffset, numbers.byteLength)
export const adapterDigest = (layout, numbers) => sha256(layout.digest, bytesOf(numbers))
