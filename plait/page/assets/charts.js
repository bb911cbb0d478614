// Line and bar charts over rounds, by uPlot.

import { colour } from "./canvas.js";

const bars = uPlot.paths.bars({ size: [0.7, 40] });

// A chart that is made anew when its series or the colours change, and otherwise only gets new data.
export class Chart {
  constructor(place, { bar = false, format = (value) => value?.toPrecision(4) ?? "–", legend = true } = {}) {
    Object.assign(this, { place, bar, format, legend });
    new ResizeObserver(() => this.resize()).observe(place);
  }

  // series: [{ label, values, colour, dash }] with one value (or null) for each round; marks: rounds to mark.
  draw(rounds, series, marks = []) {
    this.marks = marks;
    const key = JSON.stringify([series.map((one) => [one.label, one.colour, one.dash]), colour("ink")]);
    this.data = [rounds, ...series.map((one) => one.values)];
    if (!rounds.length || !this.place.clientWidth) return;
    if (key !== this.key) {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(series), this.data, this.place);
      this.key = key;
      // The legend has its height only once it is laid out.
      requestAnimationFrame(() => this.resize());
    } else this.plot.setData(this.data);
    this.resize();
  }

  options(series) {
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    return {
      width: this.place.clientWidth,
      height: 100,
      legend: { show: this.legend },
      cursor: { drag: { x: false, y: false } },
      scales: { x: { time: false, range: (_, low, high) => (this.bar ? [low - 0.6, high + 0.6] : [low, Math.max(high, low + 1)]) }, y: this.bar ? { range: (_, low, high) => [0, high * 1.05 || 1] } : {} },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], size: 26 }, { ...axis, size: 62, values: (_, ticks) => this.labels(ticks) }],
      series: [
        { label: "round" },
        ...series.map((one) => ({
          label: one.label,
          stroke: colour(one.colour),
          fill: this.bar ? colour(one.colour) : undefined,
          width: this.bar ? 0 : 2,
          dash: one.dash,
          paths: this.bar ? bars : undefined,
          spanGaps: true,
          points: { show: (plot) => !this.bar && plot.data[0].length < 60, size: 5, fill: colour(one.colour) },
          value: (_, value) => this.format(value),
        })),
      ],
      hooks: { draw: [(plot) => this.mark(plot)] },
    };
  }

  // Ticks closer than the format shows have one label together.
  labels(ticks) {
    const labels = ticks.map((tick) => this.format(tick));
    return labels.map((label, at) => (label === labels[at - 1] ? "" : label));
  }

  mark(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = colour("late");
    for (const round of this.marks) {
      const x = plot.valToPos(round, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top + 12);
      ctx.lineTo(x - 6, bbox.top);
      ctx.lineTo(x + 6, bbox.top);
      ctx.fill();
    }
    ctx.restore();
  }

  resize() {
    if (!this.plot || !this.place.clientWidth) return;
    const below = this.legend ? this.place.querySelector(".u-legend")?.offsetHeight ?? 0 : 0;
    const [width, height] = [this.place.clientWidth, Math.max(80, this.place.clientHeight - below)];
    if (this.plot.width !== width || this.plot.height !== height) this.plot.setSize({ width, height });
  }
}
