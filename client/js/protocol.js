// The messages and calls of proto/plait/v1 as plain objects: names as there, bytes as Buffers, enumerations as numbers,
// integers of 64 bits as text.

import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

// @grpc/grpc-js brings protobufjs.
const partOf = (require, name) => createRequire(require.resolve(name))
const protobuf = partOf(partOf(createRequire(import.meta.url), '@grpc/grpc-js'), '@grpc/proto-loader')('protobufjs')
const FOLDER = fileURLToPath(new URL('../../proto/plait/v1/', import.meta.url))
const files = ['messages', 'envelope', 'federation'].map((name) => `${FOLDER}${name}.proto`)
const root = new protobuf.Root().loadSync(files, { keepCase: true }).resolveAll()

export const valuesOf = (enumeration) => root.lookupEnum(`plait.v1.${enumeration}`).values

/** What is written of a message: no fields with their default, but inside a oneof and for optional ones. */
function written(type, message) {
  const has = (name) => message[name] !== undefined && message[name] !== null
  const isDouble = type.oneofsArray.some(({ oneof }) => oneof.filter(has).length > 1)
  if (isDouble) throw new Error(`${type.name} has two of a choice`)
  const isSaid = ({ name, partOf: of, typeDefault: none }) => has(name) && (of || !isDefault(message[name], none))
  return Object.fromEntries(type.fieldsArray.filter(isSaid).map(({ name, repeated, resolvedType: inner }) => {
    const one = (value) => (inner?.fields ? written(inner, value) : typeof value === 'bigint' ? String(value) : value)
    return [name, repeated ? message[name].map(one) : one(message[name])]
  }))
}

function isDefault(value, typeDefault) {
  return typeof value === 'object' ? value.length === 0 : String(value) === String(typeDefault) && !Object.is(value, -0)
}

const encodeAs = (type, message) => type.encode(written(type, message)).finish()
const decodeAs = (type, bytes) => type.toObject(type.decode(bytes), { defaults: true, longs: String })

export const encode = (name, message) => encodeAs(root.lookupType(`plait.v1.${name}`), message)

/** A message in its one canonical form; anything else is refused. */
export function decode(name, bytes) {
  const message = decodeAs(root.lookupType(`plait.v1.${name}`), bytes)
  if (!encode(name, message).equals(bytes)) throw new Error('message is not in canonical form')
  return message
}

/** The calls of the service, as grpc-js takes them. */
const { methodsArray: methods } = root.lookupService('plait.v1.Federation')
export const FEDERATION = Object.fromEntries(methods.map((method) => [method.name, {
  path: `/plait.v1.Federation/${method.name}`,
  requestStream: Boolean(method.requestStream),
  responseStream: Boolean(method.responseStream),
  requestSerialize: (message) => encodeAs(method.resolvedRequestType, message),
  responseDeserialize: (bytes) => decodeAs(method.resolvedResponseType, bytes),
}]))
