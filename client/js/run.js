// One run at a client: what the client holds of it, and its answers to tasks.

import { join } from 'node:path'
import { deserialize, serialize } from 'node:v8'
import { decodePayload, encodePayload } from './codecs.js'
import { big, isVouchedFor, leastSurvivors, Masking, text } from './masks.js'
import * as messages from './messages.js'
import { valuesOf } from './protocol.js'
import { onGrid } from './rotation.js'
import { Store } from './store.js'

const { adapterDigest, bytesOf, Layout, reasonOf, Refused, refuseIf, sha256, specDigest } = messages
const { DIRECTION_UPDATE, DIRECTION_BROADCAST } = valuesOf('Direction')
const NONE = Buffer.alloc(0)
const SIDES = [/./, /lora_A/, /lora_B/]
const seedOf = (...parts) => sha256(...parts).readBigUInt64LE() >> 1n

// What a run's configuration may say.
const KEYS = new Set(`base revision labels method rank alpha client-ranks rank-pattern bias dropout target-modules
local-steps step-budget batch-size gradient-accumulation-steps seq-len learning-rate lr-schedule warmup-steps
weight-decay max-grad-norm correction loss objective own-share trainer held-out-fraction max-held-out-sequences wire
seed rounds rule clients clients-per-round over-selection eval-every eval-clients rounds-mode secure-aggregation
dp dp-epsilon dp-noise-multiplier dp-delta dp-clip
server-optimizer`.split(/\s+/))
// Settings that this client does not follow.
const OTHERS = ['personal', 'feddyn', 'scaffold', 'record_delta', 'client_noise']

export class Run {
  constructor(welcome, { name, identity, authority, trainer, state, accept }) {
    const config = JSON.parse(welcome.run_config_json)
    const store = new Store(join(state, name, welcome.run_id))
    const unknown = Object.keys(config).filter((key) => !KEYS.has(key))
    const declined = unknown.length ? `the run configuration has ${unknown}, which is not known here` : accept(config)
    if (declined) this.declined = new Refused('POLICY', declined)
    const invited = Number(config['clients-per-round']) || Number(config.clients) || 3
    const groups = invited < 24 ? 1 : Math.min(8, Math.floor(invited / 8))
    const least = (purpose) => (purpose === 'train' ? leastSurvivors(Math.floor(invited / groups)) : 3)
    const masking = new Masking(name, identity, (offer) => !authority || isVouchedFor(authority, offer), store, least)
    Object.assign(this, { config, name, identity, trainer, store, masking })
  }

  /** The bytes of the answer to a task's bytes. */
  async answer(bytes, signal, progress) {
    try {
      if (this.declined) throw this.declined
      const task = messages.decodeTask(bytes)
      if (task.kind === 'masking') return messages.encodeReply({ masked: this.masking.answer(task) })
      return messages.encodeReply(await this.#work(task, signal, progress))
    } catch (error) {
      if (signal.aborted) throw error
      // What goes wrong in a trainer may quote its data.
      const isTold = error instanceof Refused && !this.config['secure-aggregation']
      const detail = isTold ? error.message.replace(/[^\x20-\x7e]/g, ' ').slice(0, 1024) : 'this client has its reasons'
      const reason = error.reason ?? reasonOf('FAILED')
      return messages.encodeReply({ refusal: { client: this.name, reason, detail } })
    }
  }

  async #work(task, signal, progress) {
    const settings = this.#settings(task.settings)
    if (task.kind === 'describe') return { card: await this.#describe(task, settings) }
    refuseIf(task.base.length, 'the base moves, which this client cannot follow', 'SPEC_MISMATCH')
    const { header, layout, adapter } = this.#caughtUp(task.broadcast)
    this.store.save('settings', settings.text)
    const isTraining = task.kind === 'train'
    const seed = seedOf(`${this.config.seed}/${settings.round}/${this.name}`)
    refuseIf(isTraining && settings.seed !== `${seed}`, 'the seed is not that of the round', 'POLICY')
    refuseIf(header.round !== settings.round - isTraining, 'the broadcast is of another round', 'POLICY')
    const roster = settings.secure_aggregation && this.masking.rosterFor(header.run_id, task.kind, settings.round)
    const work = { layout, adapter, settings, spec: JSON.parse(this.store.load('spec')), signal, progress }
    return isTraining ? this.#train(work, header, roster) : this.#evaluate(work, header, roster)
  }

  #settings(given) {
    const held = this.store.load('settings')
    const json = given.json || (held && sha256(held).equals(given.digest) && held.toString())
    refuseIf(!json, 'the settings are not held here', 'NEED_FULL')
    const settings = messages.readSettings(given, json)
    for (const [key, value] of Object.entries(settings)) {
      const told = this.config[key.replaceAll('_', '-')]
      const isOther = typeof told === typeof value && told !== value && !(key === 'learning_rate' && !value)
      refuseIf(isOther, `${key} is ${value}, expected ${told} as the run configuration says`, 'POLICY')
    }
    const other = OTHERS.filter((key) => settings[key])
    refuseIf(other.length, `settings have ${other}, which this client does not follow`, 'POLICY')
    return settings
  }

