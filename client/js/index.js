// A client of a plait federation over gRPC: proto/README.md, with a trainer of the caller's. index.d.ts has the types.

import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import grpc from '@grpc/grpc-js'
import { encodePayload, decodePayload } from './codecs.js'
import { isVouchedFor, leastSurvivors, Masking, onGrid } from './masks.js'
import * as messages from './messages.js'
import { decode, encode } from './protobuf.js'
import { CALLS, enrolmentBytes, FROM_NODE, KEYS, TO_NODE } from './federation.js'
import { readKit } from './kit.js'

const { adapterDigest, bytesOf, Layout, Refused, sha256, specDigest } = messages
const NONE = Buffer.alloc(0)
const PART = 1 << 20
const FINAL = new Set([1, 2, 3, 4, 5, 6, 7, 8, 11])
const { INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED } = grpc.status
const GIVEN_UP = new Set([INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED])

/** Files of one run: written whole, and on disk before anything is said that builds on them. */
class Store {
  constructor(folder) {
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    this.folder = folder
  }

  load(name) {
    const path = join(this.folder, name)
    return existsSync(path) ? readFileSync(path) : null
  }

  save(name, bytes) {
    const aside = join(this.folder, `.${name}`)
    const file = openSync(aside, 'w', 0o600)
    writeSync(file, bytes)
    fsyncSync(file)
    closeSync(file)
    renameSync(aside, join(this.folder, name))
  }

  /** 32 bytes that no server knows. */
  secret() {
    if (!this.load('secret')) this.save('secret', randomBytes(32))
    return this.load('secret')
  }
}

/** One run: what the client holds of it, and its answers. */
class Run {
  constructor(welcome, { name, identity, authority, trainer, state, accept }) {
    this.config = JSON.parse(welcome.run_config_json)
    Object.assign(this, { name, identity, trainer })
    this.store = new Store(join(state, name, welcome.run_id.toString(16).padStart(16, '0')))
    const unknown = Object.keys(this.config).filter((key) => !KEYS.has(key))
    const isOther = welcome.base_fingerprint.length && !welcome.base_fingerprint.equals(trainer.fingerprint)
    const declined = unknown.length ? `run configuration has ${unknown}, which this client does not know` : accept(this.config)
    this.declined = isOther ? new Refused('BASE_MISMATCH', 'another base is held here') : declined ? new Refused('POLICY', declined) : null
    const vouch = authority ? (offer) => isVouchedFor(authority, offer) : () => true
    const invited = Math.floor(Number(this.config['clients-per-round']) || Number(this.config.clients) || 3)
    const groups = Math.floor(invited / 8) >= 3 ? Math.min(8, Math.floor(invited / 8)) : 1
    const least = (purpose) => (purpose === 'train' ? leastSurvivors(Math.floor(invited / groups)) : 3)
    this.masking = new Masking(name, identity, vouch, this.store, least)
  }

  /** The bytes of the answer to a task's bytes. */
  async answer(bytes, signal, progress) {
    try {
      if (this.declined) throw this.declined
      const task = messages.decodeTask(bytes)
      const reply = task.kind === 'masking' ? { masked: this.masking.answer(task) } : await this.#work(task, signal, progress)
      return messages.encodeReply(reply)
    } catch (error) {
      if (signal.aborted) throw error
      const reason = error.reason ?? messages.REASONS.FAILED
      // What goes wrong in a trainer may quote its data.
      const detail = error instanceof Refused && !this.config['secure-aggregation'] ? error.message : 'this client has its reasons'
      return messages.encodeReply({ refusal: { client: this.name, reason, detail: detail.replace(/[^\x20-\x7e]/g, ' ').slice(0, 1024) }, error })
    }
  }

