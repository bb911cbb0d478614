// A client of a plait federation over gRPC: proto/README.md, with a trainer of the caller's. index.d.ts has the types.

import { randomBytes } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import grpc from '@grpc/grpc-js'
import { readKit } from './kit.js'
import * as messages from './messages.js'
import { FEDERATION, valuesOf } from './protocol.js'
import { Run } from './run.js'

const { sha256 } = messages
const NONE = Buffer.alloc(0)
const PART = 1 << 20
const MOST_BODY = 2 ** 31 - 1
const { REFUSED_REASON_FULL, REFUSED_REASON_LATE } = valuesOf('RefusedReason')
const { INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED } = grpc.status
const GIVEN_UP = [INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED]
const CHANNEL = {
  'grpc.keepalive_time_ms': 30000, 'grpc.keepalive_timeout_ms': 20000, 'grpc.keepalive_permit_without_calls': 1,
  'grpc.max_receive_message_length': PART + 65536, 'grpc.use_local_subchannel_pool': 1, 'grpc.enable_retries': 0,
}
const Federation = grpc.makeClientConstructor(FEDERATION, 'Federation')

/** What a node signs to prove its key. */
export const enrolmentBytes = (challenge, hello, key, name) =>
  Buffer.concat([Buffer.from('plait.v1.enrol\0'), challenge, hello, key, Buffer.from(name)])

export class Client {
  /** Options: index.d.ts. */
  constructor({ server, kit, name, trainer, state, accept = () => '', log = () => {} }) {
    const identity = { key: NONE, sign: () => NONE }
    const loaded = kit ? readKit(kit) : { name, identity, credentials: grpc.credentials.createInsecure() }
    Object.assign(this, { server, trainer, state, accept, log, answers: new Map(), waiting: [], ...loaded })
  }

  /** Takes part until the run is over; rejects where the server refuses this client for good. */
  async run() {
    for (let wait = 200; ; wait = Math.min(2 * wait, 5000)) {
      this.calls = new Federation(this.server, this.credentials, CHANNEL)
      try {
        if (await this.#attend()) return
        wait = 200
      } catch (error) {
        if (error.isFinal) throw error
        this.log(`connection lost: ${error.message}; trying again`)
      } finally {
        this.session = null
        this.calls.close()
      }
      await setTimeout(wait * (0.5 + Math.random()))
    }
  }

  /** One long call; true once the run is over. */
  #attend() {
    const call = this.calls.Attend()
    const nonce = randomBytes(32)
    const { name, identity: { key, sign } } = this
    this.say = (message) => call.writable && call.write(message)
    return new Promise((resolve, reject) => {
      call.on('error', reject)
      call.on('end', () => resolve(false))
      call.on('data', ({ challenge, refused, drain, ...message }) => {
        if (challenge) this.say({ proof: { signature: sign(enrolmentBytes(challenge.nonce, nonce, key, name)) } })
        else if (drain) resolve(drain.finished)
        else if (refused) {
          const isFinal = ![REFUSED_REASON_FULL, REFUSED_REASON_LATE].includes(refused.reason)
          reject(Object.assign(new Error(`refused (${refused.reason}): ${refused.detail}`), { isFinal }))
        } else this.#hear(message)
      })
      this.say({ hello: { protocol: 1, name, public_key: key, nonce, version: 'js' } })
    }).finally(() => call.cancel())
  }

  #hear({ welcome, work, withdraw, unfit }) {
    if (welcome) this.#welcome(welcome)
    else if (unfit) this.log(`the run has no use for this client (${unfit.reason}): ${unfit.detail}`)
    else if (withdraw) {
      this.waiting = this.waiting.filter((task) => task.task_id !== withdraw.task_id)
      this.answers.delete(withdraw.task_id)
      if (this.current?.task_id === withdraw.task_id) this.current.abandon.abort()
    } else if (work && this.waiting.length < 8) {
      if (this.current?.task_id !== work.task_id) this.waiting.push(work)
      this.#next()
    }
  }

  #welcome({ session, run_id, ...rest }) {
    this.session = session
    if (this.run_id !== run_id) {
      this.current?.abandon.abort()
      this.answers.clear()
      this.run_id = run_id
      this.doing = run_id === '0' ? null : new Run({ run_id, ...rest }, this)
    }
    // The server sends again what it still waits for.
    this.waiting = []
    const { fingerprint: base_fingerprint, methods = ['lora'] } = this.trainer
    if (this.doing) this.say({ ready: { base_fingerprint, methods, device: 'javascript', run_id } })
  }

  async #next() {
    if (this.current || !this.waiting.length) return
    const work = this.waiting.shift()
    const { session } = this
    const { task_id, message_type: doing } = work
    this.current = { ...work, abandon: new AbortController() }
    const { signal } = this.current.abandon
    const progress = () => this.say({ progress: { task_id, doing } })
    const timer = setInterval(progress, 20000)
    try {
      const bytes = Buffer.concat([work.head, await this.download(work)])
      // The same task again has the same answer.
      const [known, digest] = [this.answers.get(task_id), sha256(bytes)]
      const data = known?.digest.equals(digest) ? known.data : await this.doing.answer(bytes, signal, progress)
      for (const id of this.answers.keys()) if (id.split('.')[1] === task_id.split('.')[1]) this.answers.delete(id)
      this.answers.set(task_id, { digest, data })
      if (!signal.aborted) await this.#deliver(task_id, data)
    } catch (error) {
      this.log(`${task_id}: ${signal.aborted ? 'abandoned' : error.message}`)
      // Where the call goes on, the server does not send the task again.
      const again = () => this.session === session && this.waiting.push(work) && this.#next()
      if (!signal.aborted && !GIVEN_UP.includes(error.code)) setTimeout(2000).then(again)
    } finally {
      clearInterval(timer)
      this.current = null
      this.#next()
    }
  }

  /** The body of a task: as many bytes as were announced, and no more. */
  async download({ body_bytes: size, body_sha256: sha }) {
    if (size === '0') return NONE
    if (!(Number(size) > 0 && Number(size) <= MOST_BODY)) throw new Error('a body of that size is not taken')
    let [parts, left] = [[], Number(size)]
    for await (const { data } of this.calls.Download({ session: this.session, sha256: sha })) {
      left -= data.length
      if (left < 0) break // which ends the call
      parts.push(data)
    }
    const body = Buffer.concat(parts)
    if (left || !sha256(body).equals(sha)) throw new Error('the body is not the one that was announced')
    return body
  }

  /** Until the server has it: the task comes again with the next session if this one ends. */
  async #deliver(task_id, data) {
    const { calls, session } = this
    const named = { session, task_id, sha256: sha256(data) }
    const held = await promisify(calls.Held.bind(calls))(named)
    if (held.complete || held.late || held.unknown) return
    await promisify((done) => {
      const upload = calls.Upload(done)
      upload.write({ start: { ...named, content: 1, size: data.length, offset: held.offset } })
      const start = Number(held.offset)
      for (let at = start; at < data.length; at += PART) upload.write({ data: data.subarray(at, at + PART) })
      upload.end()
    })()
  }
}

export { messages }
