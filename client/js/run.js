// One run at a client: what the client holds of it, and its answers to tasks.

import { join } from 'node:path'
import { deserialize, serialize } from 'node:v8'
import { decodePayload, encodePayload } from './codecs.js'
import * as messages from './messages.js'
import { valuesOf } from './protocol.js'
import { checkSettings, objectOf, readSettings, whyDeclined } from './settings.js'
import { Store } from './store.js'

const { adapterDigest, bytesOf, Layout, reasonOf, Refused, refuseIf, sha256, specDigest } = messages
const { DIRECTION_UPDATE, DIRECTION_BROADCAST } = valuesOf('Direction')
const NONE = Buffer.alloc(0)
const MOST_SPEC = 1 << 20
const SIDES = [/./, /lora_A/, /lora_B/]
const seedOf = (...parts) => sha256(...parts).readBigUInt64LE() >> 1n

export class Run {
  constructor(welcome, { name, identity, trainer, state, accept }) {
    const config = objectOf(welcome.run_config_json)
    const store = new Store(join(state, name, welcome.run_id))
    const declined = whyDeclined(config) || accept(config)
    if (declined) this.declined = new Refused('POLICY', declined)
    Object.assign(this, { config, name, identity, trainer, store })
  }

  /** The bytes of the answer to a task's bytes. */
  async answer(bytes, signal, progress) {
    try {
      if (this.declined) throw this.declined
      const task = messages.decodeTask(bytes)
      refuseIf(task.kind === 'masking', 'this client takes part in no masked sum', 'POLICY')
      return messages.encodeReply(await this.#work(task, signal, progress))
    } catch (error) {
      if (signal.aborted) throw error
      // What goes wrong in a trainer may quote its data.
      const isTold = error instanceof Refused
      const detail = isTold ? error.message.replace(/[^\x20-\x7e]/g, ' ').slice(0, 1024) : 'this client has its reasons'
      const reason = error.reason ?? reasonOf('FAILED')
      return messages.encodeReply({ refusal: { client: this.name, reason, detail } })
    }
  }

  async #work(task, signal, progress) {
    const settings = this.#settings(task.settings)
    refuseIf(settings.judging, 'this client has no judge part', 'TOO_LITTLE_DATA')
    if (task.kind === 'describe') return this.#describe(task, settings)
    const { header, layout, adapter } = this.#caughtUp(task.broadcast)
    this.store.save('settings', settings.text)
    const isTraining = task.kind === 'train'
    const seed = seedOf(`${this.config.seed}/${settings.round}/${this.name}`)
    refuseIf(isTraining && settings.seed !== `${seed}`, 'the seed is not that of the round', 'POLICY')
    refuseIf(header.round !== settings.round - isTraining, 'the broadcast is of another round', 'POLICY')
    const work = { layout, adapter, settings, spec: JSON.parse(this.store.load('spec')), signal, progress }
    return isTraining ? this.#train(work, header) : this.#evaluate(work)
  }

