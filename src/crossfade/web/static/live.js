// One stream of what happens for a page, which says when it is lost and comes back by itself where it was.
"use strict";

window.crossfade = window.crossfade || {};

// `heard` is told each change, `back` that the stream is there again, `bye` that the session has ended.
window.crossfade.live = (place, after, heard, back, bye) => {
  const bar = document.getElementById("connection");
  const FIRST = 500;
  const MOST = 8_000;
  const HIDDEN = 60_000;
  let last = after;
  let source = null;
  let wait = FIRST;
  let lost = null;
  let timer = 0;

  const say = () => {
    if (!bar) return;
    bar.hidden = lost === null;
    if (lost !== null) bar.textContent = `The connection is lost since ${lost.toISOString().slice(11, 19)} UTC: what you see may be old. It is tried again.`;
  };
  const open = () => {
    clearTimeout(timer);
    if (source) source.close();
    source = new EventSource(last ? `${place}${place.includes("?") ? "&" : "?"}after=${last}` : place);
    source.addEventListener("open", () => {
      wait = FIRST;
      if (lost === null) return;
      lost = null;
      say();
      back();
    });
    source.addEventListener("message", (event) => {
      if (event.lastEventId) last = event.lastEventId;
      const change = JSON.parse(event.data);
      if (change.kind === "reset") back();
      else heard(change);
    });
    source.addEventListener("bye", () => { source.close(); bye(); });
    source.addEventListener("error", () => {
      lost = lost || new Date();
      // A stream that ends for a moment is no news.
      setTimeout(say, 1500);
      if (source.readyState !== EventSource.CLOSED) return;
      // The browser does not say why it was refused. A session that has ended does not come back by waiting.
      fetch(location.pathname, { headers: { "X-Requested-With": "fetch" } })
        .then((answer) => { if (answer.status === 401) bye(); }, () => {});
      timer = setTimeout(open, wait);
      wait = Math.min(MOST, wait * 2);
    });
  };
  // A browser has few connections to a server: a page that nobody looks at gives its own back.
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => { source.close(); source = null; }, HIDDEN);
    else if (!source) { open(); back(); }
  });
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  open();
};
