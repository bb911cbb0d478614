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

// One cell for each client. `choose(index)` is called when one is pointed at or chosen by keys.
export class Grid {
  constructor(place, choose) {
    this.place = place;
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    place.append(this.canvas);
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
