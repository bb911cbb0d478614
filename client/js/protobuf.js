// Protobuf in proto/README.md's canonical form: a table of fields in, bytes out, and back. Knows no message.

const varint = (value) => {
  const bytes = []
  let rest = BigInt(value)
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128)
  return Buffer.from([...bytes, Number(rest)])
}

// Kinds: u integer, U integer beyond 2^53 (a BigInt), t text, b bytes, d double, f bool; a table for a message, [kind]
// for repeated ones. A trailing ? is written even with its default.
const WRITERS = {
  u: varint,
  U: varint,
  f: (value) => varint(value ? 1 : 0),
  t: (value) => Buffer.from(value, 'utf8'),
  b: (value) => value,
  d: (value) => {
    const bytes = Buffer.alloc(8)
    bytes.writeDoubleLE(value)
    return bytes
  },
}
const TYPES = { u: 0, U: 0, f: 0, d: 1 }
const EMPTY = { u: 0, U: 0n, f: false, t: '', b: Buffer.alloc(0), d: 0 }
const isDefault = (value) => !value || (value.length === 0 && typeof value === 'object') || Object.is(value, -0)

export function encode(table, message) {
  const parts = []
  const put = (number, kind, value) => {
    const bytes = typeof kind === 'string' ? WRITERS[kind](value) : encode(kind, value)
    const type = TYPES[kind] ?? 2
    parts.push(varint((number << 3) | type))
    if (type === 2) parts.push(varint(bytes.length))
    parts.push(bytes)
  }
  for (const [name, [number, kind]] of Object.entries(table)) {
    const value = message[name]
    if (value === undefined) continue
    if (Array.isArray(kind)) for (const each of value) put(number, kind[0], each)
    else if (typeof kind !== 'string') put(number, kind, value)
    else if (kind.endsWith('?')) put(number, kind[0], value)
    else if (!isDefault(value) || Object.is(value, -0)) put(number, kind, value)
  }
  return Buffer.concat(parts)
}

/** A message; fields that a table does not name are ignored, as gRPC's own messages allow. */
export function decode(table, bytes) {
  const message = {}
  const names = new Map()
  for (const [name, [number, kind]] of Object.entries(table)) {
    names.set(number, name)
    if (Array.isArray(kind)) message[name] = []
    else if (typeof kind === 'string' && !kind.endsWith('?')) message[name] = EMPTY[kind]
  }
  let at = 0
  const read = () => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      if (at >= bytes.length || shift > 63n) throw new Error('message is cut off')
      const byte = bytes[at++]
      value |= BigInt(byte & 127) << shift
      if (byte < 128) return value
    }
  }
  while (at < bytes.length) {
    const tag = Number(read())
    const type = tag & 7
    if (type > 2) throw new Error(`type ${type} of a field is unknown`)
    const size = type === 1 ? 8 : type === 2 ? Number(read()) : 0
    const raw = type === 0 ? read() : bytes.subarray(at, (at += size))
    if (at > bytes.length) throw new Error('message is cut off')
    const name = names.get(tag >> 3)
    if (name === undefined) continue
    const kind = table[name][1]
    const letter = Array.isArray(kind) ? kind[0] : kind
    if ((TYPES[letter[0]] ?? 2) !== type) throw new Error(`field ${name} has another type`)
    const value = typeof letter === 'string' ? READERS[letter[0]](raw) : decode(letter, raw)
    if (Array.isArray(kind)) message[name].push(value)
    else message[name] = value
  }
  return message
}

const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const READERS = {
  u: (raw) => {
    if (raw > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`integer ${raw} is too large`)
    return Number(raw)
  },
  U: (raw) => raw,
  f: (raw) => raw !== 0n,
  t: (raw) => text.decode(raw),
  b: (raw) => raw,
  d: (raw) => raw.readDoubleLE(),
}

/** A message in its one canonical form; anything else is refused. */
export function decodeCanonical(table, bytes) {
  const message = decode(table, bytes)
  if (!encode(table, message).equals(bytes)) throw new Error('message is not in canonical form')
  return message
}
