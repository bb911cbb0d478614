// The page: asks for its runs every second and shows their documents. Text from outside is only ever set as text.

import { Grid, colour } from "./canvas.js";
import { Chart } from "./charts.js";
import * as as from "./format.js";

const $ = (id) => document.getElementById(id);
const STATES = ["ready", "chosen", "training", "uploading", "done", "evaluating", "late", "away", "refused"];
const BUSY = ["training", "evaluating"];
const EVERY_MS = 1000;
const UNTOLD = "Hidden by differential privacy: this would reveal more about the clients' data than was promised.";

// ---- what is written into the page

const element = (tag, text, name) => {
  const made = document.createElement(tag);
  if (text != null) made.textContent = text;
  if (name) made.className = name;
  return made;
};

const setText = (id, text) => {
  if ($(id).textContent !== text) $(id).textContent = text;
};

// What a row of a table, or a list of pairs, shows by now: only what is new is written into the page.
const written = new WeakMap();

const table = (place, headings, rows, words = []) => {
  const line = (kind, length) => {
    const made = element("tr");
    for (let index = 0; index < length; index++) {
      const cell = element(kind === "col" || !index ? "th" : "td", null, words.includes(index) ? "words" : "");
      if (cell.tagName === "TH") cell.scope = kind;
      cell.dataset.heading = headings[index];
      made.append(cell);
    }
    return made;
  };
  const write = (into, values) => {
    const before = written.get(into) ?? [];
    values.forEach((value, index) => {
      if (before[index] !== value) into.children[index].textContent = String(value);
    });
    written.set(into, values);
  };
  if (!place.tHead) {
    place.append(element("thead"), element("tbody"));
    place.tHead.append(line("col", headings.length));
  }
  write(place.tHead.firstChild, headings);
  const body = place.tBodies[0];
  const there = [...body.children];
  rows.forEach((row, index) => write(there[index] ?? body.appendChild(line("row", row.length)), row));
  for (const left of there.slice(rows.length)) left.remove();
};

const pairs = (place, entries) => {
  const said = JSON.stringify(entries);
  if (written.get(place) === said) return;
  written.set(place, said);
  place.replaceChildren(...entries.map(([name, ...values]) => {
    const one = element("div");
    one.append(element("dt", name), ...values.map((value) => element("dd", value)));
    return one;
  }));
};

// ---- runs

// One run as the server tells it.
class Run {
  constructor(name) {
    this.name = name;
    this.document = { seq: -1 };
    this.live = {};
    this.tag = "";
    this.skew = 0;
    this.linked = false;
  }

  // The server's time, in seconds.
  get now() {
    return Date.now() / 1000 + this.skew;
  }

  async look() {
    try {
      const answer = await fetch(`/api/runs/${encodeURIComponent(this.name)}`, { cache: "no-store", headers: { "if-none-match": this.tag } });
      if (answer.status === 401) location.reload();
      if (!answer.ok && answer.status !== 304) throw new Error(answer.status);
      if (answer.ok) {
        const said = await answer.json();
        this.document = said.document;
        this.live = said.live;
        this.tag = answer.headers.get("etag");
      }
      this.skew = (Date.parse(answer.headers.get("date")) || Date.now()) / 1000 - Date.now() / 1000;
      this.linked = true;
    } catch {
      this.linked = false;
      this.live = {};
    }
  }
}

const roundsOf = (shown) => Object.entries(shown?.rounds ?? {}).map(([number, round]) => [Number(number), round]);
const lossesOf = (shown) => roundsOf(shown).filter(([, round]) => round.loss != null);
const sentBy = (one) => (one.uplink_bytes ?? 0) + (one.downlink_bytes ?? 0);

// Where completions are rewarded, losses are minus mean rewards.
const isRewarded = (shown) => shown.settings?.objective?.split(":")[0] === "grpo";

// A client's state: the ledger's, or what the server sees now, or that it takes longer than it should.
const stateOf = (client, live, lateAfter, now) => {
  const said = client.state || "ready";
  if (live?.state === "away" && said !== "refused") return "away";
  if (live?.state && BUSY.includes(said)) return live.state;
  return said === "training" && lateAfter != null && now - client.given > lateAfter ? "late" : said;
};

