// Three charts of both arms of a rollout, and the same numbers as a table. Colours are those of the slots.
"use strict";

window.crossfade = window.crossfade || {};

window.crossfade.charts = (root) => {
  const KEPT = 900;
  const LEAST = 20; // seconds that a chart shows, however few are sampled
  const ROWS = 60;
  const candidate = root.dataset.candidate;
  const baseline = root.dataset.baseline;
  const slots = { candidate: root.dataset.slot, baseline: root.dataset.slot === "green" ? "blue" : "green" };
  const samples = [];
  const rate = (arm) => (arm.error_rate === null ? null : arm.error_rate * 100);
  const shown = {
    rps: { of: (arm) => arm.rps, text: (v) => `${v.toFixed(v < 10 ? 1 : 0)}/s` },
    errors: { of: rate, text: (v) => `${v.toFixed(v < 10 ? 2 : 0)} %` },
    p99: { of: (arm) => arm.p99_ms, text: (v) => `${v.toFixed(v < 10 ? 1 : 0)} ms` },
  };
  const figures = [...root.querySelectorAll("[data-chart]")];
  let plots = [];

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim() || "#888";

  const columns = (name) => [
    samples.map((s) => s.t),
    ...["baseline", "candidate"].map((arm) => samples.map((s) => shown[name].of(s.arms[arm]))),
  ];

  // A line where the weight of the candidate was moved.
  const marks = (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colour("--soft");
    ctx.fillStyle = colour("--soft");
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    ctx.font = `${10 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    let free = -Infinity;
    for (let i = 1; i < samples.length; i += 1) {
      if (samples[i].weight !== samples[i - 1].weight) {
        const x = Math.round(plot.valToPos(samples[i].t, "x", true));
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        const text = `${samples[i].weight / 100} %`;
        const wide = ctx.measureText(text).width + 6 * devicePixelRatio;
        if (x > free && x + wide < bbox.left + bbox.width) {
          ctx.fillText(text, x + 3 * devicePixelRatio, bbox.top + 10 * devicePixelRatio);
          free = x + wide;
        }
      }
    }
    ctx.restore();
  };

  // Not what uPlot finds in the data: of a single sample it makes no span at all.
  const span = () => {
    const last = samples[samples.length - 1].t;
    return [Math.min(samples[0].t, last - LEAST), last];
  };

  const build = () => {
    plots.forEach(({ plot }) => plot.destroy());
    plots = figures.map((figure) => {
      const name = figure.dataset.chart;
      const place = figure.querySelector(".chart-plot");
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false },
        font: "11px system-ui, sans-serif" };
      const line = (arm) => ({
        label: arm === "baseline" ? baseline : candidate,
        stroke: colour(`--${slots[arm]}`),
        width: 2,
        dash: arm === "baseline" ? [6, 3] : undefined,
        points: { show: (plot) => plot.data[0].length < 3, size: 5 },
        spanGaps: false,
      });
      const plot = new uPlot({
        width: Math.max(120, place.clientWidth),
        height: place.clientHeight,
        legend: { show: false },
        cursor: { show: false },
        padding: [8, 24, 0, 0],
        scales: { x: { range: span }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.15 : 1] } },
        axes: [
          { ...axis, size: 26, space: 70, values: (_, ticks) => ticks.map((t) => new Date(t * 1000).toISOString().slice(11, 19)) },
          { ...axis, size: 44, space: 32 },
        ],
        series: [{}, line("baseline"), line("candidate")],
        hooks: { draw: [marks] },
      }, columns(name), place);
      return { name, plot, place, figure };
    });
  };

  const redraw = () => {
    if (!samples.length) return;
    document.getElementById("charts-empty").hidden = true;
    if (!plots.length) build();
    const last = samples[samples.length - 1];
    for (const { name, plot, figure } of plots) {
      plot.setData(columns(name));
      const say = (arm) => {
        const value = shown[name].of(last.arms[arm]);
        return value === null ? "none" : shown[name].text(value);
      };
      const now = figure.querySelector("[data-now]");
      now.replaceChildren();
      for (const arm of baseline ? ["baseline", "candidate"] : ["candidate"]) {
        const part = document.createElement("span");
        part.className = `slot-${slots[arm]}`;
        part.textContent = `${arm === "baseline" ? baseline : candidate} ${say(arm)}`;
        now.append(part);
      }
    }
    table();
  };

  const table = () => {
    const numbers = document.getElementById("numbers");
    if (!numbers.open) return;
    const rows = samples.slice(-ROWS).reverse().map((s) => {
      const row = document.createElement("tr");
      const cells = [`${new Date(s.t * 1000).toISOString().slice(11, 19)}`, `${s.weight / 100} %`];
      for (const name of Object.keys(shown)) {
        for (const arm of ["baseline", "candidate"]) {
          const value = shown[name].of(s.arms[arm]);
          cells.push(value === null ? "none" : shown[name].text(value));
        }
      }
      for (const text of cells) {
        row.insertCell().textContent = text;
      }
      return row;
    });
    numbers.querySelector("tbody").replaceChildren(...rows);
  };

  document.getElementById("numbers").addEventListener("toggle", table);
  new ResizeObserver(() => {
    for (const { plot, place } of plots) {
      if (Math.abs(plot.width - place.clientWidth) > 1 && place.clientWidth > 120) {
        plot.setSize({ width: place.clientWidth, height: place.clientHeight });
      }
    }
  }).observe(document.getElementById("charts"));
  const recolour = () => { if (plots.length) build(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  new MutationObserver(recolour).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "class"] });

  let waiting = false;
  return {
    // Takes samples in any order, none twice: those of the past come after the first live ones.
    add(more) {
      const known = new Set(samples.map((s) => s.t));
      const fresh = more.filter((s) => !known.has(s.t));
      if (!fresh.length) return;
      samples.push(...fresh);
      if (fresh.length > 1 || (samples.length > 1 && fresh[0].t < samples[samples.length - 2].t)) {
        samples.sort((a, b) => a.t - b.t);
      }
      samples.splice(0, samples.length - KEPT);
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; redraw(); });
    },
  };
};
