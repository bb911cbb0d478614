// A client's part in sums under masks: the level "masks" of proto/README.md.

import {
  createCipheriv, createDecipheriv, createHash, createPrivateKey, createPublicKey, diffieHellman, hkdfSync, randomBytes,
  verify, X509Certificate,
} from 'node:crypto'
import { entriesOf, mapOf, Refused, sha256 } from './messages.js'

const PRIME = 2n ** 256n + 297n
const refuse = (detail) => {
  throw new Refused('MALFORMED', detail)
}
const big = (value, bytes) => Buffer.from(BigInt(value).toString(16).padStart(2 * bytes, '0'), 'hex')
const joined = (length, parts) => Buffer.concat(parts.map((part) => Buffer.from(part)).flatMap((part) => [big(part.length, length), part]))
export const text = (...parts) => joined(8, parts)
const derived = (secret, ...parts) => Buffer.from(hkdfSync('sha256', secret, 'plait secure aggregation 1', joined(4, parts.map((part) => Buffer.from(part))), 32))

const raw = (prefix, key) => Buffer.concat([Buffer.from(prefix, 'hex'), key])
const x25519 = (key) => createPrivateKey({ key: raw('302e020100300506032b656e04220420', key), format: 'der', type: 'pkcs8' })
const x25519Public = (key) => createPublicKey({ key: raw('302a300506032b656e032100', key), format: 'der', type: 'spki' })
export const publicOf = (key) => createPublicKey(x25519(key)).export({ format: 'der', type: 'spki' }).subarray(12)
const agreed = (key, other, ...parts) => derived(diffieHellman({ privateKey: x25519(key), publicKey: x25519Public(other) }), ...parts)
const isSigned = (key, signature, signed) =>
  signature.length === 64 && verify(null, signed, createPublicKey({ key: raw('302a300506032b6570032100', key), format: 'der', type: 'spki' }), signature)
const stream = (key, length) => createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length))

const places = (numbers) => Buffer.concat(numbers.map((number) => big(number, 2)))
function placesOf(bytes, count) {
  const found = Array.from({ length: bytes.length >> 1 }, (_, i) => bytes.readUInt16BE(2 * i))
  if (bytes.length % 2 || found.some((place, i) => place >= count || (i && place <= found[i - 1]))) refuse('places are out of order or off the roster')
  return found
}

const threshold = (count) => Math.ceil((2 * count) / 3)
export const leastSurvivors = (count) => Math.max(3, threshold(count))

/** Shares of 32 bytes for the points 1 to `count`, of which `needed` give them. */
export function split(secret, needed, count, draw = () => BigInt(`0x${randomBytes(40).toString('hex')}`) % PRIME) {
  const coefficients = [BigInt(`0x${secret.toString('hex')}`), ...Array.from({ length: needed - 1 }, draw)]
  return Array.from({ length: count }, (_, i) => big(coefficients.reduceRight((value, each) => (value * BigInt(i + 1) + each) % PRIME, 0n), 33))
}

const sessionText = ({ run_id, purpose, round, attempt }) => text(run_id, purpose, big(round, 8), attempt)
export const keysText = (session, offer) =>
  text('plait secure aggregation: keys 1', sessionText(session), offer.client, offer.identity, offer.encryption, offer.masking, offer.commitment)

export function rosterDigest(session, { offers, bits, unit, size, figures }) {
  const grid = Buffer.alloc(19)
  grid[0] = bits
  grid.writeDoubleBE(unit, 1)
  grid.writeBigUInt64BE(BigInt(size), 9)
  grid.writeUInt16BE(figures, 17)
  return sha256(text('plait secure aggregation: roster 1', grid, ...offers.map((offer) => text(keysText(session, offer), offer.signature))))
}

/** Who holds shares of the client at a place, by place: its neighbours and itself. */
export function holders(count, digest, place) {
  if (count <= 128) return Array.from({ length: count }, (_, i) => i)
  const order = Array.from({ length: count }, (_, i) => [sha256(digest, big(i, 4)), i]).sort((a, b) => Buffer.compare(a[0], b[0])).map((each) => each[1])
  const at = order.indexOf(place)
  return Array.from({ length: 65 }, (_, i) => order[(at + i - 32 + count) % count]).sort((a, b) => a - b)
}