// The clients of a run, in the order in which the ledger names them.
const clientsOf = ({ document: shown, live, now }) => Object.entries(shown.clients ?? {}).map(([key, client]) => {
  const seen = shown.finished || !Object.hasOwn(live, key) ? null : live[key];
  return { ...client, name: as.clean(key), state: stateOf(client, seen, shown.round?.late_after_s, now), doing: seen?.doing };
});

let run = null;
let other = null;
let clients = [];

// ---- panels

const grid = new Grid($("grid"), (index) => sayChosen(index));
const charts = { loss: new Chart($("loss"), { format: as.loss }), bytes: new Chart($("bytes"), { bar: true, format: as.bytes }) };

const sayChosen = (index) => {
  const client = clients[index];
  if (!client) return;
  const parts = [
    `${client.name}: ${client.state}`,
    client.since && !run.document.finished ? `for ${as.duration(run.now - client.since)}` : null,
    client.detail ? as.clean(client.detail, 200) : null,
    client.doing ? as.clean(client.doing, 120) : null,
    client.examples ? `${as.count(client.examples)} examples` : null,
    `${as.bytes(client.uplink_bytes ?? 0)} up, ${as.bytes(client.downlink_bytes ?? 0)} down`,
    client.updates ? `${client.updates} updates, the newest of round ${client.updated_round}` : null,
    client.train_loss == null ? null : isRewarded(run.document) ? `training reward ${as.loss(-client.train_loss)}` : `training loss ${as.loss(client.train_loss)}`,
  ];
  setText("chosen", parts.filter(Boolean).join(" · "));
};

const drawHead = (shown) => {
  const name = as.clean(shown.name || run.name);
  setText("title", name);
  document.title = `${name} · plait`;
  const [done, planned] = [shown.done ?? 0, shown.rounds_planned ?? 0];
  const waiting = !shown.finished && shown.state !== "interrupted" && shown.time != null && run.now - shown.time > 600 ? `, no event for ${as.duration(run.now - shown.time)}` : "";
  setText("state", shown.seq < 0 ? "not begun" : `${as.clean(shown.state ?? "")} · ${done} of ${planned} rounds done${waiting}`);
  $("progress").value = shown.finished ? 1 : planned ? done / planned : 0;
  setText("link", run.linked ? (shown.finished ? "complete" : "live") : "no connection, trying again");
  $("link").className = run.linked ? "" : "lost";
  const notice = shown.broken || (shown.publish_failed ? `The adapter could not be published: ${shown.publish_failed}` : "");
  $("notice").hidden = !notice;
  setText("notice", as.clean(notice, 300));
};

const drawClients = () => {
  clients = clientsOf(run);
  grid.draw(clients);
  const counts = {};
  for (const { state } of clients) counts[state] = (counts[state] ?? 0) + 1;
  const legend = STATES.filter((state) => counts[state]).map((state) => {
    const one = element("li");
    const mark = element("i");
    mark.style.background = colour(state);
    one.append(mark, `${counts[state]} ${state}`);
    return one;
  });
  const said = legend.map((one) => one.textContent).join() + colour("ready");
  if (written.get($("legend")) === said) return;
  written.set($("legend"), said);
  $("legend").replaceChildren(...legend);
};

