// Pictures of many clients on a canvas: only what is in view is drawn, so that a thousand cost as much as fifty.

const SCALE = Math.min(globalThis.devicePixelRatio || 1, 2);

let colours = {};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours = {}; });

export const colour = (name) => (colours[name] ??= getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());

const FONT = "11px system-ui, sans-serif";

const sized = (canvas, width, height) => {
  if (canvas.width !== Math.round(width * SCALE) || canvas.height !== Math.round(height * SCALE)) {
    canvas.width = Math.round(width * SCALE);
    canvas.height = Math.round(height * SCALE);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(SCALE, 0, 0, SCALE, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = FONT;
  context.textBaseline = "middle";
  return context;
};

const canvasIn = (place) => {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-hidden", "true");
  place.append(canvas);
  return canvas;
};

// What fits into `width`, with an ellipsis.
const cut = (context, text, width) => {
  let shown = text;
  while (shown.length > 1 && context.measureText(shown).width > width) shown = `${shown.slice(0, -2)}…`;
  return shown;
};

// One cell for each client. `choose(index)` is called when one is pointed at or chosen by keys.
export class Grid {
  constructor(place, choose) {
    this.place = place;
    this.canvas = canvasIn(place);
    this.choose = choose;
    this.cells = [];
    this.chosen = -1;
    this.width = 0;
    place.addEventListener("pointermove", (event) => this.point(event));
    place.addEventListener("pointerdown", (event) => this.point(event));
    place.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => {
      this.width = place.clientWidth;
      this.draw(this.cells);
    }).observe(place);
  }

  // Only cells that look otherwise than before are drawn.
  draw(cells) {
    this.cells = cells;
    if (!this.width) return;
    const key = [this.width, cells.length, colour("ink")].join();
    if (this.drawnAs !== key) {
      this.drawnAs = key;
      this.looks = [];
      this.side = Math.max(9, Math.min(34, Math.floor(Math.sqrt((this.width * 260) / Math.max(cells.length, 1)))));
      this.across = Math.max(1, Math.floor(this.width / this.side));
      this.context = sized(this.canvas, this.width, Math.max(1, Math.ceil(cells.length / this.across)) * this.side);
    }
    cells.forEach((cell, index) => {
      const look = index === this.chosen ? `${cell.state}!` : cell.state;
      if (this.looks[index] !== look) this.one(cell.state, index);
      this.looks[index] = look;
    });
  }

  one(state, index) {
    const { context, side } = this;
    const x = (index % this.across) * side;
    const y = Math.floor(index / this.across) * side;
    context.clearRect(x, y, side, side);
    context.fillStyle = colour(state);
    context.fillRect(x + 1, y + 1, side - 2, side - 2);
    // The states that need a look have a mark, for those who cannot tell the colours apart.
    if (state === "refused" || state === "late" || state === "away") {
      context.strokeStyle = colour("card");
      context.lineWidth = 1.5;
      context.beginPath();
      const [low, high] = [side * 0.3, side * 0.7];
      if (state !== "away") { context.moveTo(x + low, y + low); context.lineTo(x + high, y + high); }
      if (state === "refused") { context.moveTo(x + high, y + low); context.lineTo(x + low, y + high); }
      if (state === "away") { context.moveTo(x + low, y + side / 2); context.lineTo(x + high, y + side / 2); }
      context.stroke();
    }
    if (index === this.chosen) {
      context.strokeStyle = colour("ink");
      context.lineWidth = 2;
      context.strokeRect(x + 1, y + 1, side - 2, side - 2);
    }
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.side);
    const index = Math.floor((event.clientY - box.top) / this.side) * this.across + column;
    if (column < this.across && index >= 0 && index < this.cells.length) this.take(index);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.across, ArrowUp: -this.across }[event.key];
    const last = this.cells.length - 1;
    if (event.key === "Home") this.take(0);
    else if (event.key === "End") this.take(last);
    else if (step) this.take(Math.max(0, Math.min(last, Math.max(this.chosen, 0) + (this.chosen < 0 ? 0 : step))));
    else return;
    event.preventDefault();
  }

  take(index) {
    if (index === this.chosen || index < 0) return;
    this.chosen = index;
    this.draw(this.cells);
    this.choose(index);
  }
}

// Rows or cells in a box that scrolls: a canvas as large as the box, under which the content slides.
class Scrolled {
  constructor(place) {
    this.place = place;
    this.canvas = canvasIn(place);
    this.space = document.createElement("div");
    place.append(this.space);
    this.width = 0;
    place.addEventListener("scroll", () => this.paint(), { passive: true });
    new ResizeObserver(() => {
      if (this.width === place.clientWidth) return;
      this.width = place.clientWidth;
      this.fit();
    }).observe(place);
  }

