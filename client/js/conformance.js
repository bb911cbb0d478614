// The conformance suite of tests/vectors against this client: prints a line for each vector, and fails if one differs.
//   node client/js/conformance.js tests/vectors [minimal | codecs]
// Sums under masks are not among what this client does.

import { createPrivateKey, sign } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { decodePayload, encodePayload } from './codecs.js'
import { enrolmentBytes } from './index.js'
import { rawPublic } from './kit.js'
import * as messages from './messages.js'
import { replays } from './replay.js'
import { readSettings } from './settings.js'

const { adapterDigest, Layout, sealEnvelope, sha256, specDigest } = messages
const bytes = (text) => Buffer.from(text.replace(/\s/g, ''), 'hex')
const hex = (of) => (of instanceof Map ? [...of.values()] : of).toString('hex')
const PREFIX = bytes('302e020100300506032b657004220420')
const node = (seed) => createPrivateKey({ key: Buffer.concat([PREFIX, seed]), format: 'der', type: 'pkcs8' })
const publicHalf = (key) => hex(rawPublic(key))

/** What a message says in the form of `like`: bytes as hexadecimal text, tables as objects, absent ones as there. */
function plain(value, like) {
  if (value === undefined || value === null) {
    if (like && typeof like === 'object') return {}
    return [0, ''].includes(like) ? like : null
  }
  if (Buffer.isBuffer(value)) return hex(value)
  if (typeof like === 'number') return Number(value)
  if (Array.isArray(value) && !Array.isArray(like)) return plain(messages.mapOf(value), like)
  if (Array.isArray(value)) return value.map((each, i) => plain(each, like[i]))
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, each]) => [key, plain(each, like[key])]))
  if (typeof value !== 'object') return value
  return Object.fromEntries(Object.keys(like).map((key) => [key, plain(value[key], like[key])]))
}

/** Equal but for the order of keys; whole numbers beyond 2^53 as JSON.parse rounds them. */
function same(a, b) {
  if (typeof a !== 'object' || a === null || b === null) return Object.is(a, b)
  const keys = Object.keys(a)
  return keys.length === Object.keys(b).length && keys.every((key) => key in b && same(a[key], b[key]))
}

const SHAPES = {
  rate: [['a', [23, 27]], ['b', [40, 2]], ['c', [4, 120]]],
  partial: Array.from({ length: 11 }, (_, i) => [`t${String(i).padStart(2, '0')}`, [i % 3, 2]]),
  '': [['q_proj.lora_A', [2, 3]], ['q_proj.lora_B', [3, 2]]],
}

function checkMessage(name, data, said) {
  if (said.envelope) {
    const { header, payload } = messages.openEnvelope(data)
    const kind = /rate$/.test(name) ? 'rate' : /partial$/.test(name) ? 'partial' : ''
    const numbers = decodePayload(new Layout(JSON.stringify(SHAPES[kind])), header, payload)
    const { values, ...expected } = said.envelope
    const words = [...new Uint32Array(numbers.buffer)].map((word) => word.toString(16).padStart(8, '0'))
    return same(words, values) && same(plain(header, expected), expected) && sealEnvelope(header, payload).equals(data)
  }
  const [kind] = Object.keys(said)
  if (name.startsWith('reply')) {
    const reply = messages.decodeReply(data)
    const isSame = same(plain(reply[kind], said[kind]), said[kind])
    return isSame && messages.encodeReply({ [kind]: reply[kind] }).equals(data)
  }
  const { kind: got, ...task } = messages.decodeTask(data)
  if (task.settings?.json) task.settings = { ...readSettings(task.settings, task.settings.json) }
  const expected = said[kind]
  if (expected.settings) {
    // Defaults are the text's readers' own; what the text and the task say must be the same.
    for (const key of Object.keys(expected.settings)) if (!(key in task.settings)) delete expected.settings[key]
    for (const key of ['text', 'json']) delete task.settings[key]
  }
  return got === kind && same(plain(task, expected), expected)
}