const drawFigures = (shown) => {
  const losses = lossesOf(shown);
  const [first, last] = [losses[0]?.[1], losses.at(-1)?.[1]];
  const own = losses.findLast(([, round]) => round.own_loss != null)?.[1];
  const [sent, each] = [sentBy(shown), 2 * (shown.updates ?? 0)];
  const margin = last?.change_margin != null ? ` ± ${last.change_margin.toFixed(3)}` : "";
  const against = last === first || !first ? "of the base" : `${as.change(last.change ?? last.loss - first.loss)}${margin} against the base`;
  const private_ = shown.privacy;
  const figures = private_ && !losses.length ? [] : [["held-out loss", as.loss(last?.loss), against]];
  if (isRewarded(shown) && last) figures.push(["mean reward", as.loss(-last.loss), "of a completion of each held-out prompt"]);
  if (last?.accuracy != null) figures.push(["accuracy", `${(100 * last.accuracy).toFixed(1)} %`, "on held-out examples"]);
  if (own) figures.push(["personalized adapters", as.loss(own.own_loss), "each on its own client's data"]);
  if (last?.worst_client != null) figures.push(["worst client", as.loss(last.worst), as.clean(last.worst_client, 40)]);
  const left = shown.eta_s == null ? null : shown.eta_s - (run.now - shown.time);
  figures.push(
    ["sent", as.bytes(sent), `${as.bytes(shown.uplink_bytes ?? 0)} up, ${as.bytes(shown.downlink_bytes ?? 0)} down`],
    ["full-model FedAvg", sent && each ? as.times((each * shown.full_model_bytes) / sent) : as.NOTHING, "as many bytes, in float32"],
    ["float32 adapter", sent && each ? as.times((each * 4 * shown.parameters) / sent) : as.NOTHING, "as many bytes"],
    shown.finished ? ["time", as.duration(shown.worked_s), "in all"] : ["time left", as.duration(left), `${as.duration(shown.worked_s)} so far`],
    private_
      ? ["privacy", `ε ${private_.epsilon.toPrecision(3)}`, `${private_.budget != null ? `of ${private_.budget} ` : ""}at δ ${private_.delta}`]
      : ["privacy", "no guarantee", "no differential privacy"],
  );
  pairs($("figures"), figures);
};

const drawSides = (shown, beside) => {
  $("sides-section").hidden = !beside;
  if (!beside) return;
  const change = (one) => {
    const [first, last] = [lossesOf(one)[0]?.[1], lossesOf(one).at(-1)?.[1]];
    return first && last ? `${as.loss(last.loss)} (${as.change(last.loss - first.loss)})` : as.NOTHING;
  };
  const of = [
    ["state", (one) => as.clean(one.state ?? as.NOTHING)],
    ["rounds", (one) => `${one.done ?? 0} of ${one.rounds_planned ?? 0}`],
    ["held-out loss", change],
    ["sent", (one) => as.bytes(sentBy(one))],
    ["time", (one) => as.duration(one.worked_s)],
    ["privacy", (one) => (one.privacy ? `ε ${one.privacy.epsilon.toPrecision(3)}` : "no guarantee")],
    ["ledger", (one) => (one.broken ? "broken" : "chain intact")],
  ].map(([name, value]) => [name, value(shown), value(beside)]);
  const said = (one, key) => as.clean(JSON.stringify(one.settings?.[key]) ?? as.NOTHING, 60);
  const keys = [...new Set([...Object.keys(shown.settings ?? {}), ...Object.keys(beside.settings ?? {})])].sort();
  const differ = keys.filter((key) => key !== "out" && said(shown, key) !== said(beside, key));
  const settings = differ.map((key) => [as.clean(key, 40), said(shown, key), said(beside, key)]);
  table($("sides"), ["", as.clean(run.name, 40), as.clean(other.name, 40)], [...of, ...settings], [1, 2]);
};

const drawLosses = (shown, beside) => {
  const losses = lossesOf(shown);
  const [mine, others] = [new Map(losses), new Map(lossesOf(beside))];
  const rounds = [...new Set([...mine.keys(), ...others.keys()])].sort((a, b) => a - b);
  const series = [{ label: "shared adapter", colour: "accent", values: rounds.map((number) => mine.get(number)?.loss ?? null) }];
  for (const [label, key, name, dash] of [["personalized", "own_loss", "uploading", [4, 3]], ["worst client", "worst", "late", [2, 3]]])
    if (losses.some(([, round]) => round[key] != null))
      series.push({ label, colour: name, dash, values: rounds.map((number) => mine.get(number)?.[key] ?? null) });
  for (const [kind, reference] of Object.entries(shown.references ?? {}))
    series.push({ label: as.clean(kind, 20), colour: "muted", dash: [6, 4], values: rounds.map((number) => reference[number] ?? null) });
  if (beside) series.push({ label: as.clean(other.name, 30), colour: "done", values: rounds.map((number) => others.get(number)?.loss ?? null) });
  const newest = (key) => roundsOf(shown).filter(([, round]) => round[key]).slice(-1).map(([, round]) => as.clean(round[key], 300));
  charts.loss.draw(rounds, series);
  const sentences = losses.length ? [] : [shown.privacy ? UNTOLD : "Nothing has been evaluated yet."];
  sentences.push(...newest("taken_back"), ...newest("not_published"));
  if (shown.ended_early) sentences.push(as.clean(shown.ended_early, 300));
  if (shown.personal) sentences.push("All losses are of personalized adapters.");
  setText("loss-text", sentences.join(" "));
};