  show(height) {
    const shown = Math.min(height, 352);
    this.place.hidden = !height;
    this.space.style.height = `${Math.max(0, height - shown)}px`;
    this.height = shown;
    this.paint();
  }

  context() {
    return sized(this.canvas, Math.max(1, this.width), Math.max(1, this.height));
  }
}

// The round: a bar for each client from its task to its answer; the darker part is its own training.
export class Timeline extends Scrolled {
  draw(bars, from, to) {
    Object.assign(this, { bars, from, to });
    this.row = bars.length > 60 ? 6 : 18;
    this.fit();
  }

  fit() {
    if (this.bars) this.show(this.bars.length * this.row);
  }

  paint() {
    if (!this.bars || !this.width) return;
    const context = this.context();
    const label = this.row > 10 ? 110 : 0;
    const width = this.width - label - 8;
    const x = (time) => label + (width * (time - this.from)) / Math.max(this.to - this.from, 0.001);
    const top = this.place.scrollTop;
    const [ink, soft] = [colour("muted"), colour("soft")];
    const first = Math.floor(top / this.row);
    for (let index = first; index < Math.min(this.bars.length, first + this.height / this.row + 1); index++) {
      const bar = this.bars[index];
      const y = index * this.row - top;
      if (label) {
        context.fillStyle = ink;
        context.fillText(cut(context, bar.name, label - 8), 0, y + this.row / 2);
      }
      if (bar.given == null) continue;
      const end = bar.answered ?? this.to;
      const height = Math.max(2, this.row - 4);
      context.fillStyle = bar.answered == null ? colour(bar.state) : soft;
      context.fillRect(x(bar.given), y + 2, Math.max(2, x(end) - x(bar.given)), height);
      if (bar.answered != null && bar.train_s) {
        context.fillStyle = colour("done");
        context.fillRect(x(bar.given), y + 2, Math.max(1, Math.min(x(end), x(bar.given + bar.train_s)) - x(bar.given)), height);
      }
    }
  }
}

const CELL = { width: 128, height: 58 };

// Small multiples: the loss of each client over the rounds.
export class Multiples extends Scrolled {
  draw(clients, rounds) {
    Object.assign(this, { clients, rounds });
    this.fit();
  }

  fit() {
    if (!this.clients) return;
    this.across = Math.max(1, Math.floor(this.width / CELL.width));
    this.show(Math.ceil(this.clients.length / this.across) * CELL.height);
  }

  paint() {
    if (!this.clients || !this.width) return;
    const context = this.context();
    const colours = { ink: colour("ink"), muted: colour("muted"), line: colour("line"), accent: colour("accent") };
    const top = this.place.scrollTop;
    const wide = this.width / this.across;
    const first = Math.floor(top / CELL.height) * this.across;
    const last = Math.ceil((top + this.height) / CELL.height) * this.across;
    for (let index = first; index < Math.min(last, this.clients.length); index++) {
      const x = (index % this.across) * wide;
      this.one(context, this.clients[index], x, Math.floor(index / this.across) * CELL.height - top, wide - 12, colours);
    }
  }

  one(context, client, x, y, width, colours) {
    const value = client.last.toFixed(3);
    context.fillStyle = colours.ink;
    context.fillText(value, x + width - context.measureText(value).width, y + 8);
    context.fillStyle = colours.muted;
    context.fillText(cut(context, client.name, width - 44), x, y + 8);
    const all = [...client.losses, ...client.own].map((point) => point[1]);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const across = (round) => x + (width * round) / Math.max(this.rounds, 1);
    const down = (loss) => y + 18 + 32 * (high > low ? (high - loss) / (high - low) : 0.5);
    for (const [points, stroke, dash] of [[client.own, colours.accent, [3, 2]], [client.losses, colours.accent, []]]) {
      context.strokeStyle = stroke;
      context.lineWidth = 1.4;
      context.setLineDash(dash);
      context.beginPath();
      points.forEach(([round, loss], index) => context[index ? "lineTo" : "moveTo"](across(round), down(loss)));
      context.stroke();
      context.setLineDash([]);
      if (points.length === 1) context.strokeRect(across(points[0][0]) - 1, down(points[0][1]) - 1, 2, 2);
    }
    context.strokeStyle = colours.line;
    context.lineWidth = 1;
    context.strokeRect(x, y + 53.5, width, 0);
  }
}
