// The page of a rollout, kept fresh: its parts are fetched when something has happened, its charts fed with samples.
"use strict";

(() => {
  const root = document.getElementById("rollout");
  if (!root) return;
  const base = `/rollouts/${root.dataset.id}`;
  const charts = window.uPlot ? window.crossfade.charts(root) : { add() {} };
  const ask = document.getElementById("ask");
  let ended = root.dataset.ended === "yes";

  const leave = () => { location.assign(`/login?next=${encodeURIComponent(location.pathname)}`); };

  const fetched = async (place, options = {}) => {
    const answer = await fetch(place, { ...options, headers: { "X-Requested-With": "fetch", ...options.headers } });
    if (answer.status === 401 || (answer.redirected && new URL(answer.url).pathname === "/login")) {
      leave();
      throw new Error("the session has ended");
    }
    return answer;
  };

  const parse = (text) => new DOMParser().parseFromString(text, "text/html").body;

  // Makes `old` like `fresh` and keeps what is the same: focus, scroll and transitions live on.
  const morph = (old, fresh) => {
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value && name !== "open") old.setAttribute(name, value);
    }
    const [was, will] = [[...old.childNodes], [...fresh.childNodes]];
    will.forEach((node, i) => {
      const there = was[i];
      if (!there) old.append(node);
      else if (there.nodeType === node.nodeType && there.nodeName === node.nodeName) {
        if (node.nodeType === Node.ELEMENT_NODE) morph(there, node);
        else if (there.nodeValue !== node.nodeValue) there.nodeValue = node.nodeValue;
      } else there.replaceWith(node);
    });
    was.slice(will.length).forEach((node) => node.remove());
  };

  // --- the parts, at most twice a second

  let refreshing = false;
  let again = false;
  const refresh = async () => {
    if (refreshing) { again = true; return; }
    refreshing = true;
    again = false;
    try {
      const answer = await fetched(`${base}/part`);
      if (answer.ok) {
        const fresh = parse(await answer.text());
        for (const part of fresh.querySelectorAll("[data-part]")) {
          const old = root.querySelector(`[data-part="${part.dataset.part}"]`);
          if (old) morph(old, part);
        }
        const head = root.querySelector('[data-part="head"]');
        ended = head.dataset.ended === "yes";
        if (head.dataset.judged === "yes") document.getElementById("plots").hidden = false;
        if (ended) lastLooks();
        countFrom = performance.now();
      }
    } catch (error) {
      // The stream says when the server is out of reach.
    } finally {
      setTimeout(() => { refreshing = false; if (again) refresh(); }, 500);
    }
  };

  let countFrom = performance.now();
  setInterval(() => {
    for (const left of root.querySelectorAll("[data-left]")) {
      const seconds = Math.ceil(Number(left.dataset.left) - (performance.now() - countFrom) / 1000);
      const minutes = seconds >= 60 ? `${Math.floor(seconds / 60)} m ${String(seconds % 60).padStart(2, "0")}` : seconds;
      left.textContent = seconds > 0 ? `${minutes} s left` : "until it is sure";
    }
  }, 1000);

  // --- plots and logs, now and then

  const plots = () => {
    if (document.hidden || document.getElementById("plots").hidden) return;
    for (const image of root.querySelectorAll("[data-plot]")) {
      const next = new Image();
      next.addEventListener("load", () => { image.src = next.src; });
      next.src = `${image.dataset.plot}?at=${Date.now()}`;
    }
  };
  const logs = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetched(`${base}/logs`);
      if (!answer.ok) return;
      const place = document.getElementById("logs");
      const low = [...place.querySelectorAll(".log")].map((log) => log.scrollTop + log.clientHeight >= log.scrollHeight - 4);
      const fresh = document.createElement("div");
      fresh.id = "logs";
      fresh.append(...parse(await answer.text()).childNodes);
      morph(place, fresh);
      [...place.querySelectorAll(".log")].forEach((log, i) => { if (low[i] !== false) log.scrollTop = log.scrollHeight; });
    } catch (error) {
      // As above.
    }
  };
  const often = ended ? [] : [setInterval(plots, 10_000), setInterval(logs, 3_000)];
  const lastLooks = () => {
    if (!often.length) return;
    often.splice(0).forEach(clearInterval);
    setTimeout(logs, 500);
    setTimeout(plots, 6_000); // all who watch are shown a plot for five seconds: then comes one of the end
  };
  root.querySelectorAll(".log").forEach((log) => { log.scrollTop = log.scrollHeight; });

  // --- what happens

  let looked = 0;
  let state = "";
  const heard = (change) => {
    if (change.kind === "sample") charts.add([change.data]);
    const told = change.kind === "rollout" ? JSON.stringify(change.data) : state;
    // The judge says something new about once a second; its words need not follow each of them.
    const small = change.kind === "sample" || (change.kind === "rollout" && told === state);
    state = told;
    if (small && Date.now() - looked < 2000) return;
    looked = Date.now();
    refresh();
  };
  const catchUp = async () => {
    refresh();
    try {
      const answer = await fetched(`${base}/samples`);
      if (answer.ok) charts.add(await answer.json());
    } catch (error) {
      // As above.
    }
  };
  window.crossfade.live(`/live?rollout=${root.dataset.id}`, root.dataset.seq, heard, catchUp, leave);
  catchUp();

  // --- orders

  const show = (text) => {
    ask.replaceChildren(...parse(text).childNodes);
    if (!ask.querySelector("[data-close]")) {
      const close = document.createElement("button");
      close.className = "button";
      close.dataset.close = "";
      close.textContent = "Close";
      ask.append(close);
    }
    if (!ask.open) ask.showModal();
    ask.querySelector("[autofocus], [data-close]")?.focus();
  };
  root.addEventListener("click", async (event) => {
    const link = event.target.closest("[data-ask]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || typeof ask.showModal !== "function") return;
    event.preventDefault();
    try {
      const answer = await fetched(link.href);
      if (answer.ok) show(await answer.text());
      else location.assign(link.href);
    } catch (error) {
      location.assign(link.href);
    }
  });
  ask.addEventListener("click", (event) => {
    if (!event.target.closest("[data-close]") && event.target !== ask) return;
    event.preventDefault();
    ask.close();
  });
  ask.addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target;
    const button = form.querySelector("[type=submit]");
    if (button.disabled) return;
    button.disabled = true;
    try {
      const body = new URLSearchParams(new FormData(form));
      const answer = await fetched(form.action, { method: "POST", body });
      const place = answer.headers.get("X-Go-To");
      if (place && place !== location.pathname) location.assign(place);
      else if (place) { ask.close(); refresh(); }
      else show(await answer.text());
    } catch (error) {
      // The form acts once, whichever way it is sent: without an answer it may be sent again.
      button.disabled = false;
      const said = form.querySelector(".ask-error") || form.insertBefore(document.createElement("p"), form.querySelector(".ask-what"));
      said.className = "ask-error";
      said.setAttribute("role", "alert");
      said.textContent = "The server does not answer. Try again: it will be done once.";
    }
  });
  root.dataset.live = "yes";
})();
