// The clients of a run as the page shows them. What one's row needs is made again only when the client has changed.

import * as as from "./format.js";

const BUSY = ["training", "evaluating"];

const points = (losses) => Object.entries(losses ?? {}).map(([number, loss]) => [Number(number), loss]);

const viewOf = (key, client) => {
  const losses = points(client.losses);
  return { ...client, key, name: as.clean(key), said: client.state ?? "ready", losses, own: points(client.own_losses), last: losses.at(-1)?.[1] };
};

// A client's state: the ledger's, or what the server sees now, or that it takes longer than it should.
const stateOf = (client, live, lateAfter, now) => {
  if (live?.state === "away" && client.said !== "refused") return "away";
  if (live?.state && BUSY.includes(client.said)) return live.state;
  return client.said === "training" && lateAfter != null && now - client.given > lateAfter ? "late" : client.said;
};

export class Roster {
  constructor() {
    this.views = [];
    this.places = new Map();
  }

  // The clients of a run, in the order in which the ledger names them.
  of(run) {
    const shown = run.document;
    const clients = shown.clients ?? {};
    if (this.run !== run || run.touched === null) {
      Object.assign(this, { run, views: [], places: new Map() });
      for (const name of Object.keys(clients)) this.take(name, clients[name]);
    } else for (const name of run.touched) if (Object.hasOwn(clients, name)) this.take(name, clients[name]);
    run.touched = new Set();
    const [lateAfter, now] = [shown.round?.late_after_s, run.now];
    for (const view of this.views) {
      const seen = shown.finished || !Object.hasOwn(run.live, view.key) ? null : run.live[view.key];
      view.state = stateOf(view, seen, lateAfter, now);
      view.doing = seen?.doing;
    }
    return this.views;
  }

  take(name, client) {
    const place = this.places.get(name) ?? this.views.length;
    this.places.set(name, place);
    this.views[place] = viewOf(name, client);
  }
}
