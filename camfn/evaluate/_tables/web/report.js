const DATA = JSON.parse(document.getElementById("data").textContent);
const NAMESPACE = "http://www.w3.org/2000/svg";

/** Add a part to a drawing; texts are text, whatever is in them. */
function add(parent, tag, attributes, text) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

const cut = (text, length) => (text.length > length ? text.slice(0, Math.max(1, length - 1)) + "…" : text);
const three = (value) => (Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 0.001) ? value.toExponential(1) : value.toFixed(3));

/** Numbers at which an axis has a tick: round ones, some five of them. */
function ticks(low, high) {
  if (!(high > low)) return [low];
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((each) => each >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-6; k++) found.push(k * step);
  return found;
}
const labelled = (value, all) => (all.length > 1 ? value.toFixed(Math.max(0, Math.min(6, -Math.floor(Math.log10(all[1] - all[0]) + 1e-9)))) : three(value));

/** Empty a drawing and give it the width that it has on the page. */
function canvas(svg, height) {
  const width = Math.max(280, svg.clientWidth || 600);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  return width;
}

/** Draw each method's mean and interval on a line, the best above. */
function forest(svg, rows, key) {
  const height = rows.length * 19 + 34, width = canvas(svg, height), left = Math.min(190, width * 0.38);
  const ends = rows.flatMap((row) => row.m[key].slice(0, 3)).filter((value) => value !== null);
  const low = Math.min(...ends), high = Math.max(...ends);
  const x = (value) => left + 10 + ((value - low) / (high - low || 1)) * (width - left - 24);
  const center = rows.find((row) => row.center)?.m[key];
  if (center && center[1] !== null) add(svg, "rect", { class: "band", x: x(center[1]), y: 2, width: Math.max(1, x(center[2]) - x(center[1])), height: height - 26 });
  if (center) add(svg, "line", { class: "grid", x1: x(center[0]), x2: x(center[0]), y1: 2, y2: height - 24, "stroke-dasharray": "3 3" });
  rows.forEach((row, place) => {
    const y = 13 + place * 19, [value, from, to, rank] = row.m[key], look = row.base || !rank ? "far" : rank === 2 ? "best" : "";
    add(svg, "text", { x: left, y: y + 4, "text-anchor": "end", class: row.base ? "q" : "" }, cut(row.n, Math.floor(left / 6.9)));
    if (from !== null) add(svg, "line", { class: `line ${look}`, x1: x(from), x2: x(to), y1: y, y2: y, "stroke-width": 2, opacity: 0.55 });
    const dot = add(svg, "circle", { class: `dot ${look}`, cx: x(value), cy: y, r: 4 });
    add(dot, "title", {}, `${row.n}: ${three(value)}${from === null ? "" : ` [${three(from)}, ${three(to)}]`}`);
  });
  const all = ticks(low, high);
  for (const value of all) add(svg, "text", { x: x(value), y: height - 6, "text-anchor": "middle", class: "q" }, labelled(value, all));
}

