// The page: chooses runs and shows their documents. Text from outside is only ever set as text.

import { Grid, Multiples, Timeline, colour } from "./canvas.js";
import { Chart } from "./charts.js";
import * as as from "./format.js";
import { Roster } from "./roster.js";
import { Run } from "./run.js";

const $ = (id) => document.getElementById(id);
const STATES = ["ready", "chosen", "training", "uploading", "done", "evaluating", "late", "away", "refused"];
const PANELS_EVERY_MS = 500;
const SLICE_MS = 4;

let run = null;
let other = null;
let listed = [];
let listedAs = ""; // runs and queue as the server told them last
let isDue = false;

const element = (tag, text, name) => {
  const made = document.createElement(tag);
  if (text != null) made.textContent = text;
  if (name) made.className = name;
  return made;
};

const fill = (place, children) => place.replaceChildren(...children);
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
      made.append(cell);
    }
    return made;
  };
  const write = (into, values) => {
    const before = written.get(into) ?? [];
    values.forEach((value, index) => {
      if (before[index] !== value) into.children[index].replaceChildren(value instanceof Node ? value : String(value));
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
  fill(place, entries.map(([name, ...values]) => {
    const one = element("div");
    one.append(element("dt", name), ...values.map((value) => element("dd", value)));
    return one;
  }));
};

const roundsOf = (shown) => Object.entries(shown?.rounds ?? {}).map(([number, round]) => [Number(number), round]);
const lossesOf = (shown) => roundsOf(shown).filter(([, round]) => round.loss != null);

// Rounds since a client's newest update: how old what it has taught is.
const staleness = (client, shown) => (client.updated_round == null ? null : (shown.round?.number ?? 0) - client.updated_round);

// ---- what is drawn at every change

const grid = new Grid($("grid"), (index) => sayChosen(index));
const timeline = new Timeline($("timeline"));
const multiples = new Multiples($("each"));
const roster = new Roster();
let clients = [];

// Whether completions are rewarded: losses are then minus mean rewards.
const isRewarded = (shown) => shown.settings?.objective?.split(":")[0] === "grpo";

const sayChosen = (index) => {
  const client = clients[index];
  if (!client) return;
  const parts = [
    `${client.name}: ${client.state}`,
    client.since != null && !run.document.finished ? `for ${as.duration(Math.max(0, run.now - client.since))}` : null,
    client.detail ? as.clean(client.detail, 200) : null,
    client.doing ? as.clean(client.doing, 120) : null,
    client.examples ? `${as.count(client.examples)} examples` : null,
    `${as.bytes(client.uplink_bytes ?? 0)} up, ${as.bytes(client.downlink_bytes ?? 0)} down`,
    client.updates ? `${client.updates} updates, the newest of round ${client.updated_round}` : null,
    client.train_loss == null ? null : isRewarded(run.document) ? `training reward ${as.loss(-client.train_loss)}` : `training loss ${as.loss(client.train_loss)}`,
  ];
  setText("chosen", parts.filter(Boolean).join(" · "));
};

const drawClients = (shown) => {
  clients = roster.of(run);
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
  const said = legend.map((one) => one.textContent).join();
  if ($("legend").dataset.said !== said + colour("ready")) {
    $("legend").dataset.said = said + colour("ready");
    fill($("legend"), legend);
  }
};

const drawRound = (shown) => {
  const now = shown.round;
  const asked = clients.filter((client) => client.given != null).sort((a, b) => a.given - b.given);
  if (!now || !asked.length) {
    setText("timeline-text", now ? `Round ${now.number}: ${now.cohort} chosen, none has its task yet.` : "No round has begun.");
    timeline.draw([], 0, 1);
    return;
  }
  const open = asked.some((client) => client.answered == null && client.state === "training");
  const to = open && !shown.finished ? run.now : Math.max(...asked.map((client) => client.answered ?? client.since));
  timeline.draw(asked, Math.min(now.started ?? asked[0].given, asked[0].given), to);
  const took = `${now.received ?? 0} of ${now.cohort} answered, ${as.duration(to - (now.started ?? asked[0].given))} from the first task to the last answer`;
  setText("timeline-text", `Round ${now.number}: ${took}. A bar goes from task to answer: green is training, blue the rest.`);
};

// ---- the panels, which are drawn at most twice a second

const charts = {
  loss: new Chart($("loss"), { format: as.loss }),
  bytes: new Chart($("bytes"), { bar: true, format: as.bytes }),
  drift: new Chart($("drift"), { legend: false }),
  agreement: new Chart($("agreement"), { legend: false, format: (value) => value?.toFixed(2) ?? "" }),
  effective_rank: new Chart($("effective_rank"), { legend: false, format: (value) => value?.toFixed(1) ?? "" }),
};

const UNTOLD = "Hidden by differential privacy: this would reveal more about the clients' data than was promised.";

const drawFigures = (shown) => {
  const losses = lossesOf(shown);
  const [first, last] = [losses[0]?.[1], losses.at(-1)?.[1]];
  const own = losses.findLast(([, round]) => round.own_loss != null)?.[1];
  const sent = (shown.uplink_bytes ?? 0) + (shown.downlink_bytes ?? 0);
  const each = 2 * (shown.updates ?? 0);
  const figures = shown.privacy && !losses.length ? [] : [
    ["held-out loss", as.loss(last?.loss), last === first || !first ? "of the base" : `${as.change(last.change ?? last.loss - first.loss)}${last.change_margin != null ? ` ± ${last.change_margin.toFixed(3)}` : ""} against the base`],
  ];
  if (isRewarded(shown) && last) figures.push(["mean reward", as.loss(-last.loss), "of a completion of each held-out prompt"]);
  if (last?.accuracy != null) figures.push(["accuracy", `${(100 * last.accuracy).toFixed(1)} %`, "on held-out examples"]);
  if (own) figures.push(["personalized adapters", as.loss(own.own_loss), "each on its own client's data"]);
  if (last?.worst_client != null) figures.push(["worst client", as.loss(last.worst), as.clean(last.worst_client, 40)]);
  figures.push(
    ["sent", as.bytes(sent), `${as.bytes(shown.uplink_bytes ?? 0)} up, ${as.bytes(shown.downlink_bytes ?? 0)} down`],
    ["full-model FedAvg", sent && each ? as.times((each * shown.full_model_bytes) / sent) : as.NOTHING, "as many bytes, in float32"],
    ["float32 adapter", sent && each ? as.times((each * 4 * shown.parameters) / sent) : as.NOTHING, "as many bytes"],
    shown.finished
      ? ["time", as.duration(shown.worked_s), "in all"]
      : ["time left", as.duration(shown.eta_s == null ? null : Math.max(0, shown.eta_s - (run.now - shown.time))), `${as.duration(shown.worked_s)} so far`],
    ["privacy", shown.privacy ? `ε ${shown.privacy.epsilon.toPrecision(3)}` : "no guarantee", shown.privacy ? (shown.privacy.budget != null ? `of ${shown.privacy.budget} at δ ${shown.privacy.delta}` : `at δ ${shown.privacy.delta}`) : "no differential privacy"],
  );
  pairs($("figures"), figures);
};

const drawLosses = (shown, beside) => {
  const losses = lossesOf(shown);
  const others = new Map(lossesOf(beside));
  const rounds = [...new Set([...losses.map(([number]) => number), ...others.keys()])].sort((a, b) => a - b);
  const mine = new Map(losses);
  const series = [{ label: "shared adapter", colour: "accent", values: rounds.map((number) => mine.get(number)?.loss ?? null) }];
  const optional = (label, key, name, dash) => {
    if (losses.some(([, round]) => round[key] != null))
      series.push({ label, colour: name, dash, values: rounds.map((number) => mine.get(number)?.[key] ?? null) });
  };
  optional("personalized", "own_loss", "own", [4, 3]);
  optional("worst client", "worst", "late", [2, 3]);
  for (const [kind, reference] of Object.entries(shown.references ?? {}))
    series.push({ label: as.clean(kind, 20), colour: "muted", dash: [6, 4], values: rounds.map((number) => reference.by_round[number] ?? null) });
  if (beside) series.push({ label: as.clean(other.name, 30), colour: "done", values: rounds.map((number) => others.get(number)?.loss ?? null) });
  const taken = roundsOf(shown).filter(([, round]) => round.taken_back);
  charts.loss.draw(rounds, series, taken.map(([number]) => number));
  const sentences = losses.length ? [] : [shown.privacy ? UNTOLD : "Nothing has been evaluated yet."];
  if (taken.length) sentences.push(as.clean(taken.at(-1)[1].taken_back.text, 300));
  if (shown.ended_early) sentences.push(as.clean(shown.ended_early, 300));
  if (shown.personal) sentences.push("All losses are of personalized adapters.");
  setText("loss-text", sentences.join(" "));
};

const drawBytes = (shown, beside) => {
  const rounds = roundsOf(shown).filter(([, round]) => round.uplink_bytes || round.downlink_bytes);
  const up = rounds.map(([, round]) => round.uplink_bytes ?? 0);
  const both = rounds.map(([, round], index) => up[index] + (round.downlink_bytes ?? 0));
  charts.bytes.draw(rounds.map(([number]) => number), [
    { label: "both directions", colour: "soft", values: both },
    { label: "from clients", colour: "accent", values: up },
  ]);
  const line = (name, one) => {
    const sent = (one.uplink_bytes ?? 0) + (one.downlink_bytes ?? 0);
    const times = 2 * (one.updates ?? 0);
    const alternative = (size) => `${as.bytes(times * size)} (${as.times(sent ? (times * size) / sent : null)})`;
    return [name, as.bytes(one.uplink_bytes ?? 0), as.bytes(one.downlink_bytes ?? 0), alternative(4 * (one.parameters ?? 0)), alternative(one.full_model_bytes ?? 0)];
  };
  const rows = [line("this run", shown)];
  if (beside) rows.push(line(as.clean(other.name, 40), beside));
  table($("savings"), ["", "up", "down", "float32 adapter", "full model, float32"], rows);
};

const drawLearning = (shown) => {
  const rounds = roundsOf(shown).filter(([, round]) => round.agreement != null || round.drift != null);
  const numbers = rounds.map(([number]) => number);
  const of = (key) => rounds.map(([, round]) => round[key] ?? null);
  charts.drift.draw(numbers, [{ label: "mean", colour: "accent", values: of("drift") }, { label: "largest", colour: "late", dash: [3, 3], values: of("drift_max") }]);
  charts.agreement.draw(numbers, [{ label: "agreement", colour: "accent", values: of("agreement") }]);
  charts.effective_rank.draw(numbers, [{ label: "effective rank", colour: "accent", values: of("effective_rank") }]);
  const last = rounds.at(-1)?.[1];
  setText("learning-text", last
    ? `Newest round: drift ${last.drift?.toPrecision(3) ?? as.NOTHING} (largest ${last.drift_max?.toPrecision(3) ?? as.NOTHING}), agreement ${last.agreement?.toFixed(2) ?? as.NOTHING}, effective rank ${last.effective_rank?.toFixed(1) ?? as.NOTHING}, error of the aggregate ${last.error?.toPrecision(2) ?? as.NOTHING}.`
    : shown.privacy ? UNTOLD : "Not measured yet, or not for this adapter.");
};

const drawEach = (shown) => {
  const each = clients.filter((client) => client.last != null).sort((a, b) => b.last - a.last);
  multiples.draw(each, Math.max(shown.rounds_planned ?? 0, shown.round?.number ?? 0));
};

const drawTable = () => {
  if (!$("all").open) return;
  const wanted = $("filter").value.toLowerCase();
  const rows = clients
    .filter((client) => client.name.toLowerCase().includes(wanted))
    .map((client) => [client.name, client.state, as.clean(client.detail ?? "", 120), as.count(client.examples), as.bytes(client.uplink_bytes ?? 0), as.bytes(client.downlink_bytes ?? 0), client.updates ?? 0, staleness(client, run.document) ?? as.NOTHING, as.loss(client.last)]);
  table($("table"), ["client", "state", "", "examples", "up", "down", "updates", "rounds ago", "loss"], rows, [0, 1, 2]);
};

const drawRefusals = (shown) => {
  const refusals = Object.values(shown.refusals ?? {}).reverse();
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
  const base = shown.base ?? {};
  pairs($("record"), [
    ["run", as.clean(shown.run ?? as.NOTHING)],
    ["begun", as.moment(shown.started)],
    ["base", as.clean(base.name ?? as.NOTHING)],
    ["base fingerprint", as.clean(base.fingerprint ?? as.NOTHING)],
    ["method", `${as.clean(shown.method ?? as.NOTHING)}, rank ${shown.rank ?? as.NOTHING}`],
    ["rule", as.clean(shown.rule ?? as.NOTHING)],
    ["trained parameters", as.count(shown.parameters)],
    ["seed", String(shown.seed ?? as.NOTHING)],
    ["interruptions", String(shown.interruptions ?? 0)],
    ["newest event", as.clean(shown.hash ?? as.NOTHING)],
  ]);
  pairs($("settings"), Object.entries(shown.settings ?? {}).map(([key, value]) => [as.clean(key), as.clean(typeof value === "string" ? value : JSON.stringify(value), 200)]));
};

const drawRuns = () => {
  const beside = (name) => {
    if (!run || name === run.name) return "";
    const made = element("a", "beside");
    made.href = `?${new URLSearchParams({ run: run.name, beside: name })}`;
    made.setAttribute("aria-label", `Show ${as.clean(name, 60)} beside ${as.clean(run.name, 60)}`);
    return made;
  };
  table($("runs"), ["run", "", "", "rounds", "clients", "loss", "sent", "last event"], listed.map((one) => [
    runLink(one.name), beside(one.name), one.finished ? "finished" : "not finished", one.rounds ?? as.NOTHING, one.clients ?? as.NOTHING,
    one.final_held_out_loss == null ? as.NOTHING : `${as.loss(one.base_held_out_loss)} → ${as.loss(one.final_held_out_loss)}`,
    one.uplink_bytes == null ? as.NOTHING : as.bytes(one.uplink_bytes + (one.downlink_bytes ?? 0)), as.moment(one.written),
  ]), [0, 1, 2]);
};

// Which runs have begun from which: adapters are known by the digests of their files.
const drawLineage = () => {
  const linked = (names) => {
    const made = element("span", names.length ? null : as.NOTHING);
    names.forEach((name, index) => made.append(index ? ", " : "", name));
    return made;
  };
  const parent = ({ run: name, digest, weight }) => {
    const made = element("span");
    const how = weight === 1 ? "" : `weight ${weight}`;
    made.append(name ? runLink(name) : as.clean(digest.slice(0, 12)), how ? ` (${how})` : "");
    return made;
  };
  const children = (name) => listed.filter((one) => one.began_from?.some((each) => each.run === name)).map((one) => runLink(one.name));
  const family = listed.filter(({ name, began_from: parents }) => parents || children(name).length);
  $("lineage-section").hidden = !family.length;
  table($("lineage"), ["run", "began from", "continued by"], family.map((one) => [
    runLink(one.name), linked((one.began_from ?? []).map(parent)), linked(children(one.name)),
  ]), [0, 1, 2]);
};

const drawSides = (shown, beside) => {
  $("sides-section").hidden = !beside;
  if (!beside) return;
  const sent = (one) => (one.uplink_bytes ?? 0) + (one.downlink_bytes ?? 0);
  const change = (one) => {
    const [first, last] = [lossesOf(one)[0]?.[1], lossesOf(one).at(-1)?.[1]];
    return first && last ? `${as.loss(last.loss)} (${as.change(last.loss - first.loss)})` : as.NOTHING;
  };
  const of = [
    ["state", (one) => as.clean(one.state ?? as.NOTHING)],
    ["rounds", (one) => `${one.done ?? 0} of ${one.rounds_planned ?? 0}`],
    ["held-out loss", change],
    ["sent", (one) => as.bytes(sent(one))],
    ["updates", (one) => as.count(one.updates ?? 0)],
    ["refusals", (one) => as.count(one.refused ?? 0)],
    ["time", (one) => as.duration(one.worked_s)],
    ["privacy", (one) => (one.privacy ? `ε ${one.privacy.epsilon.toPrecision(3)}` : "no guarantee")],
    ["ledger", (one) => (one.broken ? "broken" : "chain intact")],
    ["trained parameters", (one) => as.count(one.parameters)],
  ].map(([name, value]) => [name, value(shown), value(beside)]);
  const said = (one, key) => as.clean(JSON.stringify(one.settings?.[key]) ?? as.NOTHING, 60);
  const keys = [...new Set([...Object.keys(shown.settings ?? {}), ...Object.keys(beside.settings ?? {})])].sort();
  const differ = keys.filter((key) => key !== "out" && said(shown, key) !== said(beside, key));
  const settings = differ.map((key) => [as.clean(key, 40), said(shown, key), said(beside, key)]);
  table($("sides"), ["", as.clean(run.name, 40), as.clean(other.name, 40)], [...of, ...settings], [1, 2]);
};

const runLink = (name) => {
  const made = element("a", as.clean(name, 60));
  made.href = `?run=${encodeURIComponent(name)}`;
  return made;
};

const drawHead = (shown) => {
  const name = as.clean(shown.name || run.name);
  setText("title", name);
  document.title = `${name} · plait`;
  const done = shown.done ?? 0;
  const planned = shown.rounds_planned ?? 0;
  const waiting = !shown.finished && !["finished", "interrupted"].includes(shown.state) && shown.time != null && run.now - shown.time > 600 ? `, no event for ${as.duration(run.now - shown.time)}` : "";
  setText("state", shown.seq < 0 ? "not begun" : `${as.clean(shown.state ?? "")} · ${done} of ${planned} rounds done${waiting}`);
  $("progress").value = shown.finished ? 1 : planned ? done / planned : 0;
  setText("link", run.linked ? (shown.finished ? "complete" : "live") : "no connection, trying again");
  $("link").className = run.linked ? "" : "lost";
  const notice = shown.broken || (shown.publish_failed ? `The adapter could not be published: ${shown.publish_failed}` : "");
  $("notice").hidden = !notice;
  setText("notice", as.clean(notice, 300));
};

// ---- when

const PANELS = [drawFigures, drawSides, drawLosses, drawBytes, drawLearning, drawEach, drawTable, drawRefusals, drawPrivacy, drawRecord];

// What moves is drawn at every change. The panels have turns: one turn is spread over frames, so that none is late, and
// takes a tenth of the time at most, so that a large run on a slow machine stays smooth.
let hasNews = false;
let isStale = false;
let left = [];
let spentMs = 0;
let turnAt = 0;
let timer = 0;

const draw = () => {
  isDue = false;
  if (!run) return;
  const shown = run.document;
  const begun = performance.now();
  if (hasNews) {
    hasNews = false;
    drawHead(shown);
    drawClients(shown);
    drawRound(shown);
    isStale = true;
  }
  if (isStale && !left.length && begun >= turnAt) {
    isStale = false;
    spentMs = 0;
    left = [...PANELS];
  }
  const beside = other?.document.seq >= 0 ? other.document : null;
  const from = performance.now();
  while (left.length && performance.now() - begun < SLICE_MS) {
    left.shift()(shown, beside);
    if (!left.length) turnAt = performance.now() + Math.max(PANELS_EVERY_MS, 9 * (spentMs + performance.now() - from));
  }
  spentMs += performance.now() - from;
  if (left.length) soon();
  else if (isStale) {
    clearTimeout(timer);
    timer = setTimeout(soon, turnAt - performance.now());
  }
};

const soon = () => {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(draw);
};

const changed = () => {
  hasNews = true;
  soon();
};

// Everything at once: another run, or other colours.
const anew = () => {
  turnAt = 0;
  left = [];
  changed();
};

// ---- which runs

// The token has become a cookie; it need not stand in the address, which may be copied and seen.
const address = new URL(location);
if (address.searchParams.has("token")) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

const choose = () => {
  const wanted = new URLSearchParams(location.search);
  const name = wanted.get("run") || listed[0]?.name;
  const second = wanted.get("beside") || "";
  if (name && run?.name !== name) {
    run?.close();
    run = new Run(name, changed);
  }
  if ((other?.name ?? "") !== second) {
    other?.close();
    other = second ? new Run(second, changed) : null;
  }
  $("run").value = name ?? "";
  $("other").value = second;
  drawRuns();
  anew();
};

const go = () => {
  const query = new URLSearchParams({ run: $("run").value });
  if ($("other").value) query.set("beside", $("other").value);
  history.pushState(null, "", `?${query}`);
  choose();
};

const list = async () => {
  try {
    const runs = await fetch("/api/runs");
    if (runs.status === 401) location.reload();
    const text = await runs.text();
    if (text === listedAs) return;
    listed = JSON.parse(text).runs;
    listedAs = text;
  } catch {
    return;
  }
  const option = ({ name }) => new Option(as.clean(name, 60), name);
  const [mine, second] = [$("run").value, $("other").value];
  fill($("run"), listed.map(option));
  fill($("other"), [new Option("no other run", ""), ...listed.map(option)]);
  $("run").value = mine || $("run").value;
  $("other").value = second;
  if (!run) choose();
  drawRuns();
  drawLineage();
};

$("run").addEventListener("change", go);
$("other").addEventListener("change", go);
$("choose").addEventListener("submit", (event) => event.preventDefault());
$("filter").addEventListener("input", drawTable);
$("all").addEventListener("toggle", drawTable);
addEventListener("popstate", choose);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", anew);
await list();
if (!run) choose();
setInterval(changed, 1000);
setInterval(list, 10000);
// For the console and for tests: `isDrawn` says that every panel shows the newest event.
globalThis.plaitPage = { get run() { return run; }, get isDrawn() { return !hasNews && !isStale && !left.length; }, charts, multiples, grid };
