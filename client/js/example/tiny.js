// Trains the LoRA adapter of plait's base `tiny` in plain JavaScript:
//   node client/js/example/tiny.js --server 127.0.0.1:9440 --kit kit/clients/alice --data alice.jsonl --state state

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Client, messages } from '../index.js'
import { Llama } from './llama.js'

const { sha256, Refused } = messages
const FOLDER = new URL('../../../plait/training/tiny_base/', import.meta.url)
const TOKENIZER_FILES = ['chat_template.jinja', 'tokenizer.json']
const VOLATILE = [
  '_attn_implementation_autoset', '_model_name_or_path', '_name_or_path', 'dtype', 'torch_dtype',
  'transformers_version', 'use_cache',
]

/** The base: weights by name, its configuration, tokenizer, and fingerprint. */
function readBase() {
  const packed = JSON.parse(readFileSync(new URL('packed.json', FOLDER)))
  const file = (name) => (packed[name] ? Buffer.from(packed[name], 'base64') : readFileSync(new URL(name, FOLDER)))
  const stored = file('model.safetensors')
  const start = 8 + Number(stored.readBigUInt64LE())
  const weights = new Map()
  const lines = ['plait-base-1']
  const entries = Object.entries(JSON.parse(stored.subarray(8, start))).filter(([name]) => name !== '__metadata__')
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of entries.sort(([a], [b]) => (a < b ? -1 : 1))) {
    const bytes = stored.subarray(start + from, start + to)
    lines.push(JSON.stringify(['tensor', name, dtype, shape, sha256(bytes).toString('hex')]))
    const values = new Float32Array(bytes.length / 2)
    const bits = new Uint32Array(values.buffer)
    for (let i = 0; i < bits.length; i++) bits[i] = bytes.readUInt16LE(2 * i) << 16
    weights.set(name, { values, shape })
  }
  const config = file('config.json').toString()
  lines.push(JSON.stringify(['config', sha256(canonical(config)).toString('hex')]))
  for (const name of TOKENIZER_FILES) lines.push(JSON.stringify(['file', name, sha256(file(name)).toString('hex')]))
  const tokenizer = JSON.parse(file('tokenizer.json'))
  return { weights, config: JSON.parse(config), tokenizer, fingerprint: sha256(lines.join('\n') + '\n') }
}

/** JSON with sorted keys and without spaces; numbers stay as they are written. */
function canonical(json) {
  const wrapped = (token) => (token[0] === '"' ? token : `{"number":"${token}"}`)
  const kept = JSON.parse(json.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, wrapped))
  const write = (value) => {
    if (Array.isArray(value)) return `[${value.map(write)}]`
    if (value === null || typeof value !== 'object') return JSON.stringify(value)
    if (value.number) return value.number
    const keys = Object.keys(value).filter((key) => !VOLATILE.includes(key)).sort()
    return `{${keys.map((key) => `${JSON.stringify(key)}:${write(value[key])}`)}}`
  }
  return write(kept)
}

/** Byte-level byte-pair encoding. */
function makeTokenizer({ model: { vocab, merges } }) {
  const ranks = new Map(merges.map((pair, i) => [pair.join(' '), i]))
  let shifted = 0
  const isShown = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173)
  const codeOf = (byte) => (isShown(byte) ? byte : 256 + shifted++)
  const letters = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(codeOf(byte)))
  const words = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu
  return (text) => (text.match(words) ?? []).flatMap((word) => {
    const parts = [...Buffer.from(word)].map((byte) => letters[byte])
    for (;;) {
      const found = parts.slice(1).map((part, i) => ranks.get(`${parts[i]} ${part}`) ?? Infinity)
      const best = Math.min(...found)
      if (best === Infinity) return parts.map((part) => vocab[part])
      const at = found.indexOf(best)
      parts.splice(at, 2, parts[at] + parts[at + 1])
    }
  })
}

/** Batches in an order that a seed decides. */
function* shuffled(count, seed) {
  for (let pass = 0; ; pass++) {
    const keys = Array.from({ length: count }, (_, i) => sha256(`${seed}/${pass}/${i}`).readUInt32LE())
    yield* Array.from(keys.keys()).sort((a, b) => keys[a] - keys[b])
  }
}

