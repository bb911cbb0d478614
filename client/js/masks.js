// A client's part in sums under masks: the level "masks" of proto/README.md.

import * as crypto from 'node:crypto'
import { deserialize, serialize } from 'node:v8'
import { bytesOf, entriesOf, mapOf, refuseIf, sha256 } from './messages.js'
import { stream } from './rotation.js'

const PRIME = 2n ** 256n + 297n
const numberOf = (bytes) => BigInt(`0x${bytes.toString('hex')}`)
export const big = (value, width) => Buffer.from(BigInt(value).toString(16).padStart(2 * width, '0'), 'hex')
const joined = (width, parts) =>
  Buffer.concat(parts.map((part) => Buffer.from(part)).flatMap((part) => [big(part.length, width), part]))
/** Parts behind their lengths: what is signed and hashed. */
export const text = (...parts) => joined(8, parts)
const derived = (secret, ...parts) =>
  Buffer.from(crypto.hkdfSync('sha256', secret, 'plait secure aggregation 1', joined(4, parts), 32))

const keyFrom = (make, type, prefix) => (raw) =>
  make({ key: Buffer.concat([Buffer.from(prefix, 'hex'), raw]), format: 'der', type })
const privateKey = keyFrom(crypto.createPrivateKey, 'pkcs8', '302e020100300506032b656e04220420')
const publicKey = keyFrom(crypto.createPublicKey, 'spki', '302a300506032b656e032100')
const nodeKey = keyFrom(crypto.createPublicKey, 'spki', '302a300506032b6570032100')
export const rawPublic = (key) => crypto.createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(12)
export const publicOf = (raw) => rawPublic(privateKey(raw))
const agreed = (own, other, ...parts) =>
  derived(crypto.diffieHellman({ privateKey: privateKey(own), publicKey: publicKey(other) }), ...parts)
const isSigned = (by, signature, signed) =>
  signature.length === 64 && crypto.verify(null, signed, nodeKey(by), signature)

function placesOf(bytes, count) {
  const found = Array.from({ length: bytes.length >> 1 }, (_, i) => bytes.readUInt16BE(2 * i))
  const isRight = found.every((place, i) => place < count && (i === 0 || place > found[i - 1]))
  refuseIf(bytes.length % 2 || !isRight, 'places are out of order or off the roster')
  return found
}

const threshold = (count) => Math.ceil((2 * count) / 3)
export const leastSurvivors = (count) => Math.max(3, threshold(count))

/** Shares of 32 bytes for the points 1 to `count`, of which `needed` give them. */
export function split(secret, needed, count, draw = () => numberOf(crypto.randomBytes(40)) % PRIME) {
  const coefficients = [numberOf(secret), ...Array.from({ length: needed - 1 }, draw)]
  const at = (point) => coefficients.reduceRight((value, each) => (value * point + each) % PRIME, 0n)
  return Array.from({ length: count }, (_, i) => big(at(BigInt(i + 1)), 33))
}

/** What an offer of keys is signed over. */
export function keysText({ run_id, purpose, round, attempt }, { client, identity, encryption, masking, commitment }) {
  const session = text(run_id, purpose, big(round, 8), attempt)
  return text('plait secure aggregation: keys 1', session, client, identity, encryption, masking, commitment)
}

export function rosterDigest(session, { offers, bits, unit, size, figures }) {
  const binary = bytesOf(Float64Array.of(unit)).reverse()
  const grid = Buffer.concat([big(bits, 1), binary, big(size, 8), big(figures, 2)])
  const signed = offers.map((offer) => text(keysText(session, offer), offer.signature))
  return sha256(text('plait secure aggregation: roster 1', grid, ...signed))
}

/** Who holds shares of the client at a place, by place: its neighbours and itself. */
export function holders(count, digest, place) {
  const all = Array.from({ length: count }, (_, i) => i)
  if (count <= 128) return all
  const ranks = all.map((i) => sha256(digest, big(i, 4)))
  const order = all.sort((a, b) => Buffer.compare(ranks[a], ranks[b]))
  const at = order.indexOf(place)
  return Array.from({ length: 65 }, (_, i) => order[(at + i - 32 + count) % count]).sort((a, b) => a - b)
}

