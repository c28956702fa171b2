// What all pages do: keep what is shown up to date, filter rows, say how long ago something was. Works without, too.
"use strict";

(() => {
  const message = document.getElementById("message");
  const leave = () => { location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`); };
  const parse = (text) => new DOMParser().parseFromString(text, "text/html").body;

  const fetched = async (place) => {
    const answer = await fetch(place, { headers: { "X-Requested-With": "fetch" } });
    if (answer.status === 401) { leave(); throw new Error("the session has ended"); }
    if (!answer.ok) throw new Error(`${place} answers ${answer.status}`);
    return parse(await answer.text());
  };

  // Makes `old` like `fresh` and keeps what is the same, so that focus, scroll and transitions live on.
  const morph = (old, fresh) => {
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open" && name !== "hidden") old.removeAttribute(name);
    for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value && name !== "open") old.setAttribute(name, value);
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

  // --- how long ago

  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const tick = () => {
    if (document.hidden) return;
    for (const time of document.querySelectorAll("[data-ago]")) {
      const seconds = Date.now() / 1000 - Number(time.dataset.ago);
      const unit = UNITS.find(([size]) => Math.abs(seconds) >= size);
      const text = unit ? `${Math.floor(Math.abs(seconds) / unit[0])} ${unit[1]}` : "";
      const said = !unit ? "just now" : seconds > 0 ? `${text} ago` : `in ${text}`;
      if (time.textContent !== said) time.textContent = said;
    }
  };
  setInterval(tick, 5_000);

  // --- the filter

  const filter = document.querySelector("[data-filter]");
  const sift = () => {
    const rows = document.querySelector(filter.dataset.filter);
    if (!rows) return;
    const words = filter.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const group of rows.querySelectorAll("[data-filtered]")) {
      let some = 0;
      for (const row of group.querySelectorAll("[data-text]")) {
        row.hidden = !words.every((word) => row.dataset.text.includes(word));
        if (!row.hidden) some += 1;
      }
      group.hidden = some === 0;
      left += some;
    }
    const none = document.getElementById("no-match");
    if (none) none.hidden = left > 0;
  };
  if (filter) filter.addEventListener("input", sift);

  // --- what happens

  // Runs `look` soon after it is wanted, never twice at a time, and at most once in `rest` milliseconds.
  const calmly = (look, rest) => {
    let busy = false;
    let again = false;
    const run = async () => {
      if (busy) { again = true; return; }
      busy = true;
      again = false;
      try { await look(); } catch (error) { /* The stream says when the server is out of reach. */ }
      setTimeout(() => { busy = false; if (again) run(); }, rest);
    };
    return run;
  };

  const root = document.querySelector("[data-live]");
  if (root && window.EventSource && window.crossfade?.live) {
    let heard = () => {};
    let back = () => {};
    if (root.dataset.liveRows) {
      const stale = new Set();
      const look = calmly(async () => {
        const keys = [...stale].slice(0, 100);
        keys.forEach((key) => stale.delete(key));
        if (!keys.length) return;
        const fresh = await fetched(`${root.dataset.liveRows}?keys=${keys.join(",")}`);
        for (const row of fresh.querySelectorAll("[data-key]")) {
          const old = document.getElementById(row.id);
          if (old) morph(old, row);
        }
        if (stale.size) look();
      }, 1200);
      const all = () => {
        root.querySelectorAll("[data-key]").forEach((row) => stale.add(row.dataset.key));
        look();
      };
      heard = (change) => {
        const known = [...root.querySelectorAll("[data-key]")].some((row) => row.dataset.key === change.key);
        if (known) { stale.add(change.key); look(); }
      };
      back = all;
      setTimeout(all, 3_000);
      setInterval(() => { if (!document.hidden) all(); }, 20_000);
    } else if (root.dataset.livePart) {
      const look = calmly(async () => {
        const fresh = await fetched(root.dataset.livePart);
        for (const part of fresh.querySelectorAll("[data-part]")) {
          const old = root.querySelector(`[data-part="${part.dataset.part}"]`);
          // Who has gone on to older rows keeps them.
          if (old && !(part.dataset.part === "rollouts" && old.querySelectorAll("tbody tr").length > part.querySelectorAll("tbody tr").length)) morph(old, part);
        }
        tick();
      }, 1000);
      const kinds = (root.dataset.liveKinds || "").split(" ").filter(Boolean);
      heard = (change) => { if (!kinds.length || kinds.includes(change.kind)) look(); };
      back = look;
      if (!kinds.length) {
        setTimeout(look, 2_000);
        setInterval(() => { if (!document.hidden) look(); }, 20_000);
      }
    } else if (root.dataset.liveEvents) {
      const MOST = 300;
      const look = calmly(async () => {
        const fresh = (await fetched(`${root.dataset.liveEvents}&after=${root.dataset.seq}`)).querySelector("ol");
        root.dataset.seq = fresh.dataset.seq;
        const known = new Set([...root.children].map((row) => row.dataset.event));
        root.prepend(...[...fresh.children].filter((row) => !known.has(row.dataset.event)));
        while (root.children.length > MOST) root.lastElementChild.remove();
        document.getElementById("no-events").hidden = root.children.length > 0;
      }, 1000);
      heard = look;
      back = look;
    }
    window.crossfade.live(root.dataset.live, root.dataset.seq, (change) => heard(change), () => back(), leave);
  }

  // --- what is looked at again by the clock

  for (const place of document.querySelectorAll("[data-refresh]")) {
    const logs = () => [...place.querySelectorAll(".log")];
    const bottom = () => logs().forEach((log) => { log.scrollTop = log.scrollHeight; });
    bottom();
    setInterval(async () => {
      if (document.hidden) return;
      try {
        const fresh = await fetched(place.dataset.refresh);
        const low = logs().map((log) => log.scrollTop + log.clientHeight >= log.scrollHeight - 4);
        const whole = place.cloneNode(false);
        whole.append(...fresh.childNodes);
        morph(place, whole);
        logs().forEach((log, i) => { if (low[i] !== false) log.scrollTop = log.scrollHeight; });
      } catch (error) {
        // As above.
      }
    }, Number(place.dataset.every));
  }

  // --- what htmx could not do

  document.body.addEventListener("htmx:responseError", (event) => {
    const { status, responseText } = event.detail.xhr;
    if (status === 401) { leave(); return; }
    message.textContent = parse(responseText).textContent.trim() || `The server answers ${status}.`;
    message.hidden = false;
  });
  document.body.addEventListener("htmx:sendError", () => {
    message.textContent = "The server does not answer. Try again.";
    message.hidden = false;
  });
  document.body.addEventListener("htmx:beforeRequest", () => { message.hidden = true; });
})();
