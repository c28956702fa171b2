// The curves of objectives: what share was bad, and what was left of the budget. A gap in what is known is a gap in them.
"use strict";

(() => {
  const figures = [...document.querySelectorAll("[data-curve]")];
  if (!figures.length) return;
  const EVERY = { hour: 5_000, day: 30_000, window: 60_000 };
  const ROWS = 400;
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#888";
  const two = (number) => String(number).padStart(2, "0");
  const clock = (t, seconds) => {
    const at = new Date(t * 1000);
    const day = `${MONTHS[at.getUTCMonth()]} ${at.getUTCDate()}`;
    const time = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
    if (seconds > 3 * 86400) return day;
    return seconds > 7200 ? time : `${time}:${two(at.getUTCSeconds())}`;
  };
  const percent = (value) => {
    if (value === null) return "none";
    if (value === 0 || value === 100) return `${value} %`;
    const size = Math.abs(value);
    return size < 0.01 ? "< 0.01 %" : `${value.toFixed(size < 1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0)} %`;
  };
  const last = (column) => {
    for (let i = column.length - 1; i >= 0; i -= 1) if (column[i] !== null) return column[i];
    return null;
  };
  let span = "hour";

  const make = (figure) => {
    const name = figure.dataset.curve;
    const spans = figure.dataset.spans.trim().split(" ");
    const place = figure.querySelector(".chart-plot");
    const now = figure.querySelector("[data-now]");
    let data = null;
    let plot = null;
    let timer = 0;

    // Times of which nothing is known are shaded, behind the curve.
    const shade = (chart) => {
      const { ctx, bbox } = chart;
      ctx.save();
      ctx.fillStyle = colour("--line");
      for (const [from, to] of data.gaps) {
        const left = Math.max(bbox.left, chart.valToPos(from, "x", true));
        const right = Math.min(bbox.left + bbox.width, chart.valToPos(to, "x", true));
        if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
      }
      ctx.restore();
    };
    // What is promised: the share of bad ones that may be, or no budget left.
    const limit = (chart) => {
      const at = name === "bad" ? data.limit : 0;
      const { ctx, bbox } = chart;
      const y = Math.round(chart.valToPos(at, "y", true));
      if (y < bbox.top || y > bbox.top + bbox.height) return;
      ctx.save();
      ctx.strokeStyle = colour("--red");
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.restore();
    };
    const range = (_, low, high) => {
      if (name === "left") return [Math.min(0, low ?? 0), 105];
      return [0, Math.max(high ?? 0, data.limit) * 1.2 || 1];
    };
    const draw = () => {
      if (plot) plot.destroy();
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      const whole = data.ends - data.begins;
      plot = new uPlot({
        width: Math.max(120, place.clientWidth),
        height: place.clientHeight,
        legend: { show: false },
        cursor: { show: false },
        padding: [8, 24, 0, 0],
        scales: { x: { range: () => [data.begins, data.ends] }, y: { range } },
        axes: [
          { ...axis, size: 26, space: 70, values: (_, ticks) => ticks.map((t) => clock(t, whole)) },
          { ...axis, size: 48, space: 32 },
        ],
        series: [{}, { stroke: colour("--ink"), width: 1.5, spanGaps: false, points: { show: (chart, _, from, to) => to - from < 3, size: 4, fill: colour("--ink") } }],
        hooks: { drawClear: [shade], draw: [limit] },
      }, [data.at, data[name]], place);
    };
    const look = async () => {
      clearTimeout(timer);
      const wanted = spans.includes(span) ? span : spans[spans.length - 1];
      try {
        if (!document.hidden) {
          const answer = await fetch(`${figure.dataset.history}&span=${wanted}`, { headers: { "X-Requested-With": "fetch" } });
          if (answer.status === 401) { location.assign(`/login?next=${encodeURIComponent(location.pathname)}`); return; }
          if (answer.ok) {
            data = await answer.json();
            draw();
            figure.dataset.drawn = wanted;
            const value = last(data[name]);
            now.textContent = value === null ? "nothing is known" : `${percent(value)} ${name === "bad" ? "lately" : "now"}`;
            if (name === "bad") table();
          }
        }
      } catch (error) {
        // The stream of the page says that the server is out of reach.
      }
      timer = setTimeout(look, EVERY[wanted]);
    };
    const numbers = figure.parentElement.querySelector(".numbers");
    const table = () => {
      if (!numbers.open || !data) return;
      const rows = [];
      for (let i = data.at.length - 1; i >= 0 && rows.length < ROWS; i -= 1) {
        const row = document.createElement("tr");
        const gap = data.gaps.some(([from, to]) => data.at[i] > from && data.at[i] <= to);
        row.insertCell().textContent = new Date(data.at[i] * 1000).toISOString().slice(0, 19).replace("T", " ");
        const cell = row.insertCell();
        cell.className = "num";
        cell.textContent = gap ? "not known" : data.bad[i] === null ? "no requests" : percent(data.bad[i]);
        rows.push(row);
      }
      numbers.querySelector("tbody").replaceChildren(...rows);
    };
    if (name === "bad") numbers.addEventListener("toggle", table);
    new ResizeObserver(() => {
      if (plot && Math.abs(plot.width - place.clientWidth) > 1 && place.clientWidth > 120) plot.setSize({ width: place.clientWidth, height: place.clientHeight });
    }).observe(place);
    look();
    return { look, redraw: () => { if (data) draw(); } };
  };

  const curves = figures.map(make);
  const group = document.querySelector(".ranges");
  group.hidden = false;
  for (const button of group.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      span = button.dataset.span;
      for (const each of group.querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === button));
      curves.forEach((curve) => curve.look());
    });
  }
  const recolour = () => curves.forEach((curve) => curve.redraw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) curves.forEach((curve) => curve.look()); });
})();