/** What clients sign before anything is unmasked. */
export function survivorsText(digest, sharers, survivors) {
  const wide = (numbers) => Buffer.concat(numbers.map((number) => big(number, 4)))
  return text('plait secure aggregation: survivors 1', digest, wide(sharers), wide(survivors))
}

/** The keys of a roster's attempt, by the roster's digest. */
export const maskKeys = (digest) => ({
  own: (seed, received) => derived(seed, 'mask of one', digest, received),
  pair: (key, other, received) => agreed(key, other, 'mask of two', digest, received),
  parcel: (key, place) => derived(key, 'parcel', digest, big(place, 4)),
  shares: (key, other, sender) => agreed(key, other, 'shares', digest, big(sender, 4)),
})

/** Whether the federation's authority (PEM) says that an offer's node key is the client's that it names. */
export function isVouchedFor(authority, offer) {
  try {
    const certificate = new X509Certificate(offer.certificate)
    const { subject, validFrom, validTo, publicKey, keyUsage, ca } = certificate
    const isNow = new Date(validFrom) <= new Date() && new Date() <= new Date(validTo)
    const isClients = subject === `CN=${offer.client}` && !ca && keyUsage?.length === 1 && keyUsage[0] === '1.3.6.1.5.5.7.3.2'
    const isIssued = certificate.verify(new X509Certificate(authority).publicKey)
    return isNow && isClients && isIssued && verify('sha256', text('plait node key 1', offer.client, offer.identity), publicKey, offer.endorsement)
  } catch {
    return false
  }
}

/** The signs and the size of a round's rotation. */
export function rotation(size, received, round) {
  const side = size >= 32768 ? 64 : 8
  const rows = side * side
  const rotated = Math.ceil(size / rows) * rows
  const seed = createHash('sha256').update('plait rotation 1').update(text(received, big(round, 8))).digest()
  const bits = stream(seed, rotated / 8 + 1)
  return { rows, rotated, sign: (i) => (bits[i >> 3] >> (7 - (i & 7))) & 1 ? 1 : -1 }
}

/** A vector under a round's rotation. */
export function rotated(vector, { rows, rotated: size, sign }) {
  const x = new Float64Array(size)
  vector.forEach((value, i) => (x[i] = value * sign(i)))
  return hadamard(x, rows)
}

function hadamard(values, rows) {
  const columns = values.length / rows
  for (let half = 1; half < rows; half *= 2) {
    for (let row = 0; row < rows; row++) {
      if (row & half) continue
      for (let column = 0; column < columns; column++) {
        const [i, j] = [row * columns + column, (row + half) * columns + column]
        const [a, b] = [values[i], values[j]]
        values[i] = a + b
        values[j] = a - b
      }
    }
  }
  const scale = 1 / Math.sqrt(rows)
  return values.map((value) => value * scale)
}

/** Whole numbers on a roster's grid, right on average, and what they decode to. */
export function onGrid(vector, { bits, unit, offers }, received, round, key) {
  const turned = rotation(vector.length, received, round)
  const { rows, rotated: size, sign } = turned
  let x = rotated(vector, turned).map((value) => value / unit)
  const m = 2 ** (bits - 1) / 4
  const most = size * (Math.max(m * m - offers.length / 4, (m * m) / 4) / offers.length + 0.25)
  const square = (of) => of.reduce((sum, value) => sum + value * value, 0)
  if (square(x) > most) x = x.map((value) => value * Math.sqrt(most / square(x)))
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  for (;;) {
    const drawn = cipher.update(Buffer.alloc(4 * size))
    const numbers = Int32Array.from(x, (value, i) => Math.floor(value + (drawn.readUInt32LE(4 * i) >>> 8) / 2 ** 24))
    if (square(numbers) <= most) {
      const back = hadamard(Float64Array.from(numbers, (value) => value * unit), rows)
      return { numbers, decoded: Float32Array.from({ length: vector.length }, (_, i) => back[i] * sign(i)) }
    }
    x = x.map((value) => value * Math.sqrt(most / square(numbers)) * 0.999)
  }
}