/** What clients sign before anything is unmasked. */
export function survivorsText(digest, sharers, survivors) {
  const lists = [sharers, survivors].map((list) => Buffer.concat(list.map((number) => big(number, 4))))
  return text('plait secure aggregation: survivors 1', digest, ...lists)
}

/** The keys of a roster's attempt, by the roster's digest. */
export const maskKeys = (digest) => ({
  own: (seed, received) => derived(seed, 'mask of one', digest, received),
  pair: (own, other, received) => agreed(own, other, 'mask of two', digest, received),
  parcel: (own, place) => derived(own, 'parcel', digest, big(place, 4)),
  shares: (own, other, sender) => agreed(own, other, 'shares', digest, big(sender, 4)),
})

/** Whether the federation's authority (PEM) says that an offer's node key is the client's that it names. */
export function isVouchedFor(authority, { client, identity, certificate, endorsement }) {
  try {
    const its = new crypto.X509Certificate(certificate)
    const isNow = new Date(its.validFrom) <= new Date() && new Date() <= new Date(its.validTo)
    const isClients = its.subject === `CN=${client}` && !its.ca && its.keyUsage.join() === '1.3.6.1.5.5.7.3.2'
    const isIssued = its.verify(new crypto.X509Certificate(authority).publicKey)
    const endorsed = text('plait node key 1', client, identity)
    return isNow && isClients && isIssued && crypto.verify('sha256', endorsed, its.publicKey, endorsement)
  } catch {
    return false
  }
}

/** Whole numbers of so many bits each, the first in the lowest ones. */
const word = (numbers, bits) =>
  big(numbers.reduceRight((sum, each) => (sum << BigInt(bits)) | BigInt(each), 0n), bits).reverse()

/** Numbers modulo 2^bits, eight in `bits` bytes; above 8 bits the low bytes of all eight first. */
export function pack(residues, bits) {
  const count = Math.ceil(residues.length / 8)
  const groups = Array.from({ length: count }, (_, i) => [...residues.subarray(8 * i, 8 * i + 8)])
  const lows = (group) => word(group.map((each) => each & 255), 8)
  const highs = (group) => word(group.map((each) => each >> 8), bits - 8)
  return Buffer.concat(groups.flatMap((group) => (bits > 8 ? [lows(group), highs(group)] : [word(group, bits)])))
}

/** Numbers and figures plus masks, each a key and a sign. */
export function addMasks(numbers, figures, masks, bits) {
  const width = bits > 8 ? 2 : 1
  const [values, sums] = [Int32Array.from(numbers), BigUint64Array.from(figures)]
  for (const [secret, sign] of masks) {
    const drawn = stream(secret, 8 * sums.length + width * values.length)
    const rest = drawn.subarray(8 * sums.length)
    for (let i = 0; i < sums.length; i++) sums[i] += BigInt(sign) * drawn.readBigUInt64LE(8 * i)
    for (let i = 0; i < values.length; i++) values[i] += sign * rest.readUIntLE(width * i, width)
  }
  return { values: pack(values.map((value) => value & ((1 << bits) - 1)), bits), figures: bytesOf(sums) }
}

const seriesOf = ({ run_id, purpose }) => `${run_id.toString('hex')} ${purpose}`
const nameOf = (session) => `${seriesOf(session)} ${session.round} ${session.attempt.toString('hex')}`

/** Where a client stands; it is on disk before an answer leaves. */
export class Masking {
  /** identity: {key, sign, certificate, endorsement}; vouch(offer); store: load, save; least(purpose): of a roster. */
  constructor(name, identity, vouch, store, least) {
    const stored = store.load('masking')
    Object.assign(this, { name, identity, vouch, store, least, state: stored ? deserialize(stored) : { closed: {} } })
  }

  answer(task) {
    const { roster, delivery, opening, survivors, unmasking } = task
    if (!roster && !delivery && !opening && !survivors && !unmasking) return this.#said(this.#offer(task))
    const { session } = this.state
    refuseIf(!session || nameOf(session) !== nameOf(task), 'a stage of another attempt is asked for')
    if (roster) return this.#said(this.#share(roster, this.state))
    if (delivery) return this.#said(this.#deliver(delivery, this.state))
    if (opening) return this.#said(this.#show(opening, this.state))
    return this.#said(survivors ? this.#sign(survivors, this.state) : this.#reveal(unmasking, this.state))
  }