/** Draw each method's mean against its cost; those that nothing cheaper beats have a ring and a name. */
function cost(svg, rows, key, up) {
  const shown = rows.filter((row) => !row.base && row.f > 0), height = 420, width = canvas(svg, height);
  if (!shown.length) return false;
  const costs = shown.map((row) => Math.log10(row.f)), means = shown.map((row) => row.m[key][0]);
  // a decade at least, so that costs that are nearly the same stand together
  const spare = Math.max(0, 1 - (Math.max(...costs) - Math.min(...costs))) / 2, [a, b] = [Math.min(...costs) - spare, Math.max(...costs) + spare], [low, high] = [Math.min(...means), Math.max(...means)];
  const x = (f) => 52 + ((Math.log10(f) - a) / (b - a || 1)) * (width - 150), y = (value) => height - 42 - ((value - low) / (high - low || 1)) * (height - 70);
  for (let power = Math.ceil(a - 1e-9); power <= b + 1e-9; power++) {
    add(svg, "line", { class: "grid", x1: x(10 ** power), x2: x(10 ** power), y1: 12, y2: height - 34 });
    add(svg, "text", { x: x(10 ** power), y: height - 18, "text-anchor": "middle", class: "q" }, `${10 ** power}`);
  }
  add(svg, "text", { x: width / 2, y: height - 2, "text-anchor": "middle", class: "q" }, "forwards, logarithmic");
  const all = ticks(low, high);
  for (const value of all) add(svg, "text", { x: 44, y: y(value) + 4, "text-anchor": "end", class: "q" }, labelled(value, all));
  const better = (one, other) => (up ? one > other : one < other);
  const front = new Set(shown.filter((row) => !shown.some((other) => other !== row && other.f <= row.f * 1.05 && better(other.m[key][0], row.m[key][0]))));
  const taken = shown.map((row) => ({ x: x(row.f) - 5, y: y(row.m[key][0]) + 4, width: 10 }));
  const order = [...shown].sort((one, other) => front.has(other) - front.has(one) || (better(one.m[key][0], other.m[key][0]) ? -1 : 1));
  for (const row of order) {
    const at = [x(row.f), y(row.m[key][0])], name = cut(row.n.split(":")[0], 24), wide = name.length * 6.4 + 8;
    const flip = at[0] + wide + 10 > width, start = flip ? at[0] - 10 - wide : at[0] + 10;
    const free = start > 0 && !taken.some((one) => Math.abs(one.y - at[1] - 4) < 12 && start < one.x + one.width && start + wide > one.x);
    if (front.has(row)) add(svg, "circle", { class: "ring", cx: at[0], cy: at[1], r: 7.5 });
    const dot = add(svg, "circle", { class: `dot ${front.has(row) ? "front" : ""}`, cx: at[0], cy: at[1], r: 4.5 });
    add(dot, "title", {}, `${row.n}: ${three(row.m[key][0])} at ${row.f.toPrecision(3)} forwards`);
    if (!free) continue;
    taken.push({ x: start, y: at[1] + 4, width: wide });
    add(svg, "text", { x: flip ? at[0] - 10 : at[0] + 10, y: at[1] + 4, "text-anchor": flip ? "end" : "start" }, name);
  }
  return true;
}

/** Draw mean curves; the five best and the baselines have names at the right end. */
function curve(svg, rows, key, step) {
  const shown = rows.filter((row) => row.c?.[key]), height = 340, width = canvas(svg, height), right = Math.min(190, width * 0.36);
  if (!shown.length) return false;
  const high = Math.max(...shown.flatMap((row) => row.c[key])), low = Math.min(0, ...shown.flatMap((row) => row.c[key]));
  const x = (place) => 44 + Math.min(1, place * step) * (width - 54 - right), y = (value) => height - 40 - ((value - low) / (high - low || 1)) * (height - 56);
  const all = ticks(low, high);
  for (const value of all) {
    add(svg, "line", { class: "grid", x1: 44, x2: width - 10 - right, y1: y(value), y2: y(value), opacity: 0.6 });
    add(svg, "text", { x: 38, y: y(value) + 4, "text-anchor": "end", class: "q" }, labelled(value, all));
  }
  for (const share of [0, 0.5, 1]) add(svg, "text", { x: x(share / step), y: height - 22, "text-anchor": "middle", class: "q" }, `${share * 100} %`);
  const best = shown.filter((row) => !row.base).slice(0, 5), named = [...best, ...shown.filter((row) => row.base)];
  const look = (row) => (row.base ? "baseline" : best.includes(row) ? `c${best.indexOf(row)}` : "rest");
  for (const row of [...shown].sort((one, other) => named.includes(one) - named.includes(other)))
    add(svg, "polyline", { class: look(row), fill: "none", "stroke-width": named.includes(row) ? 2 : 1, "stroke-dasharray": row.base ? (row.center ? "6 3" : "2 3") : "none", points: row.c[key].map((value, place) => `${x(place)},${y(value)}`).join(" ") });
  named.forEach((row, place) => {
    const at = 16 + place * 18;
    add(svg, "line", { class: look(row), x1: width - right + 2, x2: width - right + 22, y1: at, y2: at, "stroke-width": 2.5, "stroke-dasharray": row.base ? (row.center ? "6 3" : "2 3") : "none" });
    add(svg, "text", { x: width - right + 28, y: at + 4 }, cut(row.n, Math.floor((right - 30) / 6.9)));
  });
  return true;
}