  async #work(task, signal, progress) {
    const settings = this.#settings(task.settings)
    if (task.kind === 'describe') return { card: await this.#describe(task, settings) }
    if (task.base.length) throw new Refused('SPEC_MISMATCH', 'the base moves, which this client cannot follow')
    const { header, layout, adapter } = this.#catchUp(task.broadcast)
    this.store.save('settings', Buffer.from(settings.text))
    this.#check(task.kind, header, settings)
    const work = { layout, adapter, settings, spec: JSON.parse(this.store.load('spec')), header, signal, progress }
    return task.kind === 'train' ? this.#train(work) : this.#evaluate(work)
  }

  #settings(given) {
    const held = this.store.load('settings')
    const json = given.json || (held && sha256(held).equals(given.digest) ? held.toString() : '')
    if (!json) throw new Refused('NEED_FULL', 'the settings are not held here')
    const settings = messages.readSettings(given, json)
    for (const [key, value] of Object.entries(settings)) {
      const told = this.config[key.replaceAll('_', '-')]
      if (told !== undefined && typeof told === typeof value && told !== value && !(key === 'learning_rate' && !value)) {
        throw new Refused('POLICY', `${key} is ${value}, expected ${told} as the run configuration says`)
      }
    }
    const unknown = ['record_delta', 'client_noise', 'personal'].filter((key) => settings[key])
    if (unknown.length) throw new Refused('POLICY', `settings have ${unknown}, which this client does not know`)
    return settings
  }

  #check(kind, { round }, settings) {
    const seed = sha256(`${this.config.seed}/${settings.round}/${this.name}`).readBigUInt64LE() >> 1n
    if (kind === 'train' && settings.seed !== seed) throw new Refused('POLICY', 'the seed is not that of the round')
    if (round !== settings.round - (kind === 'train' ? 1 : 0)) throw new Refused('POLICY', 'the broadcast is of another round')
  }

  async #describe({ spec_json: spec, layout }, settings) {
    if (!layout.length) throw new Refused('SPEC_MISMATCH', 'this client cannot derive the layout')
    const unpacked = Layout.unpack(layout)
    const size = await this.trainer.describe({ settings, spec: JSON.parse(spec), layout: unpacked })
    this.store.save('spec', Buffer.from(spec))
    this.store.save('layout', Buffer.from(unpacked.text))
    this.store.save('settings', Buffer.from(settings.text))
    const counts = settings.secure_aggregation ? {} : {
      train_examples: size.trainExamples, train_tokens: size.trainTokens, held_out_examples: size.heldOutExamples, held_out_tokens: size.heldOutTokens,
    }
    this.examples = size.trainExamples
    return { client: this.name, base_fingerprint: this.trainer.fingerprint, spec_digest: specDigest(spec, unpacked), ...counts, histogram: [] }
  }

  #catchUp(broadcast) {
    const { header, payload } = messages.openEnvelope(broadcast)
    if (header.direction !== 2 || !['', this.name].includes(header.client)) throw new Refused('POLICY', 'the broadcast is not for this client')
    if (!header.base_fingerprint.equals(this.trainer.fingerprint)) throw new Refused('BASE_MISMATCH', 'another base is held here')
    const [spec, text] = [this.store.load('spec'), this.store.load('layout')]
    if (!spec || (header.spec_json && header.spec_json !== spec.toString())) throw new Refused('SPEC_MISMATCH', 'this specification was not described')
    const layout = new Layout(text.toString())
    if (!header.spec_digest.equals(specDigest(spec, layout))) throw new Refused('POLICY', 'the specification is another')
    const stored = this.store.load('adapter')
    const held = stored && new Float32Array(Uint8Array.from(stored).buffer)
    const digest = held && adapterDigest(layout, held)
    const isHere = digest?.equals(header.result_digest)
    if (!isHere && header.relative_to.length && !digest?.equals(header.relative_to)) throw new Refused('NEED_FULL', 'the adapter is not held here')
    const adapter = isHere ? held : decodePayload(layout, header, payload)
    if (!isHere && header.relative_to.length) adapter.forEach((step, i) => (adapter[i] = held[i] + step))
    if (!isHere && !adapterDigest(layout, adapter).equals(header.result_digest)) throw new Refused('NEED_FULL', 'the adapter is not the one that the server means')
    if (!isHere) this.store.save('adapter', bytesOf(adapter))
    return { header, layout, adapter }
  }

  async #train({ layout, adapter, settings, spec, header, signal, progress }) {
    const roster = settings.secure_aggregation && this.masking.rosterFor(header.run_id, 'train', settings.round)
    const steps = settings.steps || settings.local_steps
    // The server knows a task's seed, and may not know the batches of a client under masks.
    const seed = roster ? sha256(this.store.secret(), `${settings.round}`).readBigUInt64LE() >> 1n : settings.seed
    const trained = await this.trainer.train({ adapter: adapter.slice(), layout, spec, settings, steps, seed, signal, progress })
    if (trained.adapter.length !== layout.size || !trained.adapter.every(Number.isFinite)) throw new Refused('FAILED', 'training gave another number of values, or some that are not finite')
    const delta = Float32Array.from(trained.adapter, (value, i) => value - adapter[i])
    const parts = layout.tensors.filter(({ name }) => !settings.trained || !/lora_[AB]/.test(name) || name.includes(`lora_${settings.trained === 1 ? 'A' : 'B'}`))
    const owed = this.#owed(settings, layout.size)
    const wanted = new Float32Array(layout.size)
    for (const { offset, size } of parts) for (let i = offset; i < offset + size; i++) wanted[i] = delta[i] + owed[i]
    if (roster) return { masked: this.#masked(wanted, parts, roster, settings, header) }
    const packed = encodePayload(layout, wanted, settings.wire)
    this.#owe(settings, owed.map((value, i) => value + delta[i] - packed.decoded[i]))
    const said = {
      direction: 1, run_id: header.run_id, round: settings.round, client: this.name, base_fingerprint: header.base_fingerprint,
      spec_digest: header.spec_digest, relative_to: header.result_digest, codec: packed.codec, codec_parameters: packed.codec_parameters,
      examples: (await this.trainer.describe({ settings, spec, layout })).trainExamples,
      metrics: new Map(Object.entries(trained.metrics ?? {})),
    }
    return { update: messages.sealEnvelope(said, packed.payload, this.identity.sign) }
  }

  /** What the encoder dropped in the round before; a round that is asked for again begins with the same. */
  #owed({ round, without_feedback: without }, size) {
    const kept = this.store.load('owed')
    const first = kept && !without ? kept.readUInt32LE() : -1
    const at = first === round ? 4 : first === round - 1 ? 4 + 4 * size : 0
    return at && kept.length === 4 + 8 * size ? new Float32Array(Uint8Array.from(kept.subarray(at, at + 4 * size)).buffer) : new Float32Array(size)
  }

  #owe(settings, after) {
    const head = Buffer.alloc(4)
    head.writeUInt32LE(settings.round)
    this.store.save('owed', Buffer.concat([head, bytesOf(this.#owed(settings, after.length)), bytesOf(after)]))
  }

  #masked(wanted, parts, roster, settings, header) {
    const vector = Float32Array.from(parts.flatMap(({ offset, size }) => [...wanted.subarray(offset, offset + size)]))
    const key = sha256(this.store.secret(), 'rounding', `${settings.round}`, header.result_digest)
    const { numbers, decoded } = onGrid(vector, roster, header.result_digest, settings.round, key)
    const after = new Float32Array(wanted)
    let at = 0
    for (const { offset, size } of parts) for (let i = offset; i < offset + size; i++) after[i] -= decoded[at++]
    this.#owe(settings, after)
    const square = vector.reduce((sum, value) => sum + (value / roster.unit) ** 2, 0)
    return this.masking.masked(numbers, [figure(square, 16)], header.result_digest)
  }

  async #evaluate({ layout, adapter, settings, spec, header, signal, progress }) {
    const roster = settings.secure_aggregation && this.masking.rosterFor(header.run_id, 'evaluate', settings.round)
    const { losses, counts, correct } = await this.trainer.evaluate({ adapter, layout, spec, settings, signal, progress })
    const now = [...losses]
    if (settings.round === 0) this.store.save('first', Buffer.from(JSON.stringify(now)))
    const first = JSON.parse(this.store.load('first')?.toString() ?? 'null')
    const [loss, loss_error] = meanOf(now, counts)
    const [change, change_error] = first?.length === now.length ? meanOf(now.map((sum, i) => sum - first[i]), counts) : []
    if (!Number.isFinite(loss)) throw new Refused('FAILED', 'the loss is not finite')
    if (!roster) {
      const tokens = counts.reduce((a, b) => a + b, 0)
      return { evaluation: { client: this.name, round: settings.round, loss, tokens, examples: counts.length, correct, loss_error, change, change_error } }
    }
    // scored, loss, known, squares, moved, change, change_known, change_squares, and zeros for labels, rewards and an own adapter.
    const has = (value) => (value === undefined ? 0 : 1)
    const said = [1, figure(loss, 32), has(loss_error), figure((loss_error ?? 0) ** 2, 40), has(change), figure(change ?? 0, 32), has(change_error), figure((change_error ?? 0) ** 2, 40)]
    return { masked: this.masking.masked(new Int32Array(0), [...said, ...Array(18).fill(0)].map(BigInt), header.result_digest) }
  }
}

