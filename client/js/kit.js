// A client's start-up kit.

import { createPrivateKey, createPublicKey, sign, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import grpc from '@grpc/grpc-js'
import { text } from './masks.js'

/** As `plait provision` makes it: the name, what signs, and the TLS credentials. */
export function readKit(folder) {
  const file = (name) => readFileSync(join(folder, name))
  const name = /^name = "(.*)"$/m.exec(file('kit.toml').toString())[1]
  const key = createPrivateKey(file('node.key'))
  const publicKey = createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(12)
  const endorsement = sign('sha256', text('plait node key 1', name, publicKey), createPrivateKey(file('client.key')))
  const identity = {
    key: publicKey, sign: (bytes) => sign(null, bytes, key), certificate: new X509Certificate(file('client.crt')).raw, endorsement,
  }
  return { name, identity, credentials: grpc.credentials.createSsl(file('ca.crt'), file('client.key'), file('client.crt')), authority: file('ca.crt') }
}
