// A client's start-up kit, as `plait provision` makes it.

import { createPrivateKey, sign, X509Certificate } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import grpc from '@grpc/grpc-js'
import { rawPublic, text } from './masks.js'

/** The name, what signs, the TLS credentials, and the federation's authority. */
export function readKit(folder) {
  if (existsSync(join(folder, 'contract'))) throw new Error('the kit has a contract, which is not enforced here')
  const file = (name) => readFileSync(join(folder, name))
  const [authority, certificate, tlsKey] = ['ca.crt', 'client.crt', 'client.key'].map(file)
  const name = /^name = "(.*)"$/m.exec(file('kit.toml'))[1]
  const node = createPrivateKey(file('node.key'))
  const key = rawPublic(node)
  const endorsement = sign('sha256', text('plait node key 1', name, key), createPrivateKey(tlsKey))
  const { raw } = new X509Certificate(certificate)
  const identity = { key, sign: (bytes) => sign(null, bytes, node), certificate: raw, endorsement }
  return { name, identity, authority, credentials: grpc.credentials.createSsl(authority, tlsKey, certificate) }
}
