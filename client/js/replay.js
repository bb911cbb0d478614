// A whole run of tests/vectors/whole: the server says what is in the file, and this client must say the rest of it.

import * as crypto from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import grpc from '@grpc/grpc-js'
import { Client } from './index.js'
import { rawPublic } from './kit.js'
import { decode, encode } from './protocol.js'

const bytes = (text) => Buffer.from(text, 'hex')
// An implementation's own.
const FREE = { hello: ['version'], ready: ['methods', 'memory_bytes', 'device'] }

/** What a node says on its long call without what is its own. */
function required(data) {
  const message = decode('FromNode', data)
  for (const [event, names] of Object.entries(FREE)) {
    for (const name of names) if (message[event]) delete message[event][name]
  }
  return encode('FromNode', message)
}

/** The trainer that the file describes. */
function trainerOf({ base_fingerprint, counts }) {
  return {
    fingerprint: bytes(base_fingerprint),
    describe: () => counts,
    async train({ adapter, layout, steps, settings }) {
      const trained = ['lora_', 'lora_A', 'lora_B'][settings.trained]
      const moved = layout.tensors.filter(({ name }) => name.includes(trained))
      for (const { offset, size } of moved) for (let i = offset; i < offset + size; i++) adapter[i] += steps / 1024
      return { adapter }
    },
    async evaluate({ settings: { round } }) {
      return { losses: [2 / 2 ** round, 4 / 2 ** round], counts: [4, 4] }
    },
  }
}

/** Whether the client says what is in the file. */
export async function replays({ given, calls }) {
  let [at, isOver] = [0, null]
  const over = new Promise((resolve) => (isOver = resolve))
  /** The next call of the file, if a node says this in it. */
  const next = (call, said) => {
    const { call: name, node = [] } = calls[at] ?? {}
    const isSame = name === call && node.length === said.length && node.every((each, i) => {
      const [a, b] = [bytes(each), said[i]].map(call === 'Attend' ? required : (data) => data)
      return a.equals(b)
    })
    if (!isSame) isOver(`call ${at} of the file is another than ${call} of ${Buffer.concat(said).length} bytes`)
    return isSame ? calls[at++].server?.map(bytes) : []
  }
  let push = null
  const raw = { requestDeserialize: (data) => data, responseSerialize: (data) => data }
  const handlers = {
    Attend(call) {
      push = () => {
        while (calls[at]?.call === 'Attend' && calls[at].server) {
          for (const each of calls[at++].server) call.write(bytes(each))
        }
      }
      call.on('data', (data) => {
        next('Attend', [data])
        push()
      })
    },
    Held: ({ request }, done) => done(null, next('Held', [request])[0]),
    Upload(call, done) {
      const parts = []
      call.on('data', (part) => parts.push(part))
      call.on('end', () => {
        done(null, next('Upload', parts)[0])
        push()
      })
    },
  }
  const server = new grpc.Server()
  const streams = { Attend: [true, true], Held: [false, false], Upload: [true, false] }
  server.addService(Object.fromEntries(Object.entries(streams).map(([name, [requestStream, responseStream]]) => {
    return [name, { path: `/plait.v1.Federation/${name}`, requestStream, responseStream, ...raw }]
  })), handlers)
  const port = await new Promise((resolve, reject) => {
    const settle = (error, bound) => (error ? reject(error) : resolve(bound))
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), settle)
  })
  const state = mkdtempSync(join(tmpdir(), 'plait-replay-'))
  const client = new Client({ server: `127.0.0.1:${port}`, name: given.name, trainer: trainerOf(given), state })
  const prefix = bytes('302e020100300506032b657004220420')
  const key = crypto.createPrivateKey({ key: Buffer.concat([prefix, bytes(given.key)]), format: 'der', type: 'pkcs8' })
  client.identity = { key: rawPublic(key), sign: (data) => crypto.sign(null, data, key) }
  const draw = crypto.default.randomBytes
  crypto.default.randomBytes = () => bytes(given.nonce)
  syncBuiltinESMExports()
  try {
    const why = await Promise.race([over, client.run().then(() => null, (error) => error.message)])
    if (why) throw new Error(why)
    return at === calls.length
  } finally {
    crypto.default.randomBytes = draw
    syncBuiltinESMExports()
    server.forceShutdown()
    rmSync(state, { recursive: true })
  }
}