/** Numbers modulo 2^bits, eight in `bits` bytes; above 8 bits the low bytes of all eight first. */
export function pack(residues, bits) {
  const parts = []
  const put = (group, width, shift) => {
    const word = Buffer.alloc(8)
    word.writeBigUInt64LE(group.reduce((sum, value, i) => sum | (BigInt((value >> shift) & ((1 << width) - 1)) << BigInt(i * width)), 0n))
    parts.push(word.subarray(0, width))
  }
  for (let at = 0; at < residues.length; at += 8) {
    const group = [...residues.subarray(at, at + 8)]
    put(group, Math.min(bits, 8), 0)
    if (bits > 8) put(group, bits - 8, 8)
  }
  return Buffer.concat(parts)
}

/** Masks of a client's numbers: its own, and one with each neighbour that shared. */
export function addMasks(numbers, figures, masks, bits) {
  const width = bits > 8 ? 2 : 1
  const [values, sums] = [Int32Array.from(numbers), figures.map((figure) => BigInt.asUintN(64, figure))]
  for (const [key, sign] of masks) {
    const drawn = stream(key, 8 * sums.length + width * values.length)
    sums.forEach((sum, i) => (sums[i] = BigInt.asUintN(64, sum + BigInt(sign) * drawn.readBigUInt64LE(8 * i))))
    const rest = drawn.subarray(8 * sums.length)
    for (let i = 0; i < values.length; i++) values[i] += sign * (width === 1 ? rest[i] : rest.readUInt16LE(2 * i))
  }
  const figureBytes = Buffer.alloc(8 * sums.length)
  sums.forEach((sum, i) => figureBytes.writeBigUInt64LE(sum, 8 * i))
  return { values: pack(values.map((value) => value & ((1 << bits) - 1)), bits), figures: figureBytes }
}

const FIELDS = ['run_id', 'purpose', 'round', 'attempt']
const same = (a, b) => FIELDS.every((name) => (Buffer.isBuffer(a[name]) ? a[name].equals(b[name]) : a[name] === b[name]))

/** Where a client stands; it is on disk before an answer leaves. */
export class Masking {
  /** identity: {key, sign, certificate, endorsement}; vouch(offer); store: load, save; least(purpose): of a roster. */
  constructor(name, identity, vouch, store, least) {
    Object.assign(this, { name, identity, vouch, store, least })
    this.state = parse(store.load('masking')) ?? { closed: {} }
  }

  answer(task) {
    const state = this.state
    if (!task.roster && !task.delivery && !task.survivors && !task.unmasking && !task.opening) return this.#offer(task)
    if (!state.session || !same(state.session, task)) refuse('a stage of another attempt is asked for')
    const said = task.roster ? this.#share(task.roster) : task.delivery ? this.#deliver(task.delivery)
      : task.opening ? this.#show(task.opening) : task.survivors ? this.#sign(task.survivors) : this.#reveal(task.unmasking)
    return this.#said(said)
  }

