// Line and bar charts over rounds, by uPlot.

import { colour } from "./canvas.js";

// Bars on whole pixels, each drawn by itself: as one path, which is what uPlot makes, two hundred take 25 ms without a GPU.
const bars = (plot, index, from, to) => {
  const { ctx, data, scales } = plot;
  const at = (round) => plot.valToPos(round, "x", true);
  const width = Math.max(1, Math.round(Math.min(40 * devicePixelRatio, 0.7 * (at(scales.x.min + 1) - at(scales.x.min)))));
  const floor = plot.valToPos(0, "y", true);
  ctx.fillStyle = plot.series[index].fill(plot, index);
  for (let place = from; place <= to; place++) {
    const top = Math.round(plot.valToPos(data[index][place], "y", true));
    ctx.fillRect(Math.round(at(data[0][place]) - width / 2), top, width, Math.round(floor) - top);
  }
  return null;
};

// A chart that is made anew when its series or the colours change, and otherwise only gets new data.
export class Chart {
  constructor(place, { bar = false, format = (value) => value?.toPrecision(4) ?? "–", legend = true } = {}) {
    Object.assign(this, { place, bar, format, legend, width: 0 });
    this.observer = new ResizeObserver(() => {
      this.width = place.clientWidth;
      if (this.plot) this.resize();
      else if (this.data) this.make();
    });
    this.observer.observe(place);
  }

  // series: [{ label, values, colour, dash }] with one value (or null) for each round; marks: rounds to mark.
  draw(rounds, series, marks = []) {
    const key = JSON.stringify([series.map((one) => [one.label, one.colour, one.dash]), colour("ink")]);
    const data = [rounds, ...series.map((one) => one.values)];
    const said = JSON.stringify([data, marks]);
    if ((key === this.key && said === this.said) || !rounds.length) return;
    const isOther = key !== this.key;
    Object.assign(this, { marks, key, said, data, series });
    if (isOther || !this.plot) this.make();
    else {
      this.plot.setData(data);
      this.newest(this.plot);
    }
  }

  make() {
    if (!this.width) return;
    this.plot?.destroy();
    this.plot = new uPlot(this.options(this.series), this.data, this.place);
    // The legend has its height only once it is laid out, and another where its words take more lines.
    if (this.legend) this.observer.observe(this.place.querySelector(".u-legend"));
    else this.resize();
  }

  options(series) {
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    return {
      width: this.width,
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
      // Where no round is pointed at, the legend has the values of the newest.
      hooks: { draw: [(plot) => this.mark(plot)], ready: [(plot) => this.newest(plot)], setCursor: [(plot) => plot.cursor.idx ?? this.newest(plot)] },
    };
  }

  newest(plot) {
    if (this.legend) plot.setLegend({ idx: plot.data[0].length - 1 });
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
    if (!this.width) return;
    const below = this.legend ? this.place.querySelector(".u-legend")?.offsetHeight ?? 0 : 0;
    const [width, height] = [this.width, Math.max(80, this.place.clientHeight - below)];
    if (this.plot.width !== width || this.plot.height !== height) this.plot.setSize({ width, height });
  }
}
