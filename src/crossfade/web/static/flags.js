// The targeting editor: who would get what, while one types. All of it can be had by the form's own buttons, too.
"use strict";

(() => {
  const form = document.getElementById("edit");
  const place = document.getElementById("preview");
  if (!form || !place || !form.dataset.preview) return;
  const REST = 350;
  let timer = 0;
  let coming = null;

  // --- what is wrong, beside its field

  const tell = (problems) => {
    const by = new Map();
    for (const one of problems) by.set(one.dataset.field, `${by.get(one.dataset.field) || ""}${one.textContent} `);
    for (const fault of document.querySelectorAll("[data-fault]")) {
      const said = by.get(fault.dataset.fault) || "";
      by.delete(fault.dataset.fault);
      if (fault.textContent !== said) fault.textContent = said;
      for (const field of document.querySelectorAll(`[aria-describedby="${CSS.escape(fault.id)}"]`)) {
        if (said) field.setAttribute("aria-invalid", "true");
        else field.removeAttribute("aria-invalid");
      }
    }
    // What has no field of its own stands above them all.
    const rest = form.querySelector('[data-fault=""]');
    if (rest && by.size) rest.textContent = `${rest.textContent}${[...by.values()].join(" ")}`;
  };

  // --- the rest of a split

  const rests = () => {
    for (const rule of form.querySelectorAll(".edit-rule")) {
      const rest = rule.querySelector(".rest")?.value;
      let left = 100;
      const shares = [...rule.querySelectorAll("[data-share]")];
      for (const share of shares) if (share.dataset.share !== rest) left -= Number(share.value.replace(",", ".")) || 0;
      for (const share of shares) {
        const takes = share.dataset.share === rest;
        share.readOnly = takes;
        if (takes) share.value = left < 0 ? "" : String(Math.round(left * 100) / 100);
      }
    }
  };

  // --- the preview

  const look = async () => {
    coming?.abort();
    const mine = new AbortController();
    coming = mine;
    place.classList.add("is-old");
    try {
      const answer = await fetch(form.dataset.preview, {
        method: "POST",
        body: new URLSearchParams(new FormData(form)),
        headers: { "X-Requested-With": "fetch" },
        signal: mine.signal,
      });
      if (answer.status === 401) { location.assign(`/login?next=${encodeURIComponent(location.pathname)}`); return; }
      const found = new DOMParser().parseFromString(await answer.text(), "text/html").body;
      if (!answer.ok) throw new Error(found.textContent.trim() || `The server answers ${answer.status}.`);
      // The details that somebody has opened stay open.
      const open = [...place.querySelectorAll("details")].map((one) => one.open);
      place.replaceChildren(...found.childNodes);
      [...place.querySelectorAll("details")].forEach((one, i) => { if (open[i]) one.open = true; });
      tell(place.querySelectorAll("[data-problems] li"));
      place.classList.remove("is-old");
      place.dataset.looks = String(Number(place.dataset.looks || 0) + 1);
    } catch (error) {
      if (error.name === "AbortError") return;
      const said = document.createElement("p");
      said.className = "refused";
      said.textContent = error instanceof TypeError ? "The server does not answer. It is tried again as you type." : error.message;
      place.prepend(said);
    }
  };
  const soon = () => {
    rests();
    place.classList.add("is-old");
    clearTimeout(timer);
    timer = setTimeout(look, REST);
  };
  form.addEventListener("input", soon);
  document.getElementById("contexts")?.addEventListener("input", soon);

  // On a narrow page it is out of sight: the button leads there.
  for (const button of form.querySelectorAll('[value="preview"]')) {
    button.addEventListener("click", (event) => {
      event.preventDefault();
      look();
      if (matchMedia("(max-width: 62rem)").matches) document.getElementById("preview-of").scrollIntoView();
    });
  }

  // What was typed is not lost by a slip: the browser asks.
  let changed = false;
  form.addEventListener("input", () => { changed = true; });
  form.addEventListener("submit", () => { changed = false; });
  addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });

  rests();
  place.dataset.live = "yes";
  look();
})();