  #said(answer) {
    this.store.save('masking', serialize(this.state))
    return { client: this.name, ...answer }
  }

  #offer({ run_id, purpose, round, attempt }) {
    const [{ closed, session: before }, session] = [this.state, { run_id, purpose, round, attempt }]
    const isOver = round <= (closed[seriesOf(session)] ?? -1) || (before && nameOf(before) === nameOf(session))
    refuseIf(isOver, 'this round or attempt was begun or unmasked before')
    const [encryption, masking, seed] = [0, 1, 2].map(() => crypto.randomBytes(32))
    this.state = { closed, session, own: { encryption, masking, seed }, held: new Map() }
    const keys = { encryption: publicOf(encryption), masking: publicOf(masking), commitment: sha256(seed) }
    const { key: identity, sign, certificate, endorsement } = this.identity
    const offer = { client: this.name, identity, ...keys, certificate, endorsement }
    return { offer: { ...offer, signature: sign(keysText(session, offer)) } }
  }

  #share(roster, state) {
    const { session, own } = state
    const { offers, bits, unit, figures } = roster
    const me = offers.findIndex((offer) => offer.client === this.name)
    refuseIf(!own || state.roster || me < 0, 'a roster is shown twice or too late, or without this client')
    const isAlone = (what) => new Set(offers.map((offer) => offer[what].toString('hex'))).size === offers.length
    const isDistinct = ['identity', 'encryption', 'masking'].every(isAlone)
    // By name, none twice.
    mapOf(offers.map(({ client }) => ({ key: client, value: 0 })))
    const isEnough = offers.length >= Math.max(3, this.least(session.purpose)) && offers.length <= 16384
    refuseIf(!isEnough || !isDistinct, 'the roster does not protect its clients')
    refuseIf(bits < 2 || bits > 16 || !(unit > 0 && unit < 1e30) || figures > 64, 'the roster has no such grid')
    const isMine = ['encryption', 'masking'].every((what) => offers[me][what].equals(publicOf(own[what])))
    refuseIf(!isMine, 'the roster has other keys for this client')
    for (const offer of offers) {
      const isOwn = isSigned(offer.identity, offer.signature, keysText(session, offer)) && this.vouch(offer)
      refuseIf(!isOwn, `keys of ${offer.client} are not its own`)
    }
    const digest = rosterDigest(session, roster)
    const mine = holders(offers.length, digest, me)
    const [keys, seeds] = [own.masking, own.seed].map((secret) => split(secret, threshold(mine.length), mine.length))
    const pairs = mine.map((place, i) => [place, [keys[i], seeds[i]]])
    Object.assign(state, { roster, digest, me, neighbours: mine.filter((place) => place !== me) })
    state.held = new Map(pairs.filter(([place]) => place === me))
    const others = pairs.filter(([place]) => place !== me)
    return { parcels: { parts: entriesOf(others.map(([place, pair]) => [place, sealed(pair, place, state)])) } }
  }

  #deliver({ sharers, parcels }, state) {
    const { roster, me, own, neighbours } = state
    refuseIf(!own || !roster || state.sharers, 'shares are delivered at another stage')
    const [shared, given] = [placesOf(sharers, roster.offers.length), mapOf(parcels)]
    const expected = neighbours.filter((place) => shared.includes(place))
    const isRight = expected.length === given.size && expected.every((place) => given.has(place)) && shared.includes(me)
    const isEnough = expected.length + 1 >= threshold(neighbours.length + 1)
    refuseIf(!isRight || !isEnough || shared.length < leastSurvivors(roster.offers.length), 'too few shares, or others')
    const pairs = expected.map((place) => [place, opened(given.get(place), place, state)])
    const unreadable = pairs.filter(([, pair]) => !pair).map(([place]) => big(place, 2))
    if (unreadable.length) return { unreadable: Buffer.concat(unreadable) }
    Object.assign(state, { sharers: shared, held: new Map([...state.held, ...pairs]) })
    return { ready: true }
  }

  #show({ receivers }, state) {
    const { roster, digest, own, neighbours } = state
    refuseIf(!own || !roster || state.masked, 'keys of parcels are asked for too late')
    const asked = placesOf(receivers, roster.offers.length)
    refuseIf(!asked.every((place) => neighbours.includes(place)), 'keys of others than neighbours are asked for')
    Object.assign(state, { own: null, held: new Map() })
    const shown = asked.map((place) => [place, maskKeys(digest).parcel(own.encryption, place)])
    return { opened: { parts: entriesOf(shown) } }
  }

  /** The roster that numbers of a task are made for. */
  rosterFor(run_id, purpose, round) {
    const { session, roster, sharers, masked, own } = this.state
    const isIt = session && seriesOf(session) === seriesOf({ run_id, purpose }) && session.round === round
    refuseIf(!isIt || !own || !sharers || masked, 'numbers are asked for without a masked sum at that stage')
    return roster
  }

  masked(numbers, figures, received) {
    const { roster, digest, me, own, held } = this.state
    const isWhole = numbers.length === Number(roster.size) && figures.length === roster.figures
    refuseIf(!isWhole, 'the roster has another size')
    const keys = maskKeys(digest)
    const masks = [...held.keys()].filter((place) => place !== me).map((place) => {
      return [keys.pair(own.masking, roster.offers[place].masking, received), me < place ? 1 : -1]
    })
    this.state.masked = true
    masks.push([keys.own(own.seed, received), 1])
    return this.#said({ update: addMasks(numbers, figures, masks, roster.bits) })
  }

  #sign({ survivors }, state) {
    const { roster, sharers, me, digest } = state
    refuseIf(!sharers, 'survivors are named at another stage')
    const list = placesOf(survivors, roster.offers.length)
    const isSafe = list.length >= leastSurvivors(roster.offers.length) && list.includes(me)
    refuseIf(!isSafe || !list.every((place) => sharers.includes(place)), 'the list does not protect this client')
    const signed = survivorsText(digest, sharers, list)
    refuseIf(state.signed && !signed.equals(state.signed), 'another list of survivors was signed')
    Object.assign(state, { signed, survivors: list })
    return { signature: this.identity.sign(signed) }
  }

  #reveal({ survivors, signatures }, state) {
    const { roster, session, own, held, me, signed, survivors: list } = state
    const isSame = signed && Buffer.concat(list.map((place) => big(place, 2))).equals(survivors)
    refuseIf(!isSame, 'the list of survivors is not the one that was signed')
    if (state.revealed) return state.revealed
    const by = [...mapOf(signatures)].filter(([place, signature]) => {
      return list.includes(place) && isSigned(roster.offers[place].identity, signature, signed)
    })
    refuseIf(by.length < leastSurvivors(roster.offers.length), 'too few survivors have signed')
    const shares = new Map([...held].map(([place, [ofKey, ofSeed]]) => [place, list.includes(place) ? ofSeed : ofKey]))
    if (own) shares.set(me, Buffer.concat([Buffer.alloc(1), own.seed]))
    state.closed[seriesOf(session)] = session.round
    Object.assign(state, { own: null, held: new Map(), revealed: { revealed: { parts: entriesOf(shares) } } })
    return state.revealed
  }
}

