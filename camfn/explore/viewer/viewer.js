// One viewer for two hosts: a page (page.js is its model) and a widget of Jupyter (anywidget's model). No dependency.

// Little-endian 16-bit floats to numbers.
function decode(text, scale) {
  const raw = atob(text), values = new Float64Array(raw.length / 2);
  for (let k = 0; k < values.length; k++) {
    const half = raw.charCodeAt(2 * k) | (raw.charCodeAt(2 * k + 1) << 8), sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31, fraction = half & 1023;
    values[k] = scale * sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  }
  return values;
}

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// The element `tag` with attributes, then its children: elements, or text that is never read as HTML.
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Layers that are joined share one entry, "a.b.0, a.b.1": without what all of them begin with, a.b.{0, 1}.
function brief(id) {
  const names = id.split(", ").map(name => name.split(".")), first = names[0];
  let same = 0;
  while (names.length > 1 && names.every(name => same < name.length - 1 && name[same] === first[same])) same++;
  return same ? `${first.slice(0, same).join(".")}.{${names.map(name => name.slice(same).join(".")).join(", ")}}` : id;
}

const where = id => (id.includes(", ") ? `${id.split(", ").length} layers, joined` : `layer ${id}`);

// Two neighbours along an axis of `size` places, and the weight of the second, at a part of the way in 0..1.
function between(part, size, smooth) {
  const at = part * size - 0.5;
  if (!smooth) return [clamp(Math.floor(part * size), 0, size - 1), 0, 0];
  const low = clamp(Math.floor(at), 0, size - 1);
  return [low, Math.min(low + 1, size - 1), clamp(at - low, 0, 1)];
}

// The places of a map, (height, width), at a part of the depth of its volume.
function plane(map, part, smooth) {
  if (map.shape.length === 2) return map.values;
  const [depth, height, width] = map.shape, [a, b, weight] = between(part, depth, smooth), size = height * width;
  const values = new Float64Array(size);
  for (let k = 0; k < size; k++) {
    values[k] = map.values[a * size + k];
    if (weight) values[k] += weight * (map.values[b * size + k] - map.values[a * size + k]);
  }
  return values;
}

// A number for people: three digits, with an exponent where it is very small or large.
function written(value) {
  if (!value) return "0";
  const size = Math.abs(value);
  const text = size < 1e-3 || size >= 1e5 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "\u2212"); // a line never breaks behind this minus
}

let viewers = 0;

