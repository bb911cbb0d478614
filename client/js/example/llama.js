// A small Llama with LoRA in plain JavaScript: the loss of a sequence, and its gradient with respect to the adapter.

/** (rows, n) by (m, n) to (rows, m). */
function times(x, rows, n, w, m) {
  const y = new Float32Array(rows * m)
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < m; o++) {
      let sum = 0
      for (let i = 0, a = r * n, b = o * n; i < n; i++) sum += x[a + i] * w[b + i]
      y[r * m + o] = sum
    }
  }
  return y
}

/** (rows, m) by (m, n) to (rows, n), added to `into`. */
function back(into, dy, rows, m, w, n, scale = 1) {
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < m; o++) {
      const g = dy[r * m + o] * scale
      if (g) for (let i = 0, a = r * n, b = o * n; i < n; i++) into[a + i] += g * w[b + i]
    }
  }
  return into
}

/** (rows, m) and (rows, n): the outer products' sum (m, n), added to `into`. */
function outer(into, dy, rows, m, x, n, scale) {
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < m; o++) {
      const g = dy[r * m + o] * scale
      for (let i = 0, a = o * n, b = r * n; i < n; i++) into[a + i] += g * x[b + i]
    }
  }
}

export class Llama {
  /** weights: by name, {values, shape}; config: config.json's; layout: the adapter's; scale: alpha / rank. */
  constructor(weights, config, layout, scale) {
    Object.assign(this, { weights, config, scale })
    this.slots = new Map(layout.tensors.map((tensor) => [tensor.name, tensor]))
  }