  async #describe({ spec_json: spec, layout: packed }, settings) {
    refuseIf(!packed.length, 'this client cannot derive the layout', 'SPEC_MISMATCH')
    const layout = Layout.unpack(packed)
    const counts = await this.trainer.describe({ settings, spec: JSON.parse(spec), layout })
    this.store.save('spec', spec)
    this.store.save('layout', layout.text)
    this.store.save('settings', settings.text)
    const { name: client, trainer: { fingerprint: base_fingerprint } } = this
    const card = { client, base_fingerprint, spec_digest: specDigest(spec, layout) }
    return settings.secure_aggregation ? card : { ...counts, ...card }
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

  async #train(work, header, roster) {
    const { layout, adapter, settings } = work
    // The server knows a task's seed, and may not know the batches of a client under masks.
    const seed = roster ? seedOf(this.store.secret(), `${settings.round}`) : BigInt(settings.seed)
    const steps = settings.steps || settings.local_steps
    const trained = await this.trainer.train({ ...work, adapter: adapter.slice(), steps, seed })
    const isWhole = trained.adapter.length === layout.size && trained.adapter.every(Number.isFinite)
    refuseIf(!isWhole, 'training gave another number of values, or some that are not finite', 'FAILED')
    const owed = this.#owed(settings, layout.size)
    const wanted = trained.adapter.map((value, i) => Math.fround(value - adapter[i]) + owed[i])
    const isSent = ({ name }) => !settings.trained || !/lora_[AB]/.test(name) || SIDES[settings.trained].test(name)
    const parts = layout.tensors.filter(isSent).map(({ offset, size }) => [offset, offset + size])
    const delta = new Float32Array(layout.size)
    for (const part of parts) delta.set(wanted.subarray(...part), part[0])
    const sent = roster
      ? this.#onGrid(delta, parts, roster, header, settings)
      : encodePayload(layout, delta, settings.wire)
    const numbers = wanted.map((value, i) => value - sent.decoded[i])
    this.store.save(`owed-${settings.round % 2}`, serialize({ round: settings.round, numbers }))
    if (roster) return { masked: this.masking.masked(sent.numbers, sent.figures, header.result_digest) }
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

  #onGrid(delta, parts, roster, { result_digest: received }, { round }) {
    const vector = Float32Array.from(parts.flatMap((part) => [...delta.subarray(...part)]))
    const key = sha256(this.store.secret(), 'rounding', `${round}`, received)
    const { numbers, decoded: sent } = onGrid(vector, roster, text(received, big(round, 8)), key)
    const decoded = new Float32Array(delta.length)
    let at = 0
    for (const [start, end] of parts) decoded.set(sent.subarray(at, (at += end - start)), start)
    const square = sum(vector.map((value) => value ** 2)) / roster.unit ** 2
    return { numbers, decoded, figures: [figure(square, 16)] }
  }

  async #evaluate(work, header, roster) {
    const { round } = work.settings
    const { losses, counts, correct } = await this.trainer.evaluate(work)
    if (round === 0) this.store.save('first', JSON.stringify(losses))
    const first = JSON.parse(this.store.load('first') ?? '[]')
    const [loss, loss_error] = meanOf(losses, counts)
    const isKnown = first.length === losses.length
    const [change, change_error] = isKnown ? meanOf(losses.map((sum, i) => sum - first[i]), counts) : []
    refuseIf(!Number.isFinite(loss), 'the loss is not finite', 'FAILED')
    if (roster) {
      const errors = [loss_error, change_error].map((error) => error && error ** 2)
      const known = [[loss, 32], [errors[0], 40], [change, 32], [errors[1], 40]]
      // Zeros for labels, rewards and an own adapter.
      const figures = known.flatMap(([value, bits]) => [BigInt(value !== undefined), figure(value ?? 0, bits)])
      return { masked: this.masking.masked([], [...figures, ...Array(18).fill(0n)], header.result_digest) }
    }
    const said = { client: this.name, round, loss, tokens: sum(counts), examples: counts.length, correct }
    return { evaluation: { ...said, loss_error, change, change_error } }
  }
}

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0)
const figure = (value, bits) => BigInt(Math.round(Math.min(value * 2 ** bits, 2 ** 48)))

/** Mean per token, and its standard error over sequences, where there are four or more. */
function meanOf(sums, counts) {
  const [n, total] = [sums.length, sum(counts)]
  const mean = sum(sums) / total
  const squares = sum(sums.map((each, i) => (each - mean * counts[i]) ** 2))
  return [mean, n < 4 ? undefined : Math.sqrt((squares * n) / (n - 1)) / total]
}