  #said(answer) {
    this.store.save('masking', Buffer.from(JSON.stringify(this.state)))
    return { client: this.name, ...answer }
  }

  #offer(task) {
    const { closed, session: before } = this.state
    const session = Object.fromEntries(FIELDS.map((name) => [name, task[name]]))
    if (session.round <= (closed[series(session)] ?? -1) || (before && same(before, session))) refuse('this round or attempt was begun or unmasked before')
    const [encryption, masking, seed] = [randomBytes(32), randomBytes(32), randomBytes(32)]
    this.state = { closed, session, own: { encryption, masking, seed } }
    const keys = { encryption: publicOf(encryption), masking: publicOf(masking), commitment: sha256(seed) }
    const offer = { client: this.name, identity: this.identity.key, ...keys }
    offer.signature = this.identity.sign(keysText(session, offer))
    return this.#said({ offer: { ...offer, certificate: this.identity.certificate, endorsement: this.identity.endorsement } })
  }

  #share(roster) {
    const { session, own } = this.state
    const { offers, bits, unit, figures } = roster
    const names = offers.map((offer) => offer.client)
    const me = names.indexOf(this.name)
    if (!own || this.state.roster || me < 0) refuse('a roster is shown twice or too late, or without this client')
    const isDistinct = ['client', 'identity', 'encryption', 'masking'].every((what) => new Set(offers.map((offer) => offer[what].toString('hex'))).size === offers.length)
    const isSorted = names.every((name, i) => i === 0 || Buffer.compare(Buffer.from(names[i - 1]), Buffer.from(name)) < 0)
    if (offers.length < Math.max(3, this.least(session.purpose)) || offers.length > 16384 || !isDistinct || !isSorted) refuse('the roster does not protect its clients')
    if (bits < 2 || bits > 16 || !(unit > 0 && unit < 1e30) || figures > 64) refuse('the roster has a grid that cannot be')
    if (!offers[me].encryption.equals(publicOf(own.encryption)) || !offers[me].masking.equals(publicOf(own.masking))) refuse('the roster has other keys for this client')
    for (const offer of offers) if (!this.vouch(offer) || !isSigned(offer.identity, offer.signature, keysText(session, offer))) refuse(`keys of ${offer.client} are not its own`)
    const digest = rosterDigest(session, roster)
    const mine = holders(offers.length, digest, me)
    const shares = [own.masking, own.seed].map((secret) => split(secret, threshold(mine.length), mine.length))
    const parcels = new Map()
    this.state.held = {}
    mine.forEach((place, i) => {
      const pair = shares.map((of) => of[i])
      if (place === me) this.state.held[me] = pair
      else parcels.set(place, this.#sealed(pair, digest, me, place, offers[place].encryption))
    })
    Object.assign(this.state, { roster, digest, me })
    return { parcels: { parts: entriesOf(parcels) } }
  }

  #sealed(pair, digest, me, place, theirs) {
    const keys = maskKeys(digest)
    const key = keys.parcel(this.state.own.encryption, place)
    const cipher = createCipheriv('aes-256-gcm', keys.shares(key, theirs, me), Buffer.alloc(12))
    return Buffer.concat([publicOf(key), ...pair.map((share) => sha256(share)), cipher.update(Buffer.concat(pair)), cipher.final(), cipher.getAuthTag()])
  }

  #opened(parcel, sender) {
    try {
      const key = maskKeys(this.state.digest).shares(this.state.own.encryption, parcel.subarray(0, 32), sender)
      const cipher = createDecipheriv('aes-256-gcm', key, Buffer.alloc(12)).setAuthTag(parcel.subarray(162, 178))
      const both = Buffer.concat([cipher.update(parcel.subarray(96, 162)), cipher.final()])
      const pair = [both.subarray(0, 33), both.subarray(33)]
      const isRight = parcel.length === 178 && pair.every((share, i) => sha256(share).equals(parcel.subarray(32 + 32 * i, 64 + 32 * i)) && BigInt(`0x${share.toString('hex')}`) < PRIME)
      return isRight ? pair : null
    } catch {
      return null
    }
  }

  #deliver({ sharers, parcels }) {
    const { roster, digest, me, own } = this.state
    if (!own || !roster || this.state.sharers) refuse('shares are delivered at another stage')
    const count = roster.offers.length
    const [shared, given] = [placesOf(sharers, count), mapOf(parcels)]
    const expected = holders(count, digest, me).filter((place) => place !== me && shared.includes(place))
    const isWhole = expected.length === given.size && expected.every((place) => given.has(place))
    if (!shared.includes(me) || shared.length < leastSurvivors(count) || !isWhole || expected.length + 1 < threshold(holders(count, digest, me).length)) refuse('too few shares are delivered, or others')
    const opened = new Map([...given].map(([place, parcel]) => [place, this.#opened(parcel, place)]))
    const unreadable = [...opened].filter(([, pair]) => !pair).map(([place]) => place)
    if (unreadable.length) return { unreadable: places(unreadable) }
    Object.assign(this.state.held, Object.fromEntries(opened))
    this.state.sharers = shared
    return { ready: true }
  }

  #show({ receivers }) {
    const { roster, digest, me, own } = this.state
    if (!own || !roster || this.state.masked) refuse('keys of parcels are asked for too late')
    const asked = placesOf(receivers, roster.offers.length)
    const mine = holders(roster.offers.length, digest, me).filter((place) => place !== me)
    if (!asked.every((place) => mine.includes(place))) refuse('keys of parcels to others than neighbours are asked for')
    const shown = new Map(asked.map((place) => [place, maskKeys(digest).parcel(own.encryption, place)]))
    Object.assign(this.state, { own: null, held: {} })
    return { opened: { parts: entriesOf(shown) } }
  }

  /** The roster that numbers of a task are made for. */
  rosterFor(runId, purpose, round) {
    const { session, roster, sharers, masked } = this.state
    const isIt = session && session.run_id.equals(runId) && session.purpose === purpose && session.round === round
    if (!isIt || !roster || !sharers || masked) refuse('numbers are asked for without a masked sum at that stage')
    return roster
  }

  masked(numbers, figures, received) {
    const { roster, digest, me, own, held } = this.state
    if (numbers.length !== roster.size || figures.length !== roster.figures) refuse('the roster has another size')
    const keys = maskKeys(digest)
    const masks = [[keys.own(own.seed, received), 1]]
    for (const place of Object.keys(held).map(Number)) {
      if (place === me) continue
      masks.push([keys.pair(own.masking, roster.offers[place].masking, received), me < place ? 1 : -1])
    }
    this.state.masked = true
    return this.#said({ update: addMasks(numbers, figures, masks, roster.bits) })
  }

  #survivors(bytes) {
    const { roster, me, sharers } = this.state
    if (!roster || !sharers) refuse('survivors are named at another stage')
    const list = placesOf(bytes, roster.offers.length)
    if (list.length < leastSurvivors(roster.offers.length) || !list.includes(me) || !list.every((place) => sharers.includes(place))) refuse('the list of survivors does not protect this client')
    return list
  }

  #survivorsText(list) {
    return survivorsText(this.state.digest, this.state.sharers, list)
  }

  #sign({ survivors }) {
    const list = this.#survivors(survivors)
    if (this.state.signed && this.state.signed.join() !== list.join()) refuse('another list of survivors was signed')
    this.state.signed = list
    return { signature: this.identity.sign(this.#survivorsText(list)) }
  }

  #reveal({ survivors, signatures }) {
    const { roster, session, own, held, me } = this.state
    const list = this.#survivors(survivors)
    if (this.state.signed?.join() !== list.join()) refuse('the list of survivors is not the one that was signed')
    if (!this.state.revealed) {
      const signed = this.#survivorsText(list)
      const valid = [...mapOf(signatures)].filter(([place, signature]) => list.includes(place) && isSigned(roster.offers[place].identity, signature, signed))
      if (valid.length < leastSurvivors(roster.offers.length)) refuse('too few survivors have signed')
      const shares = new Map(Object.entries(held).map(([place, pair]) => [Number(place), pair[list.includes(Number(place)) ? 1 : 0]]))
      if (own) shares.set(me, Buffer.concat([Buffer.alloc(1), own.seed]))
      this.state.closed[series(session)] = session.round
      Object.assign(this.state, { own: null, held: {}, revealed: entriesOf(shares) })
    }
    return { revealed: { parts: this.state.revealed } }
  }
}

const series = ({ run_id, purpose }) => `${run_id.toString('hex')} ${purpose}`
const parse = (bytes) => bytes && JSON.parse(bytes.toString(), (_, value) => (value?.type === 'Buffer' ? Buffer.from(value.data) : value))
