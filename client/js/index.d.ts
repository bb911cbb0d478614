/** A layout: the adapter's tensors in order, each at a place of one flat array. */
export interface Layout {
  readonly size: number
  readonly tensors: ReadonlyArray<{ name: string; shape: number[]; offset: number; size: number }>
}

/** The settings of a task: the keys of proto/README.md, and those of the task itself. */
export interface Settings {
  readonly local_steps: number
  readonly batch_size: number
  readonly gradient_accumulation_steps: number
  readonly seq_len: number
  readonly learning_rate: number
  readonly weight_decay: number
  readonly max_grad_norm: number
  readonly held_out_fraction: number
  readonly max_held_out_sequences: number
  readonly round: number
  /** 0: both sides of every low-rank pair train; 1: A; 2: B. */
  readonly trained: 0 | 1 | 2
  readonly [key: string]: unknown
}

export interface Work {
  readonly layout: Layout
  /** The adapter's specification, as JSON says it. */
  readonly spec: Record<string, any>
  readonly settings: Settings
  /** (layout.size,). */
  readonly adapter: Float32Array
  /** Aborted once nobody waits for the result. */
  readonly signal: AbortSignal
  /** Tells the server that work goes on; the client does so every 20 seconds by itself. */
  readonly progress: () => void
}

/** Of training and held-out sequences, as a ClientCard has them. */
export interface Counts {
  train_examples: number
  train_tokens: number
  held_out_examples: number
  held_out_tokens: number
}

/** What trains. Each function may return a promise, and must let the event loop turn while it works. */
export interface Trainer {
  /** SHA-256 that identifies the base, 32 bytes. */
  readonly fingerprint: Buffer
  /** How many the base has: an adapter may have as many, or 2^24 if that is more. */
  readonly parameters?: number
  readonly methods?: string[]
  /** How much data there is under these settings. Throws `messages.Refused` where the adapter or the data do not fit. */
  describe(task: Pick<Work, 'layout' | 'spec' | 'settings'>): Counts | Promise<Counts>
  /** Trains a copy of the adapter for so many steps, and returns it. */
  train(task: Work & { steps: number; seed: bigint }): Promise<{ adapter: Float32Array; metrics?: Record<string, number> }>
  /** Summed losses of each held-out sequence, in nats, and how many tokens each sum has. */
  evaluate(task: Work): Promise<{ losses: number[]; counts: number[]; correct?: number }>
}

export interface Options {
  /** HOST:PORT. */
  server: string
  /** Folder of the start-up kit; without one the connection has no TLS, and `name` is the client's. */
  kit?: string
  name?: string
  trainer: Trainer
  /** Folder of what must outlive the process. */
  state: string
  /** Why a run of this configuration is declined; empty to take part. */
  accept?: (config: Readonly<Record<string, string | number | boolean>>) => string
  log?: (line: string) => void
}

export declare class Client {
  constructor(options: Options)
  /** Takes part until the run is over; rejects where the server refuses this client for good. */
  run(): Promise<void>
}

export declare namespace messages {
  class Refused extends Error {
    constructor(reason: 'SPEC_MISMATCH' | 'TOO_LITTLE_DATA' | 'UNUSABLE_DATA' | 'FAILED' | 'POLICY' | 'BUSY', detail: string)
  }
  function sha256(...parts: (string | Uint8Array)[]): Buffer
}