/** Two shares for the neighbour at a place, encrypted. */
function sealed(pair, place, { roster, digest, me, own }) {
  const once = maskKeys(digest).parcel(own.encryption, place)
  const key = maskKeys(digest).shares(once, roster.offers[place].encryption, me)
  const cipher = crypto.createCipheriv('aes-256-gcm', key, Buffer.alloc(12))
  const encrypted = [cipher.update(Buffer.concat(pair)), cipher.final(), cipher.getAuthTag()]
  return Buffer.concat([publicOf(once), ...pair.map((share) => sha256(share)), ...encrypted])
}

/** The two shares of a parcel, or null where it does not hold what it says. */
function opened(parcel, sender, { digest, own }) {
  try {
    const key = maskKeys(digest).shares(own.encryption, parcel.subarray(0, 32), sender)
    const cipher = crypto.createDecipheriv('aes-256-gcm', key, Buffer.alloc(12)).setAuthTag(parcel.subarray(162))
    const both = Buffer.concat([cipher.update(parcel.subarray(96, 162)), cipher.final()])
    const pair = [both.subarray(0, 33), both.subarray(33)]
    const isRight = pair.every((share) => numberOf(share) < PRIME)
    return isRight && Buffer.concat(pair.map((share) => sha256(share))).equals(parcel.subarray(32, 96)) ? pair : null
  } catch {
    return null
  }
}
