// What a hostile server may say to a client, by type and size: node hostile.js prints "NAME refused" or "NAME accepted"
// for each, and fails if one was accepted, or if an honest task was not answered.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deflateSync } from 'node:zlib'
import { Client } from './index.js'
import { decodeReply, sha256 } from './messages.js'
import { encode } from './protocol.js'
import { Run } from './run.js'
import { CONFIGURATION } from './settings.js'

const MEMORY = 300e6
const SPEC = '{"method":"lora"}'
const LAYOUT = '[["a",[2,3]]]'
const CONFIG = { seed: 0, 'local-steps': 2, bits: 'fp32' }
const SETTINGS = {
  batch_size: 1, gradient_accumulation_steps: 1, held_out_fraction: 0.1, learning_rate: 0.001, local_steps: 2,
  max_grad_norm: 1, max_held_out_sequences: 4, seq_len: 8, weight_decay: 0,
}
const WRONG = [null, true, 1, -1, 0.5, 1e300, 'x', '', [], {}, [1], 'secure']
const folder = mkdtempSync(join(tmpdir(), 'plait-hostile-'))
const trainer = {
  fingerprint: Buffer.alloc(32),
  describe: () => ({ train_examples: 1, train_tokens: 8, held_out_examples: 1, held_out_tokens: 8 }),
}
const results = []
let count = 0

/** Whether the client answers a description with a card: it has accepted all that it was told. */
async function isAccepted({ config = JSON.stringify(CONFIG), settings = JSON.stringify(SETTINGS), spec = SPEC, layout = LAYOUT,
  packed = deflateSync(layout), digest = sha256(settings), task = null }) {
  const client = { name: 'carol', identity: {}, trainer, state: folder, accept: () => '' }
  const run = new Run({ run_id: `${++count}`, run_config_json: config }, client)
  const given = { seed: '1', round: 0, digest, json: settings }
  const bytes = task ?? encode('Task', { schema: 3, describe: { settings: given, spec_json: spec, layout: packed } })
  const answer = decodeReply(await run.answer(bytes, { aborted: false }, () => {}))
  return Boolean(answer.card)
}

async function attempt(name, said) {
  const accepted = await isAccepted(said)
  results.push(accepted)
  console.log(`${name} ${accepted ? 'accepted' : 'refused'}`)
}

if (!(await isAccepted({}))) throw new Error('an honest task is refused')
for (const [key, isRight] of CONFIGURATION) {
  for (const value of WRONG.filter((each) => !isRight(each))) {
    await attempt(`configuration ${key} ${JSON.stringify(value)}`, { config: JSON.stringify({ ...CONFIG, [key]: value }) })
  }
}
for (const key of Object.keys(SETTINGS)) {
  for (const value of [null, true, '1', -1, [], {}, 1e308]) {
    if (value === 1e308 && ['learning_rate', 'weight_decay', 'max_grad_norm'].includes(key)) continue
    await attempt(`settings ${key} ${JSON.stringify(value)}`, { settings: JSON.stringify({ ...SETTINGS, [key]: value }) })
  }
  const { [key]: _, ...others } = SETTINGS
  await attempt(`settings without ${key}`, { settings: JSON.stringify(others) })
}
const masked = { secure_aggregation: 1, record_delta: 0.1, client_noise: 1, personal: 'A', round_epochs: 0.5, packing: false, unheard_of: 1 }
for (const [key, value] of Object.entries({ ...masked, local_steps: 3, bits: '1', found_rate_factor: 0, total_steps: 0.5 })) {
  await attempt(`settings ${key} ${value}`, { settings: JSON.stringify({ ...SETTINGS, [key]: value }) })
}
const nested = '['.repeat(1e5)
const long = JSON.stringify({ ...SETTINGS, loss: 'x'.repeat(2 ** 14) })
for (const [name, said] of Object.entries({
  'a masked run': { config: JSON.stringify({ ...CONFIG, 'secure-aggregation': true }) },
  'masks as a number': { config: JSON.stringify({ ...CONFIG, 'secure-aggregation': 1 }) },
  'an unknown key': { config: JSON.stringify({ ...CONFIG, shell: 'sh' }) },
  'no configuration': { config: '' },
  'a nested configuration': { config: nested },
  'nested settings': { settings: nested },
  'settings that are text': { settings: '"x"' },
  'settings of another digest': { digest: Buffer.alloc(32) },
  'long settings': { settings: long },
  'no specification': { spec: '' },
  'a nested specification': { spec: nested },
  'a long specification': { spec: JSON.stringify({ text: 'x'.repeat(2 ** 20) }) },
  'no stream': { packed: Buffer.alloc(100) },
  'a bomb': { packed: deflateSync(Buffer.alloc(2 ** 28)) },
  'a nested layout': { layout: nested },
  'no tensors': { layout: '[]' },
  'a masked task': { task: encode('Task', { schema: 3, masking: { run_id: Buffer.alloc(16), purpose: 'train', round: 1, attempt: Buffer.alloc(16) } }) },
  'no task': { task: Buffer.alloc(0) },
})) await attempt(name, said)
const shapes = [[2 ** 24 + 1], [2 ** 31, 2 ** 31], [1e9], [-1], [0], [1.5], ['2'], [null], [2 ** 53], Array(9).fill(1), 2, '2', null, {}]
for (const shape of shapes) await attempt(`a tensor of ${JSON.stringify(shape)}`, { layout: JSON.stringify([['a', shape]]) })
const tensors = { twice: [['a', [1]], ['a', [1]]], 'out of order': [['b', [1]], ['a', [1]]], 'a number': [[1, [1]]], longer: [['a', [1], 1]] }
for (const [name, layout] of Object.entries(tensors)) await attempt(`tensors ${name}`, { layout: JSON.stringify(layout) })

/** A body that goes on beyond what was announced is read no further. */
async function isEndless(announced) {
  let sent = 0
  const client = new Client({ server: 'localhost:1', name: 'carol', trainer, state: folder, log: () => {} })
  client.doing = { answer: () => { throw new Error('a body was taken') } }
  client.calls = { async *Download() { for (; sent < 2 ** 31; sent += 2 ** 20) yield { data: Buffer.alloc(2 ** 20) } } }
  await client.download({ body_bytes: announced, body_sha256: Buffer.alloc(32) }).catch(() => {})
  return sent > 4 * 2 ** 20
}
for (const announced of ['10', String(2 ** 20 + 1), String(2 ** 40), '-1', 'NaN']) {
  const accepted = await isEndless(announced)
  results.push(accepted)
  console.log(`a body announced as ${announced} ${accepted ? 'accepted' : 'refused'}`)
}
rmSync(folder, { recursive: true })
const { rss } = process.memoryUsage()
if (rss > MEMORY) console.log(`memory of ${rss} bytes accepted`)
process.exit(results.some(Boolean) || rss > MEMORY ? 1 : 0)