  #settings(given) {
    const held = this.store.load('settings')
    const json = given.json || (held && sha256(held).equals(given.digest) && held.toString())
    refuseIf(!json, 'the settings are not held here', 'NEED_FULL')
    const settings = readSettings(given, json)
    checkSettings(settings, this.config)
    return settings
  }

  async #describe({ spec_json: spec, layout: packed }, settings) {
    refuseIf(!packed.length, 'this client cannot derive the layout', 'SPEC_MISMATCH')
    refuseIf(spec.length > MOST_SPEC || !objectOf(spec), 'the specification is no JSON object, or too long')
    const layout = Layout.unpack(packed, this.trainer.parameters)
    const counts = await this.trainer.describe({ settings, spec: objectOf(spec), layout })
    this.store.save('spec', spec)
    this.store.save('layout', layout.text)
    this.store.save('settings', settings.text)
    const { name: client, trainer: { fingerprint: base_fingerprint } } = this
    return { card: { ...counts, client, base_fingerprint, spec_digest: specDigest(spec, layout) } }
  }

  /** The adapter that a broadcast leads to. */
  #caughtUp(broadcast) {
    const { header, payload } = messages.openEnvelope(broadcast)
    const { direction, client, spec_json, relative_to: before, result_digest: after } = header
    const isOurs = direction === DIRECTION_BROADCAST && ['', this.name].includes(client)
    refuseIf(!isOurs, 'the broadcast is not for this client', 'POLICY')
    refuseIf(!header.base_fingerprint.equals(this.trainer.fingerprint), 'another base is held here', 'BASE_MISMATCH')
    const spec = this.store.load('spec')?.toString()
    refuseIf(!spec || !['', spec].includes(spec_json), 'this specification was not described', 'SPEC_MISMATCH')
    const layout = new Layout(this.store.load('layout').toString())
    refuseIf(!header.spec_digest.equals(specDigest(spec, layout)), 'the specification is another', 'POLICY')
    const stored = this.store.load('adapter')
    const held = stored && new Float32Array(Uint8Array.from(stored).buffer)
    const digest = held ? adapterDigest(layout, held) : NONE
    if (digest.equals(after)) return { header, layout, adapter: held }
    refuseIf(before.length && !digest.equals(before), 'the adapter is not held here', 'NEED_FULL')
    const adapter = decodePayload(layout, header, payload)
    if (before.length) adapter.forEach((step, i) => (adapter[i] += held[i]))
    refuseIf(!adapterDigest(layout, adapter).equals(after), 'the adapter is not the one that is meant', 'NEED_FULL')
    this.store.save('adapter', bytesOf(adapter))
    return { header, layout, adapter }
  }

  async #train(work, header) {
    const { layout, adapter, settings } = work
    const seed = BigInt(settings.seed)
    const steps = settings.steps || settings.local_steps
    const trained = await this.trainer.train({ ...work, adapter: adapter.slice(), steps, seed })
    const isWhole = trained.adapter.length === layout.size && trained.adapter.every(Number.isFinite)
    refuseIf(!isWhole, 'training gave another number of values, or some that are not finite', 'FAILED')
    const owed = this.#owed(settings, layout.size)
    const wanted = trained.adapter.map((value, i) => Math.fround(value - adapter[i]) + owed[i])
    const isSent = ({ name }) => !settings.trained || !/lora_[AB]/.test(name) || SIDES[settings.trained].test(name)
    const delta = new Float32Array(layout.size)
    for (const { offset, size } of layout.tensors.filter(isSent)) {
      delta.set(wanted.subarray(offset, offset + size), offset)
    }
    const sent = encodePayload(layout, delta, settings.bits)
    const numbers = wanted.map((value, i) => value - sent.decoded[i])
    this.store.save(`owed-${settings.round % 2}`, serialize({ round: settings.round, numbers }))
    const { codec, codec_parameters, payload } = sent
    const { train_examples: examples } = await this.trainer.describe(work)
    const { run_id, base_fingerprint, spec_digest, result_digest: relative_to } = header
    const said = {
      direction: DIRECTION_UPDATE, run_id, round: settings.round, client: this.name, base_fingerprint, spec_digest,
      relative_to, codec, codec_parameters, examples, metrics: new Map(Object.entries(trained.metrics ?? {})),
    }
    return { update: messages.sealEnvelope(said, payload, this.identity.sign) }
  }

  /** What the encoder dropped in the round before; a round that is asked for again begins with the same. */
  #owed({ round, without_feedback: without }, size) {
    const kept = this.store.load(`owed-${(round + 1) % 2}`)
    const { round: last, numbers } = kept ? deserialize(kept) : {}
    return last === round - 1 && !without ? numbers : new Float32Array(size)
  }

  async #evaluate(work) {
    const { round } = work.settings
    const { losses, counts, correct } = await this.trainer.evaluate(work)
    if (round === 0) this.store.save('first', JSON.stringify(losses))
    const first = JSON.parse(this.store.load('first') ?? '[]')
    const [loss, loss_error] = meanOf(losses, counts)
    const isKnown = first.length === losses.length
    const [change, change_error] = isKnown ? meanOf(losses.map((sum, i) => sum - first[i]), counts) : []
    refuseIf(!Number.isFinite(loss), 'the loss is not finite', 'FAILED')
    const said = { client: this.name, round, loss, tokens: sum(counts), examples: counts.length, correct }
    return { evaluation: { ...said, loss_error, change, change_error } }
  }
}

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0)

/** Mean per token, and its standard error over sequences, where there are four or more. */
function meanOf(sums, counts) {
  const [n, total] = [sums.length, sum(counts)]
  const mean = sum(sums) / total
  const squares = sum(sums.map((each, i) => (each - mean * counts[i]) ** 2))
  return [mean, n < 4 ? undefined : Math.sqrt((squares * n) / (n - 1)) / total]
}
