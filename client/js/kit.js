// A client's start-up kit, as `plait provision` makes it.

import { createPrivateKey, createPublicKey, sign } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import grpc from '@grpc/grpc-js'

export const rawPublic = (key) => createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(12)

/** The name, what signs, the TLS credentials, and the federation's authority. */
export function readKit(folder) {
  const file = (name) => readFileSync(join(folder, name))
  const [authority, certificate, tlsKey] = ['ca.crt', 'client.crt', 'client.key'].map(file)
  const name = /^name = "(.*)"$/m.exec(file('kit.toml'))[1]
  const node = createPrivateKey(file('node.key'))
  const identity = { key: rawPublic(node), sign: (bytes) => sign(null, bytes, node) }
  return { name, identity, credentials: grpc.credentials.createSsl(authority, tlsKey, certificate) }
}