  #linear(name, x, rows, adapter) {
    const { values, shape: [m, n] } = this.weights.get(`${name}.weight`)
    const y = times(x, rows, n, values, m)
    const [a, b] = ['A', 'B'].map((side) => this.slots.get(`base_model.model.${name}.lora_${side}.weight`))
    const part = ({ offset, size }, of) => of.subarray(offset, offset + size)
    if (!a) return { y, backward: (dy) => back(new Float32Array(rows * n), dy, rows, m, values, n) }
    const rank = a.shape[0]
    const h = times(x, rows, n, part(a, adapter), rank)
    times(h, rows, rank, part(b, adapter), m).forEach((value, i) => (y[i] += this.scale * value))
    return {
      y,
      backward: (dy, gradient) => {
        const dh = back(new Float32Array(rows * rank), dy, rows, m, part(b, adapter), rank, this.scale)
        outer(part(b, gradient), dy, rows, m, h, rank, this.scale)
        outer(part(a, gradient), dh, rows, rank, x, n, 1)
        return back(back(new Float32Array(rows * n), dy, rows, m, values, n), dh, rows, rank, part(a, adapter), n)
      },
    }
  }

  #norm(name, x, rows) {
    const { values } = this.weights.get(`${name}.weight`)
    const n = values.length
    const y = new Float32Array(x.length)
    const inverse = new Float32Array(rows)
    for (let r = 0; r < rows; r++) {
      let sum = 0
      for (let i = 0; i < n; i++) sum += x[r * n + i] ** 2
      inverse[r] = 1 / Math.sqrt(sum / n + this.config.rms_norm_eps)
      for (let i = 0; i < n; i++) y[r * n + i] = x[r * n + i] * inverse[r] * values[i]
    }
    const backward = (dy) => {
      const dx = new Float32Array(x.length)
      for (let r = 0; r < rows; r++) {
        let dot = 0
        for (let i = 0; i < n; i++) dot += dy[r * n + i] * values[i] * x[r * n + i]
        const shrink = (dot * inverse[r] ** 2) / n
        for (let i = r * n; i < (r + 1) * n; i++) dx[i] = inverse[r] * (dy[i] * values[i - r * n] - x[i] * shrink)
      }
      return dx
    }
    return { y, backward }
  }

  /** Rotates pairs of every head's halves by the position's angle; `sign` -1 turns back. */
  #turn(x, rows, heads, sign) {
    const { head_dim: size, rope_parameters: { rope_theta: theta } } = this.config
    const half = size / 2
    for (let r = 0; r < rows; r++) {
      for (let i = 0; i < half; i++) {
        const angle = sign * r * theta ** (-i / half)
        const [cos, sin] = [Math.cos(angle), Math.sin(angle)]
        for (let h = 0; h < heads; h++) {
          const at = (r * heads + h) * size + i
          const [a, b] = [x[at], x[at + half]]
          x[at] = a * cos - b * sin
          x[at + half] = b * cos + a * sin
        }
      }
    }
    return x
  }

  #attention(q, k, v, rows) {
    const { head_dim: size, num_attention_heads: heads, num_key_value_heads: groups } = this.config
    const out = new Float32Array(q.length)
    const weights = new Float32Array(heads * rows * rows)
    const scale = 1 / Math.sqrt(size)
    const each = (visit) => {
      for (let h = 0; h < heads; h++) {
        const key = (s) => (s * groups + Math.floor((h * groups) / heads)) * size
        for (let r = 0; r < rows; r++) visit(h, r, (r * heads + h) * size, (h * rows + r) * rows, key)
      }
    }
    each((h, r, at, row, key) => {
      let most = -Infinity
      for (let s = 0; s <= r; s++) {
        let dot = 0
        for (let i = 0; i < size; i++) dot += q[at + i] * k[key(s) + i]
        weights[row + s] = dot * scale
        most = Math.max(most, dot * scale)
      }
      let total = 0
      for (let s = 0; s <= r; s++) total += weights[row + s] = Math.exp(weights[row + s] - most)
      for (let s = 0; s <= r; s++) {
        weights[row + s] /= total
        for (let i = 0; i < size; i++) out[at + i] += weights[row + s] * v[key(s) + i]
      }
    })
    const backward = (dout) => {
      const [dq, dk, dv] = [q, k, v].map((of) => new Float32Array(of.length))
      each((h, r, at, row, key) => {
        const slopes = new Float32Array(r + 1)
        let mean = 0
        for (let s = 0; s <= r; s++) {
          for (let i = 0; i < size; i++) {
            slopes[s] += dout[at + i] * v[key(s) + i]
            dv[key(s) + i] += weights[row + s] * dout[at + i]
          }
          mean += slopes[s] * weights[row + s]
        }
        for (let s = 0; s <= r; s++) {
          const g = weights[row + s] * (slopes[s] - mean) * scale
          for (let i = 0; i < size; i++) {
            dq[at + i] += g * k[key(s) + i]
            dk[key(s) + i] += g * q[at + i]
          }
        }
      })
      return [dq, dk, dv]
    }
    return { y: out, backward }
  }

  #layer(number, x, rows, adapter) {
    const name = `model.layers.${number}`
    const { num_attention_heads: heads, num_key_value_heads: groups } = this.config
    const before = this.#norm(`${name}.input_layernorm`, x, rows)
    const part = (each) => this.#linear(`${name}.self_attn.${each}_proj`, before.y, rows, adapter)
    const [q, k, v] = ['q', 'k', 'v'].map(part)
    const attention = this.#attention(this.#turn(q.y, rows, heads, 1), this.#turn(k.y, rows, groups, 1), v.y, rows)
    const o = this.#linear(`${name}.self_attn.o_proj`, attention.y, rows, adapter)
    const middle = x.map((value, i) => value + o.y[i])
    const after = this.#norm(`${name}.post_attention_layernorm`, middle, rows)
    const [gate, up] = ['gate', 'up'].map((each) => this.#linear(`${name}.mlp.${each}_proj`, after.y, rows, adapter))
    const sigmoid = gate.y.map((value) => 1 / (1 + Math.exp(-value)))
    const product = gate.y.map((value, i) => value * sigmoid[i] * up.y[i])
    const down = this.#linear(`${name}.mlp.down_proj`, product, rows, adapter)
    const backward = (dy, gradient) => {
      const inner = down.backward(dy, gradient)
      const dgate = inner.map((g, i) => g * up.y[i] * sigmoid[i] * (1 + gate.y[i] * (1 - sigmoid[i])))
      const dup = inner.map((g, i) => g * gate.y[i] * sigmoid[i])
      const dafter = gate.backward(dgate, gradient)
      up.backward(dup, gradient).forEach((g, i) => (dafter[i] += g))
      const dmiddle = after.backward(dafter).map((g, i) => g + dy[i])
      const [dq, dk, dv] = attention.backward(o.backward(dmiddle, gradient))
      const dbefore = q.backward(this.#turn(dq, rows, heads, -1), gradient)
      k.backward(this.#turn(dk, rows, groups, -1), gradient).forEach((g, i) => (dbefore[i] += g))
      v.backward(dv, gradient).forEach((g, i) => (dbefore[i] += g))
      return before.backward(dbefore).map((g, i) => g + dmiddle[i])
    }
    return { y: middle.map((value, i) => value + down.y[i]), backward }
  }

  /** Summed cross-entropy of a sequence's tokens but the first; with a gradient, `share` of it is added there. */
  loss(tokens, adapter, gradient = null, share = 1) {
    const { values: embedding, shape: [vocabulary, n] } = this.weights.get('model.embed_tokens.weight')
    const rows = tokens.length - 1
    let x = new Float32Array(rows * n)
    for (let r = 0; r < rows; r++) x.set(embedding.subarray(tokens[r] * n, (tokens[r] + 1) * n), r * n)
    const layers = []
    for (let i = 0; i < this.config.num_hidden_layers; i++) {
      layers.push(this.#layer(i, x, rows, adapter))
      x = layers.at(-1).y
    }
    const last = this.#norm('model.norm', x, rows)
    const logits = times(last.y, rows, n, embedding, vocabulary)
    let loss = 0
    for (let r = 0; r < rows; r++) {
      const row = logits.subarray(r * vocabulary, (r + 1) * vocabulary)
      const most = row.reduce((a, b) => Math.max(a, b))
      const total = row.reduce((sum, value) => sum + Math.exp(value - most), 0)
      loss += Math.log(total) + most - row[tokens[r + 1]]
      const slope = (value, i) => share * (Math.exp(value - most) / total - (i === tokens[r + 1]))
      if (gradient) row.forEach((value, i) => (row[i] = slope(value, i)))
    }
    if (gradient) {
      let dx = last.backward(back(new Float32Array(rows * n), logits, rows, vocabulary, embedding, n))
      for (const layer of layers.reverse()) dx = layer.backward(dx, gradient)
    }
    return loss
  }
}
