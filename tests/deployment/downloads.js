// Downloads the body of its first task a thousand times over one connection: node downloads.js SERVER KIT

import { randomBytes } from 'node:crypto'
import grpc from '@grpc/grpc-js'
import { CALLS, enrolmentBytes, FROM_NODE, TO_NODE } from './federation.js'
import { readKit } from './kit.js'
import { sha256 } from './messages.js'
import { decode, encode } from './protobuf.js'

const [server, folder] = process.argv.slice(2)
const { name, identity, credentials } = readKit(folder)
const channel = new grpc.Client(server, credentials)
const call = channel.makeBidiStreamRequest(CALLS.Attend, (message) => encode(FROM_NODE, message), (bytes) => decode(TO_NODE, bytes))
const nonce = randomBytes(32)
let session

call.on('data', async ({ challenge, welcome, work }) => {
  if (challenge) call.write({ proof: { signature: identity.sign(enrolmentBytes(challenge.nonce, nonce, identity.key, name)) } })
  if (welcome) {
    session = welcome.session
    call.write({ ready: { base_fingerprint: Buffer.alloc(32), methods: [], run_id: welcome.run_id } })
  }
  if (!work) return
  let [whole, dropped] = [0, 0]
  for (let i = 0; i < 1000; i++) {
    try {
      const parts = []
      for await (const { data } of channel.makeServerStreamRequest(...CALLS.Download, { session, sha256: work.body_sha256, offset: 0 })) parts.push(data)
      whole += sha256(...parts).equals(work.body_sha256) ? 1 : 0
    } catch {
      dropped++
    }
  }
  console.log(`${whole} whole, ${dropped} dropped`)
  process.exit(0)
})
call.write({ hello: { protocol: 1, name, public_key: identity.key, nonce, labels: [], version: 'js' } })
