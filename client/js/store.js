// Files of one run: written whole, and on disk before anything is said that builds on them.

import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export class Store {
  constructor(folder) {
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    this.folder = folder
  }

  load(name) {
    const path = join(this.folder, name)
    return existsSync(path) ? readFileSync(path) : null
  }

  save(name, bytes) {
    writeFileSync(join(this.folder, `.${name}`), bytes, { mode: 0o600, flush: true })
    renameSync(join(this.folder, `.${name}`), join(this.folder, name))
  }
}
