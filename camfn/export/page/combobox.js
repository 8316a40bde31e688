"use strict";
// A field in which a class is found by typing a part of its name or its number (the ARIA pattern "combobox").
(camfn => {
  const MOST = 50;

  // `names`: the words of each class; `choose(k)` is called with the class that is picked.
  function combobox(input, list, names, choose) {
    const lower = names.map(name => name.toLowerCase());
    let found = [], active = -1;

    function search(words) {
      const wanted = words.trim().toLowerCase(), hits = [...names.keys()].filter(k => lower[k].includes(wanted));
      const rank = k => {
        if (lower[k] === wanted || String(k) === wanted) return 0;
        if (lower[k].split(/[^\p{L}\p{N}]+/u).includes(wanted)) return 1; // a whole word
        return lower[k].startsWith(wanted) ? 2 : lower[k].includes(` ${wanted}`) ? 3 : 4;
      };
      if (/^\d+$/.test(wanted) && Number(wanted) < names.length && !hits.includes(Number(wanted))) hits.push(Number(wanted));
      return wanted ? hits.sort((a, b) => rank(a) - rank(b) || a - b).slice(0, MOST) : [];
    }

    function mark(k) {
      active = k;
      [...list.children].forEach((item, at) => item.setAttribute("aria-selected", at === k));
      if (k < 0) return input.removeAttribute("aria-activedescendant");
      input.setAttribute("aria-activedescendant", list.children[k].id);
      list.children[k].scrollIntoView({ block: "nearest" });
    }

    function close() {
      list.hidden = true;
      input.setAttribute("aria-expanded", "false");
      mark(-1);
    }

    function openList() {
      found = search(input.value);
      const none = !found.length && input.value.trim() !== "";
      list.replaceChildren(...(none ? [row("No such class")] : found.map((k, at) => row(names[k], at))));
      list.hidden = !list.children.length;
      input.setAttribute("aria-expanded", String(!list.hidden));
      mark(found.length ? 0 : -1);
    }

    // A line of the list; without a place it cannot be chosen.
    function row(words, at) {
      const item = document.createElement("li");
      Object.assign(item, { id: `${list.id}-${at ?? "none"}`, textContent: words });
      item.setAttribute("role", "option");
      if (at === undefined) item.setAttribute("aria-disabled", "true");
      item.addEventListener("pointerdown", event => event.preventDefault()); // the field keeps the focus
      if (at !== undefined) item.addEventListener("click", () => pick(at));
      return item;
    }

    function pick(at) {
      close();
      choose(found[at]);
      input.value = names[found[at]];
    }

    input.addEventListener("input", openList);
    input.addEventListener("focus", () => input.select());
    input.addEventListener("blur", close);
    input.addEventListener("keydown", event => {
      const { key } = event, count = found.length;
      if (list.hidden) {
        if (key === "ArrowDown" || key === "Enter") openList();
        else return;
      } else if (key === "ArrowDown") mark(count ? (active + 1) % count : -1);
      else if (key === "ArrowUp") mark(count ? (active + count - 1) % count : -1);
      else if (key === "Enter" && active >= 0) pick(active);
      else if (key === "Escape") close();
      else return;
      event.preventDefault();
    });
  }

  Object.assign(camfn, { combobox });
})((globalThis.camfn ??= {}));