const drawBytes = (shown) => {
  const rounds = roundsOf(shown).filter(([, round]) => sentBy(round));
  charts.bytes.draw(rounds.map(([number]) => number), [
    { label: "both directions", colour: "soft", values: rounds.map(([, round]) => sentBy(round)) },
    { label: "from clients", colour: "accent", values: rounds.map(([, round]) => round.uplink_bytes ?? 0) },
  ]);
};

const drawTable = () => {
  if (!$("all").open) return;
  const rows = clients.map((client) => [client.name, client.state, as.clean(client.detail ?? "", 120), as.count(client.examples), as.bytes(client.uplink_bytes ?? 0), as.bytes(client.downlink_bytes ?? 0), client.updates ?? 0, as.loss(client.loss)]);
  table($("table"), ["client", "state", "", "examples", "up", "down", "updates", "loss"], rows, [0, 1, 2]);
};

const drawRefusals = (shown) => {
  const refusals = [...(shown.refusals ?? [])].reverse();
  const kept = refusals.length < (shown.refused ?? 0) ? ` The newest ${refusals.length} are shown.` : "";
  setText("refusals-text", refusals.length ? `${shown.refused} in all.${kept}` : "Nothing was refused.");
  const rows = refusals.map((refusal) => [as.clean(refusal.client), refusal.round ?? as.NOTHING, as.clean(refusal.reason), as.clean(refusal.detail, 300), as.moment(refusal.time)]);
  $("refusals").hidden = !rows.length;
  table($("refusals"), ["client", "round", "reason", "detail", "time"], rows, [0, 2, 3]);
};

const drawPrivacy = (shown) => {
  const promised = shown.privacy;
  setText("privacy-text", promised
    ? promised.warning || `Everything that one ${promised.unit}'s data changed is hidden within ε ${promised.epsilon.toPrecision(3)} at δ ${promised.delta}.`
    : "No guarantee: this run has no differential privacy. Deltas, losses and counts leave the clients; their data do not.");
  pairs($("privacy"), promised?.facts ?? []);
};

const drawRecord = (shown) => {
  setText("chain", shown.broken ? as.clean(shown.broken, 300) : shown.seq < 0 ? "The run has not begun." : `The ledger's hash chain is intact: ${as.count(shown.seq + 1)} events checked.`);
  $("chain").className = shown.broken ? "bad" : "";
  pairs($("settings"), Object.entries(shown.settings ?? {}).map(([key, value]) => [as.clean(key), as.clean(typeof value === "string" ? value : JSON.stringify(value), 200)]));
};

const PANELS = [drawHead, drawClients, drawFigures, drawSides, drawLosses, drawBytes, drawTable, drawRefusals, drawPrivacy, drawRecord];

const draw = () => {
  if (!run) return;
  const beside = other?.document.seq >= 0 ? other.document : null;
  for (const panel of PANELS) panel(run.document, beside);
};

// ---- when

// The token has become a cookie; it need not stand in the address, which may be copied and seen.
const address = new URL(location);
if (address.searchParams.has("token")) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

const look = async () => {
  const begun = performance.now();
  try {
    run ??= await fetch("/api/runs").then((answer) => answer.json()).then(({ runs: [first, second] }) => {
      other = second == null ? null : new Run(second);
      return new Run(first);
    });
    await Promise.all([run.look(), other?.look()]);
    draw();
  } finally {
    // A large run on a slow machine takes a tenth of the time at most, so that the page stays smooth.
    setTimeout(look, Math.max(EVERY_MS, 9 * (performance.now() - begun)));
  }
};

$("all").addEventListener("toggle", drawTable);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
globalThis.plaitPage = { get run() { return run; }, charts };
look();