const DERIVED = {
  layout({ shapes, zlib }) {
    const layout = Layout.unpack(bytes(zlib))
    const isSame = same(Object.fromEntries(layout.tensors.map(({ name, shape }) => [name, shape])), shapes)
    return isSame && { text: layout.text, digest: hex(layout.digest), size: layout.size }
  },
  specification({ spec_json: spec, layout: text }) {
    const layout = new Layout(text)
    const numbers = Float32Array.from({ length: layout.size }, (_, i) => i / 8)
    return { spec_digest: hex(specDigest(spec, layout)), adapter_digest: hex(adapterDigest(layout, numbers)) }
  },
  enrolment({ challenge, hello, key, name }) {
    const own = node(bytes(key))
    const signed = enrolmentBytes(bytes(challenge), bytes(hello), bytes(publicHalf(own)), name)
    const id = sha256(name).readBigUInt64BE() >> 1n
    const signature = hex(sign(null, signed, own))
    return { public_key: publicHalf(own), signed: hex(signed), signature, node_id: `${id}` }
  },
  signed_envelope({ key, envelope }) {
    const { header, payload, signed } = messages.openEnvelope(bytes(envelope))
    const signature = sign(null, signed, node(bytes(key)))
    return { signature: hex(signature), envelope: hex(sealEnvelope(header, payload, () => signature)) }
  },
  // JSON.parse rounds the second seed, so its text is read.
  seeds(given, text) {
    const found = [...text.matchAll(/\[\s*(\d+),\s*(\d+),\s*"([^"]*)"\s*\]/g)]
    return found.map(([, ...each]) => `${sha256(each.join('/')).readBigUInt64LE() >> 1n}`)
  },
  settings: ({ text }) => hex(sha256(text)),
  errors(given) {
    const read = { task: messages.decodeTask, envelope: messages.openEnvelope }
    for (const { kind, bytes: data } of Object.values(given)) {
      try {
        read[kind](bytes(data))
        return 'accepted'
      } catch (error) {
        if (!(error instanceof messages.Refused)) throw error
      }
    }
    return 'refused'
  },
}

/** What an encoder makes must be what a decoder reads, at about the rate that it was asked for. */
function checkEncoder(bits, furthest = 0) {
  const layout = new Layout(furthest ? '[["a",[140,140]],["b",[7]]]' : '[["a",[40,30]],["b",[7]]]')
  const numbers = Float32Array.from({ length: layout.size }, (_, i) => (i < layout.size - 7 ? Math.sin(i * i) / 50 : 0))
  if (furthest) numbers[7] = furthest
  const made = encodePayload(layout, numbers, bits)
  const squared = (values) => values.reduce((sum, value) => sum + value ** 2, 0)
  const error = squared(numbers.map((value, i) => value - made.decoded[i])) / squared(numbers)
  const most = { fp32: 0, bf16: 1e-4 }[bits] ?? 2 * 4 ** -Number(bits)
  return error <= most && same([...decodePayload(layout, made, made.payload)], [...made.decoded])
}

const LEVELS = ['minimal', 'codecs']

function levelOf(name) {
  if (/mask/.test(name)) return 'masks'
  return /bf16|rate|partial/.test(name) ? 'codecs' : 'minimal'
}

const [folder, most = 'codecs'] = process.argv.slice(2)
const results = []
const attempt = async (name, level, check) => {
  if (!LEVELS.slice(0, LEVELS.indexOf(most) + 1).includes(level)) return
  let result
  try {
    result = (await check()) ? 'passed' : 'FAILED'
  } catch (error) {
    result = `FAILED: ${error.message}`
  }
  results.push(result)
  console.log(`${level}\t${name}\t${result}`)
}
for (const file of readdirSync(folder).filter((each) => each.endsWith('.hex'))) {
  const name = file.slice(0, -4)
  const said = JSON.parse(readFileSync(join(folder, `${name}.json`)))
  const data = bytes(readFileSync(join(folder, file), 'utf8'))
  await attempt(name, levelOf(name), () => checkMessage(name, data, said))
}
for (const file of readdirSync(join(folder, 'derived'))) {
  const text = readFileSync(join(folder, 'derived', file), 'utf8')
  const { level, given, expected } = JSON.parse(text)
  const name = file.slice(0, -5)
  await attempt(name, level, () => same(DERIVED[name](given, text, expected), expected))
}
for (const bits of ['fp32', 'bf16', '1', '4']) {
  await attempt(`encoder of ${bits}`, bits === 'fp32' ? 'minimal' : 'codecs', () => checkEncoder(bits))
}
await attempt('encoder of 8 with one large number', 'codecs', () => checkEncoder('8', 1e6))
for (const file of readdirSync(join(folder, 'whole'))) {
  const run = JSON.parse(readFileSync(join(folder, 'whole', file)))
  await attempt(`run of ${file}`, run.level, () => replays(run))
}
process.exit(results.every((result) => result === 'passed') ? 0 : 1)