function render({ model, el, keys = el }) {
  const data = model.get("data"), { methods, layers } = data, group = `cv${viewers++}`;
  const maps = data.maps.map(map => ({ ...map, values: decode(map.b64, map.scale) }));
  const tables = Object.fromEntries(Object.entries(data.colors).map(([name, stops]) => [name, table(stops)]));
  const known = (list, id, otherwise) => {
    const found = list.findIndex(each => each.id === id);
    return found < 0 ? Math.min(otherwise, list.length - 1) : found;
  };
  const chosen = { photo: 0, target: 0, method: 0, layer: data.start, slice: 0 };
  let peek = null, hidden = false, drawn = null;
  const photo = () => data.photos[chosen.photo];
  const now = () => ({ ...chosen, ...peek });
  const cell = at => photo().cells[at.target]?.[at.method]?.[at.layer];
  const mapAt = at => (cell(at) >= 0 ? maps[cell(at)] : null);
  const depthAt = () => (photo().depth ? (photo().slices[chosen.slice].n + 0.5) / photo().depth : 0.5);

  // ---------------------------------------------------------------------------------------------------------- elements
  const picture = make("img", { alt: "" });
  const canvas = make("canvas", { role: "img", tabindex: "0", "aria-describedby": `${group}-help` });
  const dot = make("div", { class: "cv-dot" });
  const boxes = make("div", { class: "cv-boxes" });
  const frame = make("div", { class: "cv-frame" }, picture, canvas, boxes, dot);
  const low = make("span"), high = make("span"), scale = make("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const bar = make("div", { class: "cv-bar" }, low, scale, high);
  const say = make("p", { class: "cv-say", "aria-live": "polite" });
  const hide = make("button", { type: "button", class: "cv-hide", "aria-pressed": "false" }, "Hold to hide the map");
  const slider = make("input", { type: "range", min: 0, step: 1 });
  const number = make("output");
  const slices = make("label", { class: "cv-slice" }, "Slice ", slider, number);
  const help = make("p", { class: "cv-keys", id: `${group}-help` });
  help.append("On the map: ", make("kbd", {}, "←"), " ", make("kbd", {}, "→"), " method, ", make("kbd", {}, "↑"), " ", make("kbd", {}, "↓"), " target. Hold ", make("kbd", {}, "H"), " to hide it.");
  const stage = make("div", { class: "cv-stage" }, frame, slices, bar, say, hide);
  const form = make("form", { class: "cv-controls" });
  form.addEventListener("submit", event => event.preventDefault());
  const parts = {};
  for (const [key, title] of [["photo", "Photo"], ["target", "Target"], ["method", "Method"], ["layer", "Layer"]]) {
    parts[key] = make("fieldset", { class: `cv-set cv-${key}` });
    parts[key].append(make("legend", {}, title), make("div", { class: "cv-list" }));
    form.append(parts[key]);
  }
  const alpha = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0.6 });
  const colors = make("select", {});
  for (const name of Object.keys(data.colors)) {
    const words = name === "seismic" ? "signed: red for it, blue against it" : name;
    colors.append(make("option", { value: name }, words));
  }
  const smooth = make("input", { type: "checkbox", checked: true }), places = make("small");
  const hold = make("input", { type: "checkbox" });
  const look = make("fieldset", { class: "cv-set cv-look" }, make("legend", {}, "Look"));
  look.append(make("label", {}, "Opacity ", alpha), make("label", {}, "Colors ", colors), make("label", {}, smooth, "Smooth ", places), make("label", {}, hold, "One scale for all targets"), help);
  form.append(look);
  el.classList.add("cv");
  el.replaceChildren(stage, form);

  // ----------------------------------------------------------------------------------------------------------- choices
  function table(stops) {
    return Uint8ClampedArray.from({ length: 768 }, (_, k) => {
      const at = (Math.floor(k / 3) / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
      return stops[low][k % 3] + (at - low) * (stops[low + 1][k % 3] - stops[low][k % 3]);
    });
  }

  function choose(key, place) {
    if (key === "photo") {
      const before = photo().targets[chosen.target].id;
      chosen.photo = place;
      chosen.target = known(photo().targets, before, chosen.target);
      chosen.slice = Math.floor(photo().slices.length / 2);
      arrange();
    } else chosen[key] = place;
    peek = null;
    tell();
    draw();
  }

  function tell() {
    const words = { photo: photo().id, target: photo().targets[chosen.target].id, method: methods[chosen.method].id, layer: layers[chosen.layer].id };
    if (photo().depth) words.slice = chosen.slice;
    for (const [key, value] of Object.entries(words)) model.set(key, value);
    model.save_changes();
  }

  function options(key, list, withPictures) {
    const held = parts[key].querySelector(".cv-list");
    held.replaceChildren();
    parts[key].hidden = list.length < 2 && key === "photo";
    parts[key].classList.toggle("cv-thumbs", withPictures);
    list.forEach((item, place) => {
      const input = make("input", { type: "radio", name: `${group}-${key}`, value: place });
      const name = make("span", { class: "cv-name" }, make("span", { class: "cv-words" }, item.label ?? item.id));
      if (item.score) name.append(" ", make("small", {}, item.score));
      const label = make("label", { title: item.note || undefined }, input);
      if (withPictures) {
        const drawn = make("span", { class: "cv-pic" }, make("canvas", { width: 96, height: 96, "aria-hidden": "true" }));
        label.append(drawn);
      }
      label.append(name);
      input.addEventListener("change", () => choose(key, place));
      label.addEventListener("pointerenter", event => {
        if (event.pointerType !== "mouse" || key === "photo") return;
        peek = { [key]: place };
        draw();
      });
      label.addEventListener("pointerleave", unpeek);
      held.append(label);
    });
  }

  function unpeek() {
    if (!peek) return;
    peek = null;
    draw();
  }

  // All that differs from photo to photo: targets, boxes, slices.
  function arrange() {
    const { targets, slices: pictures, width, height, depth } = photo();
    options("target", targets, targets.length <= 24);
    slices.hidden = !depth;
    slider.max = pictures.length - 1;
    frame.classList.toggle("cv-coarse", Math.max(width, height) <= 128);
    frame.style.aspectRatio = `${width} / ${height}`;
    stage.style.setProperty("--ratio", width / height);
    canvas.width = width >= height ? 400 : Math.max(1, Math.round((400 * width) / height));
    canvas.height = width >= height ? Math.max(1, Math.round((400 * height) / width)) : 400;
    boxes.replaceChildren();
    targets.forEach(({ box, label, score }, place) => {
      if (!box) return;
      const [x0, y0, x1, y1] = box.map(x => 100 * clamp(x, 0, 1));
      const button = make("button", { type: "button", class: "cv-box" }, make("span", {}, label + (score ? ` ${score}` : "")));
      Object.assign(button.style, { left: `${x0}%`, top: `${y0}%`, width: `${x1 - x0}%`, height: `${y1 - y0}%` });
      if (y0 < 8) button.classList.add("cv-under");
      if (x0 > 70) button.classList.add("cv-left");
      const show = () => {
        peek = { target: place };
        draw();
      };
      button.dataset.place = place;
      button.addEventListener("pointerenter", event => event.pointerType === "mouse" && show());
      button.addEventListener("pointerleave", unpeek);
      button.addEventListener("focus", show);
      button.addEventListener("blur", unpeek);
      button.addEventListener("click", () => choose("target", place));
      boxes.append(button);
    });
    // a small box stays within reach of the pointer where a large one lies around it
    [...boxes.children].sort((a, b) => area(b) - area(a)).forEach((button, order) => (button.style.zIndex = order + 1));
  }
  const area = button => parseFloat(button.style.width) * parseFloat(button.style.height);

  // Methods whose maps are equal for all targets at the layer in view share one entry.
  function fold() {
    const equal = signed() ? photo().twins : photo().same;
    const together = (a, b) => equal.every(rows => rows[chosen.layer][a] === rows[chosen.layer][b]);
    const labels = [...parts.method.querySelectorAll("label")], lead = methods.map((_, k) => k);
    methods.forEach((_, k) => {
      const first = methods.findIndex((_, other) => other < k && lead[other] === other && together(other, k));
      if (first >= 0) lead[k] = first;
    });
    labels.forEach((label, k) => {
      const own = lead[k] === k, others = methods.filter((_, other) => lead[other] === k).map(each => each.id);
      label.hidden = !own;
      label.firstChild.disabled = !own;
      label.querySelector(".cv-words").textContent = own ? others.join(" = ") : methods[k].id;
    });
    return lead;
  }

  const signed = () => colors.value === "seismic";

  // ----------------------------------------------------------------------------------------------------------- drawing
  // The largest value that colors stand for.
  function top(at) {
    const range = map => (map ? (signed() ? map.scale : Math.max(0, map.high)) : 0);
    if (!hold.checked) return range(mapAt(at));
    return Math.max(...photo().targets.map((_, target) => range(mapAt({ ...at, target }))));
  }

  function paint(drawing, at) {
    const context = drawing.getContext("2d"), { width, height } = drawing, map = mapAt(at), most = top(at);
    context.clearRect(0, 0, width, height);
    if (!map || !most) return;
    const [rows, columns] = map.shape.slice(-2), values = plane(map, depthAt(), smooth.checked);
    const image = context.createImageData(width, height), colorsNow = tables[colors.value], opacity = 255 * alpha.value;
    const across = Array.from({ length: width }, (_, x) => between((x + 0.5) / width, columns, smooth.checked));
    for (let y = 0; y < height; y++) {
      const [a, b, down] = between((y + 0.5) / height, rows, smooth.checked);
      for (let x = 0; x < width; x++) {
        const [l, r, right] = across[x];
        const upper = values[a * columns + l] + right * (values[a * columns + r] - values[a * columns + l]);
        const lower = down ? values[b * columns + l] + right * (values[b * columns + r] - values[b * columns + l]) : upper;
        const part = (upper + down * (lower - upper)) / most, shown = clamp(signed() ? (part + 1) / 2 : part, 0, 1);
        const place = 4 * (y * width + x), color = 3 * Math.round(255 * shown);
        image.data[place] = colorsNow[color];
        image.data[place + 1] = colorsNow[color + 1];
        image.data[place + 2] = colorsNow[color + 2];
        image.data[place + 3] = opacity * Math.sqrt(clamp(Math.abs(signed() ? part : Math.max(0, part)), 0, 1));
      }
    }
    context.putImageData(image, 0, 0);
  }

  function draw() {
    const at = now(), map = mapAt(at), { slices: pictures, targets, depth } = photo();
    const lead = fold();
    picture.src = pictures[chosen.slice].src;
    slider.value = chosen.slice;
    number.textContent = depth ? ` ${pictures[chosen.slice].n + 1} of ${depth}` : "";
    if (hidden) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    else paint(canvas, at);
    const most = top(at), strip = scale.getContext("2d").createImageData(256, 1);
    low.textContent = signed() ? written(-most) : "0";
    high.textContent = written(most);
    for (let k = 0; k < 256; k++) strip.data.set([...tables[colors.value].subarray(3 * k, 3 * k + 3), 255], 4 * k);
    scale.getContext("2d").putImageData(strip, 0, 0);
    places.textContent = map ? `(off: the ${map.shape.join(" × ")} places as they are)` : "";
    mark("photo", chosen.photo);
    mark("target", chosen.target);
    mark("method", lead[chosen.method]);
    mark("layer", chosen.layer);
    for (const button of boxes.children) button.setAttribute("aria-pressed", String(Number(button.dataset.place) === at.target));
    frame.classList.toggle("cv-bare", hidden);
    hide.setAttribute("aria-pressed", String(hidden));
    describe(at, map, most);
    parts.target.querySelectorAll(".cv-pic").forEach((pic, target) => {
      pic.style.backgroundImage = `url(${pictures[chosen.slice].src})`;
      paint(pic.firstChild, { ...at, target });
    });
    parts.photo.querySelectorAll(".cv-pic").forEach((pic, place) => {
      const { slices } = data.photos[place];
      pic.style.backgroundImage = `url(${slices[Math.floor(slices.length / 2)].src})`;
    });
    drawn = { at, map };
  }

  function mark(key, place) {
    const input = parts[key].querySelectorAll("input")[place];
    if (input) input.checked = true;
  }

  function describe(at, map, most) {
    const target = photo().targets[at.target], method = methods[at.method], layer = layers[at.layer];
    const equal = (signed() ? photo().twins : photo().same)[at.target][at.layer];
    const others = methods.filter((_, k) => k !== at.method && equal[k] === equal[at.method]).map(each => each.id);
    say.replaceChildren(make("b", {}, target.label), ` by ${method.id} at ${where(layer.id)}. `);
    const add = words => say.append(words + " ");
    if (!map) add(`No map: ${data.problems[-1 - cell(at)]}`);
    else {
      add(`Raw values from ${written(map.low)} to ${written(map.high)}.`);
      if (!map.scale) add("The map is zero everywhere.");
      else if (!most) add("Nothing speaks for this target here; signed colors show what speaks against it.");
    }
    if (others.length) say.append(make("em", {}, `The same map as ${others.join(", ")}. `));
    if (!method.asks) say.append(make("em", {}, "This method never asks for the class. "));
    canvas.setAttribute("aria-label", `Map of ${target.label} by ${method.id} at ${where(layer.id)} over ${photo().id}`);
  }

  // ------------------------------------------------------------------------------------------------------------ events
  look.addEventListener("input", event => {
    if (event.target === colors) {
      model.set("colors", colors.value);
      model.save_changes();
    }
    draw();
  });
  slider.addEventListener("input", () => choose("slice", Number(slider.value)));
  frame.addEventListener("pointermove", event => {
    const { left, top, width, height } = frame.getBoundingClientRect(), map = drawn.map;
    if (!map) return (dot.textContent = "");
    const [rows, columns] = map.shape.slice(-2);
    const y = Math.floor(((event.clientY - top) / height) * rows), x = Math.floor(((event.clientX - left) / width) * columns);
    if (x < 0 || y < 0 || x >= columns || y >= rows) return (dot.textContent = "");
    const value = plane(map, depthAt(), false)[y * columns + x];
    dot.textContent = `row ${y + 1}, column ${x + 1}: ${written(value)}`;
  });
  frame.addEventListener("pointerleave", () => (dot.textContent = ""));

  function step(key, list, by) {
    const allowed = list.map((_, k) => k).filter(k => key !== "method" || !parts.method.querySelectorAll("input")[k].disabled);
    const at = allowed.indexOf(key === "method" ? fold()[chosen.method] : chosen[key]);
    choose(key, allowed[(at + by + allowed.length) % allowed.length]);
  }
  canvas.addEventListener("keydown", event => {
    const moves = { ArrowLeft: ["method", methods, -1], ArrowRight: ["method", methods, 1], ArrowUp: ["target", photo().targets, -1], ArrowDown: ["target", photo().targets, 1] };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    step(...moves[event.key]);
  });
  function cover(on) {
    if (hidden === on) return;
    hidden = on;
    draw();
  }
  const typed = event => event.target.closest?.("select, textarea, input:not([type=radio], [type=range], [type=checkbox])");
  const press = on => event => {
    if (event.key.toLowerCase() === "h" && !event.ctrlKey && !event.metaKey && !event.altKey && !typed(event)) cover(on);
  };
  const down = press(true), up = press(false), away = () => cover(false);
  keys.addEventListener("keydown", down);
  keys.addEventListener("keyup", up);
  window.addEventListener("blur", away);
  hide.addEventListener("pointerdown", () => cover(true));
  for (const name of ["pointerup", "pointerleave", "pointercancel", "blur"]) hide.addEventListener(name, away);
  for (const [name, on] of [["keydown", true], ["keyup", false]]) {
    hide.addEventListener(name, event => {
      if (event.key === " " || event.key === "Enter") cover(on);
    });
  }
  hide.addEventListener("contextmenu", event => event.preventDefault());

  // What the host was given: an address, or an attribute of the widget.
  function follow() {
    const before = chosen.photo, wanted = model.get("slice");
    chosen.photo = known(data.photos, model.get("photo"), chosen.photo);
    chosen.target = known(photo().targets, model.get("target"), before === chosen.photo ? chosen.target : 0);
    chosen.method = known(methods, model.get("method"), chosen.method);
    chosen.layer = known(layers, model.get("layer"), chosen.layer);
    chosen.slice = clamp(Number.isInteger(wanted) ? wanted : chosen.slice, 0, photo().slices.length - 1);
    if (data.colors[model.get("colors")]) colors.value = model.get("colors");
    if (before !== chosen.photo) arrange();
    peek = null;
    draw();
  }
  for (const key of ["photo", "target", "method", "layer", "slice", "colors"]) model.on(`change:${key}`, follow);

  options("photo", data.photos, true);
  options("method", methods, false);
  options("layer", layers.map(layer => ({ ...layer, label: brief(layer.id), score: layer.note.split(",")[0] })), false);
  chosen.slice = Math.floor(photo().slices.length / 2);
  arrange();
  follow();
  return {
    ready: true,
    get view() {
      return { ...now(), hidden, signed: signed() };
    },
    values: (photo, target, method, layer) => {
      const place = data.photos[photo].cells[target][method][layer];
      return place < 0 ? data.problems[-1 - place] : Array.from(maps[place].values);
    },
  };
}

export default { render };