const figure = (value, bits) => BigInt(Math.round(Math.min(value * 2 ** bits, 2 ** 48)))

/** Mean per token, and its standard error over sequences, where there are four or more. */
function meanOf(sums, counts) {
  const add = (values) => values.reduce((a, b) => a + b, 0)
  const [n, total] = [sums.length, add(counts)]
  const mean = add(sums) / total
  const squares = add(sums.map((sum, i) => (sum - mean * counts[i]) ** 2))
  return [mean, n < 4 ? undefined : Math.sqrt((squares * n) / (n - 1)) / total]
}

export class Client {
  /** Options: index.d.ts. */
  constructor({ server, kit, name, trainer, state, labels = [], accept = () => '', log = () => {} }) {
    const loaded = kit ? readKit(kit) : { name, identity: { key: NONE, sign: () => NONE }, credentials: grpc.credentials.createInsecure() }
    Object.assign(this, { server, trainer, state, labels, accept, log, ...loaded })
    this.answers = new Map()
    this.waiting = []
  }

  /** Takes part until the run is over and the server does not stay; rejects where the server refuses this client for good. */
  async run() {
    for (let wait = 200; ; wait = Math.min(2 * wait, 5000)) {
      const channel = new grpc.Client(this.server, this.credentials, {
        'grpc.keepalive_time_ms': 30000, 'grpc.keepalive_timeout_ms': 20000, 'grpc.keepalive_permit_without_calls': 1,
        'grpc.max_receive_message_length': PART + 65536, 'grpc.use_local_subchannel_pool': 1, 'grpc.enable_retries': 0,
      })
      try {
        if (await this.#attend(channel)) return
        wait = 200
      } catch (error) {
        if (error.isFinal) throw error
        this.log(`connection lost: ${error.message}; trying again`)
      } finally {
        this.session = null
        channel.close()
      }
      await new Promise((resolve) => setTimeout(resolve, wait * (0.5 + Math.random())))
    }
  }

  /** One long call; true once the run is over. */
  #attend(channel) {
    this.channel = channel
    const call = channel.makeBidiStreamRequest(CALLS.Attend, (message) => encode(FROM_NODE, message), (bytes) => decode(TO_NODE, bytes))
    const nonce = randomBytes(32)
    this.say = (message) => call.writable && call.write(message)
    return new Promise((resolve, reject) => {
      call.on('error', reject)
      call.on('end', () => resolve(false))
      call.on('data', (message) => {
        if (message.challenge) {
          const proved = enrolmentBytes(message.challenge.nonce, nonce, this.identity.key, this.name)
          this.say({ proof: { signature: this.identity.sign(proved) } })
        } else if (message.refused) {
          const { reason, detail } = message.refused
          reject(Object.assign(new Error(`refused (${reason}): ${detail}`), { isFinal: FINAL.has(reason) }))
        } else if (message.drain) resolve(message.drain.finished)
        else this.#hear(message)
      })
      this.say({ hello: { protocol: 1, name: this.name, public_key: this.identity.key, nonce, labels: this.labels, version: 'js' } })
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
      // Tasks of another attempt at a masked sum mean that the one before is over.
      const attempt = (task) => /~([^.]*)/.exec(task.group_id)?.[1]
      if (attempt(work) && attempt(this.current ?? work) !== attempt(work)) this.current.abandon.abort()
      if (this.current?.task_id !== work.task_id) this.waiting.push(work)
      this.#next()
    }
  }

  #welcome(welcome) {
    this.session = welcome.session
    if (this.run_id !== welcome.run_id) {
      this.current?.abandon.abort()
      this.answers.clear()
      this.run_id = welcome.run_id
      this.doing = welcome.run_id ? new Run(welcome, this) : null
    }
    // The server sends again what it still waits for.
    this.waiting = []
    const ready = { base_fingerprint: this.trainer.fingerprint, methods: this.trainer.methods ?? ['lora'], device: 'javascript', run_id: this.run_id }
    if (this.doing) this.say({ ready })
  }

