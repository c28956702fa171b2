// The pages of runs: how long what is under way has taken, and a log as it is written. All is there without, too.
"use strict";

(() => {
  // --- durations, as the server says them

  const said = (seconds) => {
    if (seconds < 99.95) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
    const whole = Math.round(seconds);
    const two = (number) => String(number).padStart(2, "0");
    if (whole < 3600) return `${Math.floor(whole / 60)} m ${two(whole % 60)} s`;
    return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} m`;
  };
  setInterval(() => {
    if (document.hidden) return;
    for (const place of document.querySelectorAll("[data-lasts]")) {
      place.textContent = said(Math.max(0, Date.now() / 1000 - Number(place.dataset.lasts)));
    }
  }, 1000);

  // --- the log

  const log = document.getElementById("run-log");
  if (!log || log.dataset.ended === "yes") {
    if (log) log.scrollTop = log.scrollHeight;
    return;
  }
  const KEPT = 400_000; // characters: a browser that shows more of them becomes slow
  const EVERY = 700;
  // What a terminal obeys, and what turns the direction of text: as the server leaves it out.
  const ESCAPES = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;
  const TURNING = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
  const plain = (line) => {
    const whole = line.replace(/\r+$/, "");
    return whole.slice(whole.lastIndexOf("\r") + 1).replace(ESCAPES, "").replace(TURNING, "\ufffd");
  };
  const done = log.firstChild || log.appendChild(document.createTextNode(""));
  const open = log.appendChild(document.createTextNode("")); // a line that has not ended
  const says = document.getElementById("log-says");
  let rest = "";
  let next = Number(log.dataset.next);

  const add = (text) => {
    const low = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    if (lines.length) {
      done.appendData(`${lines.map(plain).join("\n")}\n`);
      if (done.length > KEPT) done.deleteData(0, done.data.indexOf("\n", done.length - KEPT) + 1);
    }
    open.data = plain(rest);
    if (low) log.scrollTop = log.scrollHeight;
  };
  const look = async () => {
    let wait = EVERY;
    try {
      if (!document.hidden) {
        const answer = await fetch(`${log.dataset.log}?offset=${next}`, { headers: { "X-Requested-With": "fetch" } });
        if (answer.status === 401) { location.assign(`/login?next=${encodeURIComponent(location.pathname)}`); return; }
        if (!answer.ok) throw new Error(`the log answers ${answer.status}`);
        const part = await answer.json();
        // A stage that is done again begins a log of its own.
        if (part.size < next) { next = 0; rest = ""; done.data = ""; open.data = ""; setTimeout(look, EVERY); return; }
        next = part.next;
        if (part.text) add(part.text);
        if (part.ended) { says.textContent = "This is its end."; log.dataset.ended = "yes"; return; }
        if (part.text) wait = 100;
      }
    } catch (error) {
      wait = 3000; // the stream of the page says that the server is out of reach
    }
    setTimeout(look, wait);
  };
  log.scrollTop = log.scrollHeight;
  log.dataset.live = "yes";
  look();
})();