/** A trainer of one client's texts. */
export function tinyTrainer(texts) {
  const base = readBase()
  const tokens = texts.flatMap((text) => [...makeTokenizer(base.tokenizer)(text), base.config.eos_token_id])
  const split = ({ seq_len: length, held_out_fraction: fraction, max_held_out_sequences: most }) => {
    const count = Math.floor(tokens.length / length)
    const rows = Array.from({ length: count }, (_, i) => tokens.slice(i * length, (i + 1) * length))
    const held = Math.max(1, Math.round(rows.length * fraction))
    if (rows.length <= held) throw new Refused('TOO_LITTLE_DATA', `${rows.length} sequences are too few`)
    const last = rows.slice(-held)
    const step = Math.max(1, last.length / most)
    const heldOut = Array.from({ length: Math.min(most, last.length) }, (_, i) => last[Math.floor(i * step)])
    return { train: rows.slice(0, -held), heldOut }
  }
  const modelFor = ({ layout, spec: { peft_config: { lora_alpha: alpha, r, use_rslora: isRoot } } }) =>
    new Llama(base.weights, base.config, layout, alpha / (isRoot ? Math.sqrt(r) : r))
  return {
    fingerprint: base.fingerprint,
    methods: ['lora', 'rslora'],
    describe({ settings, spec }) {
      const isKnown = ['lora', 'rslora'].includes(spec.method) && spec.task === 'causal-lm'
      const { objective = 'sft', loss = 'cross_entropy', proximal = 0 } = settings
      const isPlain = objective === 'sft' && loss === 'cross_entropy' && proximal === 0
      if (!isKnown || !isPlain) throw new Refused('SPEC_MISMATCH', 'this trainer knows LoRA of a language model alone')
      const { train, heldOut } = split(settings)
      const [train_tokens, held_out_tokens] = [train, heldOut].map((rows) => rows.length * settings.seq_len)
      return { train_examples: train.length, train_tokens, held_out_examples: heldOut.length, held_out_tokens }
    },
    async train({ adapter, layout, spec, settings, steps, seed, signal }) {
      const [model, { train }] = [modelFor({ layout, spec }), split(settings)]
      const order = shuffled(train.length, seed)
      const [m, v] = [new Float64Array(layout.size), new Float64Array(layout.size)]
      const rate = (settings.learning_rate || 2e-3) * (settings.found_rate_factor ?? 1)
      const size = settings.batch_size * settings.gradient_accumulation_steps
      let sum = 0
      for (let step = 1; step <= steps; step++) {
        const gradient = new Float32Array(layout.size)
        const share = 1 / size / (settings.seq_len - 1)
        for (let i = 0; i < size; i++) sum += model.loss(train[order.next().value], adapter, gradient, share)
        const norm = Math.sqrt(gradient.reduce((total, g) => total + g * g, 0))
        const scale = Math.min(1, settings.max_grad_norm / (norm + 1e-6))
        for (const { name, offset, size: length } of layout.tensors) {
          if (settings.trained && !name.includes(settings.trained === 1 ? 'lora_A' : 'lora_B')) continue
          for (let i = offset; i < offset + length; i++) {
            m[i] = 0.9 * m[i] + 0.1 * gradient[i] * scale
            v[i] = 0.999 * v[i] + 0.001 * (gradient[i] * scale) ** 2
            const [mean, square] = [m[i] / (1 - 0.9 ** step), v[i] / (1 - 0.999 ** step)]
            adapter[i] -= rate * (mean / (Math.sqrt(square) + 1e-8) + settings.weight_decay * adapter[i])
          }
        }
        // Lets the connection breathe, and a withdrawal come through.
        await new Promise((resolve) => setImmediate(resolve))
        signal.throwIfAborted()
      }
      const trained = steps * size * settings.seq_len
      return { adapter, metrics: { train_loss: sum / (steps * size * (settings.seq_len - 1)), train_tokens: trained } }
    },
    async evaluate({ adapter, layout, spec, settings, signal }) {
      const [model, losses] = [modelFor({ layout, spec }), []]
      for (const sequence of split(settings).heldOut) {
        losses.push(model.loss(sequence, adapter))
        await new Promise((resolve) => setImmediate(resolve))
        signal.throwIfAborted()
      }
      return { losses, counts: losses.map(() => settings.seq_len - 1) }
    },
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const option = { type: 'string' }
  const { values } = parseArgs({ options: { server: option, kit: option, name: option, data: option, state: option } })
  const texts = readFileSync(values.data, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line).text)
  const client = new Client({ ...values, trainer: tinyTrainer(texts), log: (line) => console.error(line) })
  await client.run()
  console.error(`peak memory: ${Math.round(process.resourceUsage().maxRSS / 1024)} MiB`)
}
