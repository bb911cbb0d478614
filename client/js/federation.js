// The messages of the federation's calls, and the keys of a run's configuration.

import { decode, encode } from './protobuf.js'

const fields = (text) => Object.fromEntries(text.split(' ').map((each) => [each.split(':')[0], [Number(each.split(':')[1]), each.split(':')[2]]]))

export const FROM_NODE = {
  hello: [1, { ...fields('protocol:1:u name:2:t public_key:3:b nonce:4:b version:6:t'), labels: [5, ['t']] }],
  proof: [2, fields('signature:1:b')],
  ready: [3, { ...fields('base_fingerprint:1:b memory_bytes:3:u device:4:t run_id:5:U'), methods: [2, ['t']] }],
  progress: [4, fields('task_id:1:t doing:2:t')],
}
export const TO_NODE = {
  challenge: [1, fields('nonce:1:b')],
  welcome: [2, {
    ...fields('session:1:b node_id:2:U run_id:3:U run_config_json:4:t base_fingerprint:5:b max_answer_bytes:6:u stays:7:f'),
    cohort_labels: [8, ['t']],
  }],
  refused: [3, fields('reason:1:u detail:2:t')],
  work: [4, fields('task_id:1:t message_type:2:t group_id:3:t head:4:b body_bytes:5:u body_sha256:6:b')],
  withdraw: [5, fields('task_id:1:t reason:2:t')],
  drain: [6, fields('finished:1:f')],
  unfit: [7, fields('reason:1:t detail:2:t')],
}
const call = (name, takes, gives) => [`/plait.v1.Federation/${name}`, (message) => encode(takes, message), (bytes) => decode(gives, bytes)]
export const CALLS = {
  Attend: '/plait.v1.Federation/Attend',
  Download: call('Download', fields('session:1:b sha256:2:b offset:3:u'), fields('data:1:b')),
  Held: call('Held', fields('session:1:b task_id:2:t sha256:3:b'), fields('offset:1:u complete:2:f late:3:f unknown:4:f')),
  Upload: call(
    'Upload',
    { start: [1, fields('session:1:b task_id:2:t content:3:u size:4:u sha256:5:b offset:6:u')], data: [2, 'b?'] },
    fields('kept:1:f'),
  ),
}

/** What a node signs to prove its key. */
export const enrolmentBytes = (challenge, hello, key, name) => Buffer.concat([Buffer.from('plait.v1.enrol\0'), challenge, hello, key, Buffer.from(name)])

export const KEYS = new Set(`base revision labels method rank alpha client-ranks rank-pattern bias dropout target-modules local-steps
step-budget batch-size gradient-accumulation-steps seq-len learning-rate lr-schedule warmup-steps weight-decay max-grad-norm correction
loss objective own-share trainer held-out-fraction max-held-out-sequences wire seed rounds rule clients clients-per-round over-selection
eval-every eval-clients rounds-mode secure-aggregation tree dp dp-epsilon dp-noise-multiplier dp-delta dp-clip dp-min-separation
weighting norm-bound quorum deadline-s server-optimizer release-if`.split(/\s+/))