function section(place) {
  const model = DATA[place.dataset.number], table = place.querySelector("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const column = (key) => heads.findIndex((head) => head.dataset.key === key), rows = new Map([...body.rows].map((row, number) => [row, number]));
  let key = model.by;

  function columns() {
    const on = new Set([...place.querySelectorAll("[name=group]:checked")].map((each) => each.value));
    for (const each of table.querySelectorAll("[data-group]")) each.hidden = each.dataset.group !== "" && !on.has(each.dataset.group);
    const intervals = place.querySelector("[name=intervals]").checked;
    for (const each of table.querySelectorAll(".interval")) each.hidden = !intervals;
  }

  function plots() {
    const sorted = model.metrics[key] ? key : model.by, up = heads[column(sorted)].dataset.up === "1";
    for (const each of place.querySelectorAll(".sorted")) each.textContent = model.metrics[sorted];
    const shown = model.rows.filter((row) => row.m[sorted]).sort((one, other) => one.base - other.base || (up ? other.m[sorted][0] - one.m[sorted][0] : one.m[sorted][0] - other.m[sorted][0]));
    forest(place.querySelector(".forest"), shown, sorted);
    place.querySelector(".of-cost").hidden = false;
    place.querySelector(".of-cost").hidden = !cost(place.querySelector(".cost"), shown, sorted, up);
    const curves = place.querySelector(".of-curve");
    curves.hidden = false;
    curves.hidden = !curve(place.querySelector(".curve"), shown, sorted, model.step);
  }

  function sort(by, turn) {
    const head = heads[column(by)], before = head.getAttribute("aria-sort"), up = head.dataset.up === "1";
    const down = turn && before ? before === "ascending" : up;
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => (row.cells[column(by)].dataset.value === "" ? null : Number(row.cells[column(by)].dataset.value));
    const order = (one, other) => {
      const [a, b] = [value(one), value(other)];
      return one.classList.contains("base") - other.classList.contains("base") || (a === null) - (b === null) || (a === null ? 0 : down ? b - a : a - b) || rows.get(one) - rows.get(other);
    };
    body.append(...[...body.rows].sort(order));
    key = by;
    plots();
  }

  for (const head of heads) head.querySelector("button")?.addEventListener("click", () => sort(head.dataset.key, true));
  for (const box of place.querySelectorAll(".chips input")) box.addEventListener("change", columns);
  columns();
  plots();
  return plots;
}

/** Sort a table of the suite by the head that was clicked; controls stay below. */
function sortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], first = [...body.rows];
  heads.forEach((head, place) => head.querySelector("button")?.addEventListener("click", () => {
    const before = head.getAttribute("aria-sort"), down = before ? before === "ascending" : head.dataset.up === "1";
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => (row.cells[place].dataset.value === "" ? null : Number(row.cells[place].dataset.value));
    body.append(...[...first].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      return one.classList.contains("base") - other.classList.contains("base") || (a === null) - (b === null) || (a === null ? 0 : down ? b - a : a - b);
    }));
  }));
}
document.querySelectorAll(".sorted-by-head").forEach(sortable);

const redraw = [...document.querySelectorAll(".model")].map(section);
addEventListener("resize", () => redraw.forEach((each) => each()));
addEventListener("beforeprint", () => redraw.forEach((each) => each()));

for (const button of document.querySelectorAll(".copy"))
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });

globalThis.camfn = { ready: true };
