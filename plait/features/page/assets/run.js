// One run as the server tells it: the document, kept up to date by merge patches (RFC 7396). Knows no page.

export const merge = (document, patch) => {
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete document[key];
    else if (typeof value === "object" && !Array.isArray(value)) {
      const inner = Object.hasOwn(document, key) ? document[key] : undefined;
      const into = typeof inner === "object" && inner !== null && !Array.isArray(inner) ? inner : Object.create(null);
      Object.defineProperty(document, key, { value: merge(into, value), enumerable: true, writable: true, configurable: true });
    } else document[key] = value;
  }
  return document;
};

const AGAIN_MS = 2000;

// Follows a run until `close`; `changed(linked)` is called after every message and whenever the connection changes.
export class Run {
  constructor(name, changed) {
    this.name = name;
    this.document = { seq: -1 };
    this.skew = 0;
    this.live = {};
    this.linked = false;
    this.patches = 0;
    this.touched = null; // names of the clients that have changed since this was last emptied; null for all
    this.changed = changed;
    this.start();
  }

  get path() {
    return `/api/runs/${encodeURIComponent(this.name)}`;
  }

  // The server's time, in seconds.
  get now() {
    return Date.now() / 1000 + this.skew;
  }

  async start() {
    try {
      const answer = await fetch(this.path);
      if (!answer.ok) throw new Error(answer.status);
      this.skew = (Date.parse(answer.headers.get("date")) || Date.now()) / 1000 - Date.now() / 1000;
      this.whole(await answer.json());
      this.follow();
    } catch {
      this.linked = false;
      this.again();
    }
    this.changed();
  }

  follow() {
    const query = new URLSearchParams({ after: this.document.seq, run: this.document.run ?? "" });
    const source = (this.source = new EventSource(`${this.path}/events?${query}`));
    source.onopen = () => this.link(true);
    source.onerror = () => {
      this.link(false);
      if (source.readyState === EventSource.CLOSED) this.again();
    };
    source.onmessage = (message) => {
      for (const patch of JSON.parse(message.data)) {
        merge(this.document, patch);
        if (patch.clients && this.touched) for (const name of Object.keys(patch.clients)) this.touched.add(name);
        this.patches += 1;
      }
      this.changed();
    };
    source.addEventListener("document", (message) => {
      const before = this.document.run;
      this.whole(JSON.parse(message.data));
      if (this.document.run !== before) {
        source.close();
        this.follow();
      }
      this.changed();
    });
    source.addEventListener("live", (message) => {
      this.live = JSON.parse(message.data);
      this.changed();
    });
    source.addEventListener("clock", (message) => {
      this.skew = JSON.parse(message.data).now - Date.now() / 1000;
    });
  }

  whole(document) {
    this.document = merge(Object.create(null), document);
    this.touched = null;
  }

  link(linked) {
    this.linked = linked;
    if (!linked) this.live = {};
    this.changed();
  }

  again() {
    if (!this.closed) this.timer = setTimeout(() => this.start(), AGAIN_MS);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.source?.close();
    this.changed = () => {};
  }
}
