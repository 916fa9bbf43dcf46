// Charts of the last quarter of an hour. The server keeps the samples; here they are drawn.

import { at, fill, html, svg } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 150;
const MARGIN = { left: 68, right: 6, top: 8, bottom: 20 };
/** What a chart may span, in milliseconds: the least that shows all there is. */
const SPANS = [60_000, 120_000, 300_000, 900_000];
/** No line is drawn over a gap that is longer. */
const GAP_MS = 10_000;

const CHARTS = [
  { id: "throughput", title: "Throughput of data nodes", unit: format.bytesPerSecond, base: 1024, series: [["written_bytes_per_second", "written"], ["read_bytes_per_second", "read"]] },
  { id: "requests", title: "Requests to the leader", unit: format.perSecond, base: 1000, series: [["requests_per_second", "requests"], ["failed_per_second", "failed"]] },
  { id: "latency", title: "Latency of the leader", unit: format.micros, base: 1000, series: [["latency_p99_us", "99 %"], ["latency_p50_us", "median"]] },
  { id: "packets", title: "Packets in XDP and at edges", unit: format.perSecond, base: 1000, series: [["packets_per_second", "seen"], ["refused_per_second", "refused"]] },
];
const CLASSES = ["first", "second"];

/** The next round number, in steps that suit the unit. */
function nice(value, base) {
  const power = base ** Math.floor(Math.log(value) / Math.log(base));
  for (const step of [1, 2, 5, 10, 20, 50, 100, 200, 500]) {
    if (value <= power * step) return power * step;
  }
  return power * base;
}

class Chart {
  constructor({ id, title, unit, base, series }) {
    Object.assign(this, { title, unit, base, series });
    this.legend = html("div", { class: "legend" });
    this.canvas = svg("svg", { role: "img", height: HEIGHT });
    this.samples = [];
    this.figure = html("figure", { class: "card", "data-chart": id }, html("figcaption", {}, html("h3", {}, title), this.legend), this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
  }

  draw(samples) {
    this.samples = samples;
    this.width = Math.max(200, this.canvas.clientWidth || 400);
    this.canvas.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.end = samples.at(-1)?.time_ms ?? Date.now();
    const age = this.end - (samples[0]?.time_ms ?? this.end);
    this.span = SPANS.find((span) => age <= span) ?? SPANS.at(-1);
    const values = samples.flatMap((sample) => this.series.map(([key]) => sample[key] ?? 0));
    this.top = nice(Math.max(1, ...values), this.base);
    const parts = [...this.grid(), ...this.series.flatMap(([key], index) => this.curve(key, CLASSES[index]))];
    if (samples.length === 0) {
      parts.push(svg("text", { class: "empty", x: (this.width + MARGIN.left) / 2, y: HEIGHT / 2 }, "Measuring begins …"));
    }
    this.cursor = svg("line", { class: "cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" });
    fill(this.canvas, ...parts, this.cursor);
    this.tell(samples.at(-1));
  }

  x(time) {
    return this.width - MARGIN.right - ((this.end - time) / this.span) * (this.width - MARGIN.left - MARGIN.right);
  }

  y(value) {
    return HEIGHT - MARGIN.bottom - (value / this.top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  }

  grid() {
    const lines = [0, 0.5, 1].flatMap((share) => {
      const y = this.y(this.top * share);
      const text = share === 0 ? "0" : this.unit(this.top * share);
      return [
        svg("line", { class: "grid", x1: MARGIN.left, x2: this.width - MARGIN.right, y1: y, y2: y }),
        svg("text", { class: "scale", x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, text),
      ];
    });
    const minutes = this.span / 60_000;
    const words = [[0, "now", "end"], [0.5, `−${minutes / 2} min`, "middle"], [1, `−${minutes} min`, "start"]];
    const times = words.map(([share, text, anchor]) =>
      svg("text", { class: "scale", x: this.x(this.end - this.span * share), y: HEIGHT - 4, "text-anchor": anchor }, text),
    );
    return [...lines, ...times];
  }

  /** Stretches without a gap, each as a line with an area under it. */
  curve(key, className) {
    const stretches = [];
    let last = null;
    for (const sample of this.samples) {
      const value = sample[key];
      if (value === null || value === undefined) {
        last = null;
        continue;
      }
      if (last === null || sample.time_ms - last > GAP_MS) stretches.push([]);
      stretches.at(-1).push([this.x(sample.time_ms), this.y(value)]);
      last = sample.time_ms;
    }
    return stretches.flatMap((points) => {
      // One alone is a line to itself: a dot.
      if (points.length === 1) points.push(points[0]);
      const d = `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
      const floor = this.y(0);
      const area = `${d}L${points.at(-1)[0].toFixed(1)} ${floor}L${points[0][0].toFixed(1)} ${floor}Z`;
      return [svg("path", { class: `area ${className}`, d: area }), svg("path", { class: `line ${className}`, d })];
    });
  }

  /** What the pointer is at. */
  point(event) {
    if (event === null || this.samples.length === 0) {
      this.cursor?.setAttribute("visibility", "hidden");
      this.tell(this.samples.at(-1));
      return;
    }
    const box = this.canvas.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * this.width;
    const distance = (sample) => Math.abs(this.x(sample.time_ms) - at);
    const nearest = this.samples.reduce((best, sample) => (distance(sample) < distance(best) ? sample : best));
    const x = this.x(nearest.time_ms);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.cursor.setAttribute("visibility", "visible");
    this.tell(nearest, `${format.time(this.end - nearest.time_ms)} ago`);
  }

  tell(sample, when) {
    const words = this.series.map(([key, label]) => {
      const value = sample?.[key];
      return [label, value === null || value === undefined ? "–" : this.unit(value)];
    });
    const items = words.map(([label, value], index) =>
      html("span", { class: CLASSES[index] }, html("i", { "aria-hidden": "true" }), `${label} `, html("b", {}, value)),
    );
    if (when) items.push(html("span", {}, when));
    fill(this.legend, ...items);
    this.canvas.setAttribute("aria-label", `${this.title}: ${words.map((word) => word.join(" ")).join(", ")}`);
  }
}

const charts = CHARTS.map((chart) => new Chart(chart));

export function attach() {
  fill(at("charts"), ...charts.map((chart) => chart.figure));
}

export function draw(samples) {
  charts.forEach((chart) => chart.draw(samples));
}
