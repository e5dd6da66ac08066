// The accuracy curve: a uPlot chart for the eye, the same numbers as a table for a screen reader.

import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { percent } from "../format.js";
import { measured } from "../rounds.js";
import { Empty, Panel } from "./panel.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function optionsOf(box, onHover) {
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const axis = { stroke: color("--muted"), font, grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
  return {
    width: box.clientWidth,
    height: box.clientHeight,
    legend: { show: false },
    cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
    scales: {
      x: { time: false, range: (_, min, max) => [Math.min(min, 1) - 0.3, Math.max(max, 5) + 0.3] },
      y: { range: (_, min, max) => [Math.max(0, Math.floor(min / 10) * 10 - 5), Math.min(100, Math.ceil((max + 1) / 10) * 10)] },
      loss: { range: (_, min, max) => [0, Math.max(max * 1.1, 0.1)] },
    },
    axes: [
      { ...axis, size: 26, gap: 4, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100], space: 28 },
      { ...axis, size: 44, values: (_, ticks) => ticks.map((tick) => `${tick} %`) },
      { ...axis, side: 1, scale: "loss", size: 36, grid: { show: false }, values: (_, ticks) => ticks.map((tick) => tick.toFixed(1)) },
    ],
    series: [
      {},
      {
        label: "Accuracy", stroke: color("--accent"), width: 2, fill: color("--accent-wash"),
        points: { show: true, size: 5, fill: color("--accent") },
      },
      { label: "Loss", scale: "loss", stroke: color("--muted"), width: 1.25, dash: [4, 4], points: { show: false } },
    ],
    hooks: { setCursor: [(plot) => onHover(plot.cursor.idx)] },
  };
}

function Chart({ points, onHover, label }) {
  const box = useRef(null);
  const plot = useRef(null);
  const data = [
    points.map((round) => round.number),
    points.map((round) => round.accuracy * 100),
    points.map((round) => round.loss ?? null),
  ];
  const newest = useRef(data);
  newest.current = data;

  useEffect(() => {
    const draw = () => {
      plot.current?.destroy();
      plot.current = new globalThis.uPlot(optionsOf(box.current, onHover), newest.current, box.current);
    };
    draw();
    const resize = new ResizeObserver(() => {
      plot.current.setSize({ width: box.current.clientWidth, height: box.current.clientHeight });
    });
    resize.observe(box.current);
    DARK.addEventListener("change", draw);
    return () => {
      resize.disconnect();
      DARK.removeEventListener("change", draw);
      plot.current.destroy();
      plot.current = null;
    };
  }, []);

  useEffect(() => plot.current?.setData(newest.current), [JSON.stringify(data)]);

  return html`<div class="chart" role="img" aria-label=${label} ref=${box}></div>`;
}

function Numbers({ points }) {
  return html`<table class="hidden" data-testid="accuracy-table">
    <caption>Test accuracy and loss by round</caption>
    <thead><tr><th scope="col">Round</th><th scope="col">Accuracy</th><th scope="col">Loss</th></tr></thead>
    <tbody>
      ${points.map((round) => html`<tr key=${round.number}>
        <th scope="row">${round.number}</th><td>${percent(round.accuracy)}</td><td>${round.loss?.toFixed(3) ?? "–"}</td>
      </tr>`)}
    </tbody>
  </table>`;
}

export function AccuracyPanel({ rounds, error }) {
  const [hovered, setHovered] = useState(null);
  const points = measured(rounds ?? []);
  const last = points[points.length - 1];
  const shown = points[hovered] ?? last;
  const best = points.reduce((top, round) => (!top || round.accuracy > top.accuracy ? round : top), null);
  const label = last
    ? `Test accuracy by round, from ${percent(points[0].accuracy)} in round ${points[0].number} to ${percent(last.accuracy)} in round ${last.number}`
    : "";
  const legend = html`<ul class="legend"><li class="key-accuracy">accuracy</li><li class="key-loss">loss</li></ul>`;
  return html`
    <${Panel} id="accuracy-title" title="Accuracy" aside=${last ? legend : null} className="accuracy" error=${error}>
      ${last
        ? html`
          <div class="readout">
            <p><b data-testid="accuracy">${percent(shown.accuracy)}</b> round ${shown.number}${shown.loss === null || shown.loss === undefined ? "" : ` · loss ${shown.loss.toFixed(3)}`}</p>
            <p>best ${percent(best.accuracy)} in round ${best.number}</p>
          </div>
          <${Chart} points=${points} onHover=${setHovered} label=${label} />
          <${Numbers} points=${points} />`
        : rounds === null
          ? html`<${Empty} title="No curve yet">The test accuracy of every round appears here.<//>`
          : html`<${Empty} title="No round completed yet">The first point appears when round 1 is aggregated and evaluated.<//>`}
    <//>
  `;
}