  async #next() {
    if (this.current || !this.waiting.length) return
    const work = this.waiting.shift()
    this.current = { ...work, abandon: new AbortController() }
    const { signal } = this.current.abandon
    const { session } = this
    const progress = () => this.say({ progress: { task_id: work.task_id, doing: work.message_type } })
    const timer = setInterval(progress, 20000)
    try {
      const bytes = Buffer.concat([work.head, await this.#download(work)])
      // The same task again has the same answer.
      const known = this.answers.get(work.task_id)
      const digest = sha256(bytes)
      const data = known?.digest.equals(digest) ? known.data : await this.doing.answer(bytes, signal, progress)
      for (const id of this.answers.keys()) if (id.split('.')[1] === work.task_id.split('.')[1]) this.answers.delete(id)
      this.answers.set(work.task_id, { digest, data })
      if (!signal.aborted) await this.#deliver(work.task_id, data)
    } catch (error) {
      this.log(`${work.task_id}: ${signal.aborted ? 'abandoned' : error.message}`)
      // Where the call goes on, the server does not send the task again.
      if (!signal.aborted && this.session === session && !GIVEN_UP.has(error.code)) {
        setTimeout(() => this.session === session && this.waiting.push(work) && this.#next(), 2000)
      }
    } finally {
      clearInterval(timer)
      this.current = null
      this.#next()
    }
  }

  async #download({ body_bytes: size, body_sha256: digest }) {
    if (!size) return NONE
    const parts = []
    const call = this.channel.makeServerStreamRequest(...CALLS.Download, { session: this.session, sha256: digest, offset: 0 })
    for await (const { data } of call) parts.push(data)
    const body = Buffer.concat(parts)
    if (body.length !== size || !sha256(body).equals(digest)) throw new Error('the body is not the one that was announced')
    return body
  }

  /** Until the server has it: the task comes again with the next session if this one ends. */
  async #deliver(task_id, data) {
    const digest = sha256(data)
    const { channel, session } = this
    const held = await new Promise((resolve, reject) =>
      channel.makeUnaryRequest(...CALLS.Held, { session, task_id, sha256: digest }, (error, reply) => (error ? reject(error) : resolve(reply))),
    )
    if (held.complete || held.late || held.unknown) return
    await new Promise((resolve, reject) => {
      const call = channel.makeClientStreamRequest(...CALLS.Upload, (error, receipt) => (error ? reject(error) : resolve(receipt)))
      call.write({ start: { session, task_id, content: 1, size: data.length, sha256: digest, offset: held.offset } })
      for (let at = held.offset; at < data.length; at += PART) call.write({ data: data.subarray(at, at + PART) })
      call.end()
    })
  }
}

export { messages }
