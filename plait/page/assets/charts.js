// Line and bar charts over rounds, by uPlot.

import { colour } from "./canvas.js";

// A chart that is made anew when its series or the colours change, and otherwise only gets new data.
export class Chart {
  constructor(place, { bar = false, format }) {
    Object.assign(this, { place, bar, format, width: 0 });
    this.observer = new ResizeObserver(() => {
      this.width = place.clientWidth;
      if (this.plot) this.resize();
      else if (this.data) this.make();
    });
    this.observer.observe(place);
  }

  // series: [{ label, values, colour, dash }] with one value (or null) for each round.
  draw(rounds, series) {
    const key = JSON.stringify([series.map((one) => [one.label, one.colour, one.dash]), colour("ink")]);
    const data = [rounds, ...series.map((one) => one.values)];
    const said = JSON.stringify(data);
    if ((key === this.key && said === this.said) || !rounds.length) return;
    const isOther = key !== this.key;
    Object.assign(this, { key, said, data, series });
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
    this.observer.observe(this.place.querySelector(".u-legend"));
  }

  options(series) {
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    return {
      width: this.width,
      height: 100,
      cursor: { drag: { x: false, y: false } },
      scales: { x: { time: false, range: (_, low, high) => (this.bar ? [low - 0.6, high + 0.6] : [low, Math.max(high, low + 1)]) }, y: this.bar ? { range: (_, low, high) => [0, high * 1.05 || 1] } : {} },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], size: 26 }, { ...axis, size: 62, values: (_, ticks) => ticks.map(this.format) }],
      series: [
        { label: "round" },
        ...series.map((one) => ({
          label: one.label,
          stroke: colour(one.colour),
          fill: this.bar ? colour(one.colour) : undefined,
          width: this.bar ? 0 : 2,
          dash: one.dash,
          paths: this.bar ? uPlot.paths.bars({ size: [0.7, 40] }) : undefined,
          spanGaps: true,
          points: { show: (plot) => !this.bar && plot.data[0].length < 60, size: 5, fill: colour(one.colour) },
          value: (_, value) => this.format(value),
        })),
      ],
      // Where no round is pointed at, the legend has the values of the newest.
      hooks: { ready: [(plot) => this.newest(plot)], setCursor: [(plot) => plot.cursor.idx ?? this.newest(plot)] },
    };
  }

  newest(plot) {
    plot.setLegend({ idx: plot.data[0].length - 1 });
  }

  resize() {
    if (!this.width) return;
    const below = this.place.querySelector(".u-legend")?.offsetHeight ?? 0;
    const [width, height] = [this.width, Math.max(80, this.place.clientHeight - below)];
    if (this.plot.width !== width || this.plot.height !== height) this.plot.setSize({ width, height });
  }
}
