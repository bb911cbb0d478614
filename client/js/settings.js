// What a server may say: the keys of a run's configuration and of a task's settings, each with its values.
// The tables of proto/README.md.

import { refuseIf, sha256 } from './messages.js'

const MOST_TEXT = 1 << 14
const isText = (value) => typeof value === 'string'
const isFlag = (value) => typeof value === 'boolean'
const number = (isIn = () => true) => (value) => typeof value === 'number' && Number.isFinite(value) && isIn(value)
const isNumber = number()
const isWithin = (least, most) => (value) => Number.isInteger(value) && value >= least && value <= most
const whole = (least, most = 2 ** 32 - 1) => number(isWithin(least, most))
const oneOf = (...values) => (value) => values.includes(value)
const either = (...checks) => (value) => checks.some((check) => check(value))
const isCount = whole(0)
const isAtLeastZero = number((value) => value >= 0)

const keysOf = (check, keys) => keys.trim().split(/\s+/).map((key) => [key, check])
/** Of a run's configuration. */
export const CONFIGURATION = new Map([
  ...keysOf(isText, `base labels method client-ranks target-modules
    step-budget lr-schedule lr-schedule-over correction loss objective trainer bits rule rounds-mode dp server-optimizer
    eval-metrics group dp-unit`),
  ...keysOf(isNumber, `alpha epochs dropout learning-rate weight-decay max-grad-norm held-out-fraction
    dp-epsilon dp-delta`),
  ...keysOf(whole(0, Number.MAX_SAFE_INTEGER), `rank local-steps batch-size gradient-accumulation-steps seq-len
    max-held-out-sequences seed rounds clients clients-per-round eval-every eval-clients
    dp-group-records`),
  ...keysOf(either(isNumber, oneOf('auto')), 'personalize'),
  ...keysOf(either(isCount, oneOf('auto')), 'judge-part'),
  ...keysOf(either(isNumber, oneOf('adaptive')), 'dp-clip'),
  ...keysOf(isFlag, 'secure-aggregation packing'),
])

/** Of a task's settings: what the value must be, and what it is where the text does not say. */
const SETTINGS = new Map(Object.entries({
  local_steps: [whole(1)],
  batch_size: [whole(1, 2 ** 20)],
  gradient_accumulation_steps: [whole(1, 2 ** 20)],
  seq_len: [whole(1, 2 ** 24)],
  learning_rate: [isAtLeastZero],
  weight_decay: [isAtLeastZero],
  max_grad_norm: [number((value) => value > 0)],
  held_out_fraction: [number((value) => value > 0 && value < 1)],
  max_held_out_sequences: [whole(1)],
  lr_schedule: [oneOf('constant', 'linear', 'cosine', 'slope'), 'constant'],
  lr_schedule_over: [oneOf('run', 'round'), 'run'],
  round_epochs: [isAtLeastZero, 0],
  packing: [isFlag, true],
  found_rate_factor: [number((value) => value > 0), 1],
  total_steps: [whole(0, Number.MAX_SAFE_INTEGER), 0],
  bits: [isText, 'fp32'],
  personal: [oneOf('A', 'B', ''), ''],
  proximal: [isAtLeastZero, 0],
  loss: [isText, 'cross_entropy'],
  objective: [isText, 'sft'],
  carry_moments: [isFlag, false],
  measures_slope: [isFlag, false],
  without_feedback: [isFlag, false],
  personalize: [number((value) => value >= 0 && value < 1), 0],
  eval_metrics: [isText, ''],
  secure_aggregation: [isFlag, false],
  record_delta: [isNumber, 0],
  record_epsilon: [isNumber, 0],
  record_clip: [isNumber, 0],
  group_records: [isCount, 0],
  client_noise: [isNumber, 0],
  client_clip: [isNumber, 0],
  client_cohort: [isCount, 0],
  judge_part: [isCount, 0],
}))
/** Settings whose 0 in the configuration leaves them to what follows from the data. */
const FOUND = ['learning_rate', 'max_held_out_sequences']
// Settings that this client does not follow, though plait's own does.
const OTHERS = ['personal', 'eval_metrics', 'secure_aggregation', 'record_delta', 'client_noise', 'round_epochs',
  'packing']

/** Why a run's configuration cannot be followed; empty if it can. */
export function whyDeclined(config) {
  if (!config) return 'the run configuration is no JSON object'
  const [wrong] = Object.entries(config).filter(([key, value]) => !CONFIGURATION.get(key)?.(value))
  if (wrong) return `the run configuration has '${wrong[0]}', which is not known here or has another type`
  return config['secure-aggregation'] ? 'this client takes part in no masked run' : ''
}

/** The settings of a task, from its own fields and the text that it names. */
export function readSettings({ json, ...own }, text) {
  refuseIf(text.length > MOST_TEXT, 'the settings are too long')
  refuseIf(!sha256(text).equals(own.digest), 'the settings have another digest')
  const said = objectOf(text)
  refuseIf(!said, 'the settings are no JSON object')
  const unknown = Object.keys(said).filter((key) => !SETTINGS.has(key))
  refuseIf(unknown.length, `settings have ${unknown}, which is not known here`)
  const settings = { ...own, text }
  for (const [key, [isRight, value]] of SETTINGS) {
    settings[key] = key in said ? said[key] : value
    refuseIf(!isRight(settings[key]), `${key} is not as it must be`)
  }
  refuseIf(settings.batch_size * settings.gradient_accumulation_steps > 2 ** 20, 'a batch is too large')
  return settings
}

/** Refuses settings of another run than the one that was announced, and those that this client does not follow. */
export function checkSettings(settings, config) {
  for (const key of SETTINGS.keys()) {
    const told = config[key.replaceAll('_', '-')]
    // What follows from the data is announced as such.
    const isOpen = told === 'auto' || (told === 0 && FOUND.includes(key))
    const isOther = told !== undefined && told !== settings[key] && !isOpen
    refuseIf(isOther, `${key} is ${settings[key]}, expected ${told} as the run configuration says`, 'POLICY')
  }
  const other = OTHERS.filter((key) => settings[key] !== SETTINGS.get(key)[1])
  refuseIf(other.length, `settings have ${other}, which this client does not follow`, 'POLICY')
}

/** A JSON object, or null where the text is none, or nested too deeply. */
export function objectOf(text) {
  try {
    const found = JSON.parse(text)
    return typeof found === 'object' && !Array.isArray(found) ? found : null
  } catch {
    return null
  }
}
