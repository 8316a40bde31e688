"use strict";
// The page: what is shown, and what each control does.
(async camfn => {
  const $ = id => document.getElementById(id);
  const FIVE = 5, SIDE = 640, SIGNED = "seismic";
  const state = { photo: null, canvas: null, name: "photo", which: 0, target: null, out: null, held: null, live: false, stop: () => {}, inputs: new Map() };
  let page, names, asked = 0, taken = 0;

  // ------------------------------------------------------------------------------------------------------ words

  // What happens, in a line; what a sighted reader finds elsewhere on the page is for screen readers alone.
  function tell(words, unseen = false) {
    $("status").textContent = words;
    $("status").classList.toggle("unseen", unseen);
  }
  function trouble(words, choices = []) {
    $("problem").hidden = !words;
    $("problem").replaceChildren(words ?? "", ...choices.map(([label, act]) => button(label, act)));
  }
  function button(label, act) {
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: label });
    made.addEventListener("click", act);
    return made;
  }
  const percent = share => (share < 0.0005 && share > 0 ? "< 0.1\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`);
  const short = value => (value === 0 ? "0" : Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? value.toPrecision(3) : value.toExponential(2)).replace("-", "−");
  const shownLayer = layer => (Array.isArray(layer) ? layer.join(" + ") : layer ?? "the whole network");
  const network = () => page.meta.networks[state.which];
  const shownNetwork = () => page.meta.networks[state.out.which]; // of the map that is shown, while another one loads
  const nameOf = (k, { classes } = network()) => names[classes]?.[k] ?? `class ${k}`;
  const signed = () => $("colors").value === SIGNED;

  // ---------------------------------------------------------------------------------------------------- classes

  function shares(logits) {
    const top = camfn.extent(logits)[1], weights = Array.from(logits, value => Math.exp(value - top));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map(weight => weight / sum);
  }

  function listClasses(share, chosen) {
    const best = [...share.keys()].sort((a, b) => share[b] - share[a]).slice(0, FIVE), rows = best.includes(chosen) ? best : [...best, chosen];
    const box = $("classes");
    while (box.children.length > rows.length) box.lastChild.remove();
    while (box.children.length < rows.length) box.append(classRow());
    rows.forEach((k, at) => {
      const [radio, name, number] = box.children[at].children;
      Object.assign(radio, { value: k, checked: k === chosen });
      if (name.textContent !== nameOf(k)) name.textContent = nameOf(k);
      number.textContent = percent(share[k]);
      box.children[at].style.setProperty("--part", share[k]);
    });
    return best;
  }

  function classRow() {
    const row = Object.assign(document.createElement("label"), { className: "class" });
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "class" });
    radio.addEventListener("change", () => pin(Number(radio.value)));
    row.append(radio, document.createElement("span"), document.createElement("span"));
    return row;
  }

  function pin(k) {
    $("follow").checked = false;
    state.target = k;
    $("any").value = "";
    if (!state.live) explain();
  }

  // --------------------------------------------------------------------------------------------------- the map

  function inputOf() {
    const { preprocessing } = network(), key = JSON.stringify(preprocessing);
    if (!state.inputs.has(key)) state.inputs.set(key, camfn.prepare(state.photo, preprocessing));
    return state.inputs.get(key);
  }

  // Explain the photo as the controls say now; without a map for it, the page shows none.
  async function explain() {
    if (!state.photo) return;
    const mine = ++asked, { which, live, target: wanted, name, canvas } = state;
    if (!live) tell("Looking …");
    try {
      const input = inputOf(), out = await page.explain(which, input, wanted);
      if (mine !== asked) return; // something newer was asked for
      if (!out.logits.every(Number.isFinite)) throw new Error("it gives numbers that are not finite for this photo");
      show({ ...out, input, photo: canvas, name, which }, wanted);
    } catch (error) {
      if (live) throw error;
      if (mine === asked) showNothing(`The network cannot explain this: ${error.message ?? error}.`);
    }
  }

  function show(out, wanted) {
    trouble(null);
    const share = shares(out.logits), target = wanted ?? share.indexOf(camfn.extent(share)[1]);
    state.out = { ...out, target, share, best: listClasses(share, target) };
    for (const each of document.querySelectorAll("[data-do=picture], [data-do=numbers]")) each.disabled = false;
    draw();
    const place = camfn.inWords(out.cam, out.size), words = `${nameOf(target)}, ${percent(share[target])}.`;
    $("words").textContent = place;
    $("view").setAttribute("aria-label", `The photo with the ${network().method} map for ${words}`);
    if (!state.live) tell(`${words} ${place}`, true);
    camfn.last = { ...state.out, photo: null };
  }

  function showNothing(words) {
    state.out = null;
    $("classes").replaceChildren();
    $("view").width = $("view").width; // which clears it
    $("view").setAttribute("aria-label", "No map");
    for (const id of ["low", "high", "range", "words", "value"]) $(id).textContent = "";
    for (const each of document.querySelectorAll("[data-do=picture], [data-do=numbers]")) each.disabled = true;
    tell("");
    scrollTo({ top: 0 });
    trouble(words);
  }

  function draw() {
    const { cam, size, photo } = state.out, name = $("colors").value, colors = page.meta.colors[name], view = $("view"), pen = view.getContext("2d");
    const box = camfn.view(photo, shownNetwork().preprocessing), scale = SIDE / Math.max(box[2], box[3]);
    const width = Math.max(1, Math.round(box[2] * scale)), height = Math.max(1, Math.round(box[3] * scale));
    if (view.width !== width || view.height !== height) Object.assign(view, { width, height });
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, width, height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(photo, ...box, 0, 0, width, height);
    const span = $("hold").checked && state.held?.signed === signed() ? state.held.span : camfn.spanOf(cam, signed());
    state.held = { span, signed: signed() };
    const layer = document.createElement("canvas");
    Object.assign(layer, { width, height });
    const values = camfn.heat(cam, span, signed());
    layer.getContext("2d").putImageData(camfn.overlay(values, size, width, height, { colors, signed: signed(), alpha: $("alpha").value / 100 }), 0, 0);
    pen.drawImage(layer, 0, 0);
    drawBar(colors, span);
  }

  function drawBar(colors, span) {
    const pen = $("bar").getContext("2d"), image = pen.createImageData(256, 1);
    for (let k = 0; k < 256; k++) image.data.set([...camfn.color(colors, k / 255), 255], 4 * k);
    pen.putImageData(image, 0, 0);
    [$("low").textContent, $("high").textContent] = span.map(short);
    const [low, high] = camfn.extent(state.out.cam).map(short);
    const hidden = !signed() && camfn.extent(state.out.cam)[0] < 0 ? "; values below 0 are hidden" : "";
    $("range").textContent = `Raw values ${low} to ${high}${hidden}. ${seen()}. ${state.out.milliseconds.toFixed(0)} ms for the prediction and the map.`;
  }

  function seen() {
    const { photo } = state.out, [, , width, height] = camfn.view(photo, shownNetwork().preprocessing);
    return `The network sees ${width} × ${height} of the photo's ${photo.width} × ${photo.height} pixels`;
  }

  // The value under a point of the view, in shares of its sides.
  function read(x, y) {
    const { cam, size: [rows, columns] } = state.out, row = Math.min(rows - 1, Math.floor(y * rows)), column = Math.min(columns - 1, Math.floor(x * columns));
    $("value").textContent = `Row ${row + 1} of ${rows}, column ${column + 1} of ${columns}: ${short(cam[row * columns + column])}`;
    state.cell = [row, column];
  }

  // ------------------------------------------------------------------------------------------------- the photo

  function begin(picture, name) {
    Object.assign(state, { photo: picture, canvas: camfn.canvasOf(picture), name, inputs: new Map() });
    $("drop").hidden = true;
    $("figure").hidden = $("panel").hidden = false;
    $("value").textContent = "";
  }

  async function take(file, range = null) {
    const mine = ++taken;
    halt();
    trouble(null);
    try {
      await ready;
      tell("Reading the photo …");
      const picture = await camfn.read(file, range);
      if (mine !== taken) return; // a newer photo came
      begin(picture, (file.name || "photo").replace(/\.[^.]*$/, ""));
      state.target = null;
      $("any").value = "";
      $("hold").checked = false;
      await explain();
    } catch (error) {
      if (mine !== taken) return;
      tell("");
      const deep = error instanceof camfn.DeepGray;
      scrollTo({ top: 0 });
      trouble(deep ? `${file.name || "The photo"} would show as almost one gray: ${error.message}. ` : error.message, deep ? [["Show it as it is", () => take(file, "full")], ...(error.gray ? [["Show its own range", () => take(file, "own")]] : [])] : []);
    }
  }

  function halt() {
    state.stop();
    Object.assign(state, { live: false, stop: () => {} });
    $("following").hidden = true;
    for (const each of document.querySelectorAll("[data-do=camera]")) each.textContent = "Use the camera";
  }

  async function toggleCamera() {
    if (state.live) {
      halt();
      tell("The camera is off; the last picture stays.");
      return;
    }
    taken++;
    trouble(null);
    const failed = error => {
      halt();
      tell("");
      trouble(error.message);
    };
    try {
      await ready;
      $("follow").checked = state.live = true;
      const stop = await camfn.camera(async picture => {
        if ($("follow").checked) state.target = null;
        begin(picture, "camera");
        await explain();
      }, failed);
      if (!state.live) return stop(); // a photo came while the browser asked for leave
      state.stop = stop;
      $("following").hidden = false;
      for (const each of document.querySelectorAll("[data-do=camera]")) each.textContent = "Stop the camera";
      tell("The camera is on. Its pictures stay on this machine.");
    } catch (error) {
      failed(error);
    }
  }

  function save(blob, ending) {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${state.out.name}-${shownNetwork().method}-${state.out.target}.${ending}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function numbers() {
    const { cam, size: [rows, columns], target, share } = state.out, { model, method, layer } = shownNetwork();
    const map = Array.from({ length: rows }, (_, row) => Array.from(cam.subarray(row * columns, (row + 1) * columns)));
    return new Blob([JSON.stringify({ model, method, layer, class: target, name: nameOf(target, shownNetwork()), share: share[target], map })], { type: "application/json" });
  }

  // ------------------------------------------------------------------------------------------------- controls

  const ACTS = {
    choose: () => $("file").click(),
    camera: toggleCamera,
    picture: () => $("view").toBlob(blob => save(blob, "png")),
    numbers: () => save(numbers(), "json"),
  };

  function options(select, values, words = values) {
    select.replaceChildren(...values.map((value, k) => new Option(words[k], value)));
    select.parentElement.hidden = values.length < 2;
  }

  // Offer the networks by their model, method and layer; a choice that does not exist leads to the nearest one.
  function offerNetworks() {
    const facts = page.meta.networks.map(each => ({ model: each.model, method: each.method, layer: shownLayer(each.layer) })), keys = ["model", "method", "layer"];
    for (const key of keys) options($(key), [...new Set(facts.map(each => each[key]))]);
    const show = () => keys.forEach(key => ($(key).value = facts[state.which][key]));
    for (const key of keys)
      $(key).addEventListener("change", () => {
        const wanted = Object.fromEntries(keys.map(each => [each, $(each).value]));
        const fit = each => (each[key] === wanted[key] ? 4 : 0) + keys.filter(other => each[other] === wanted[other]).length;
        const fits = facts.map(fit), names = network().classes;
        state.which = fits.indexOf(Math.max(...fits));
        if (network().classes !== names) state.target = null;
        $("hold").checked = false; // the values of another map have another range
        show();
        describe();
        offerClasses();
        tell("Loading the network …");
        explain();
      });
    show();
  }

  function offerClasses() {
    const fresh = $("any").cloneNode();
    $("any").replaceWith(fresh);
    const count = network().count, list = Array.from({ length: count }, (_, k) => nameOf(k));
    const twice = list.filter((name, k) => list.indexOf(name) !== k);
    camfn.combobox(fresh, $("found"), list.map((name, k) => (twice.includes(name) ? `${name} (${k})` : name)), pin);
  }

  function describe() {
    const { model, method, layer } = network();
    $("about").textContent = `${model}, ${method} at ${shownLayer(layer)}`;
  }

  function facts() {
    const rows = page.meta.networks.map(each => [each.model, `${each.method} at ${shownLayer(each.layer)}; ${each.verified.replace(/e-(?=\d)/g, "e−")}`]); // a line may break at a hyphen
    rows.push(["Percentages", "the softmax of the network's outputs"], ["Preparation", network().words], ["Made by", `camfn ${page.meta.camfn}, for photos as Pillow ${page.meta.pillow} reads them`], ["Runs on", `onnxruntime-web ${page.meta.runtime}, ${page.threads} thread${page.threads > 1 ? "s" : ""}, in this browser alone`]);
    $("facts").replaceChildren(...rows.flatMap(([name, words]) => [Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: words })]));
  }

  function listen() {
    for (const each of document.querySelectorAll("[data-do]")) each.addEventListener("click", ACTS[each.dataset.do]);
    $("file").addEventListener("change", () => {
      const [file] = $("file").files;
      $("file").value = "";
      if (file) take(file);
    });
    const over = on => document.body.classList.toggle("over", on);
    for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, event => { event.preventDefault(); over(true); });
    document.addEventListener("dragleave", event => event.relatedTarget || over(false));
    document.addEventListener("drop", event => {
      event.preventDefault();
      over(false);
      const [file] = event.dataTransfer.files;
      if (file) take(file);
      else trouble("That was no file: save the photo and drop it, or copy and paste it.");
    });
    document.addEventListener("paste", event => {
      const file = [...(event.clipboardData?.files ?? [])].find(each => each.type.startsWith("image/"));
      if (file) take(file);
      else if (event.target.tagName !== "INPUT") trouble("There is no picture in what was pasted.");
    });
    for (const id of ["alpha", "colors", "hold"]) $(id).addEventListener("input", () => state.out && draw());
    $("follow").addEventListener("change", () => (state.target = $("follow").checked ? null : state.out?.target ?? null));
    const view = $("view");
    view.addEventListener("pointermove", event => state.out && read(event.offsetX / view.clientWidth, event.offsetY / view.clientHeight));
    view.addEventListener("pointerleave", () => ($("value").textContent = ""));
    view.addEventListener("keydown", event => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step || !state.out) return;
      event.preventDefault();
      const { size: [rows, columns] } = state.out, [row, column] = state.cell ?? [Math.floor(rows / 2), Math.floor(columns / 2)];
      const within = (value, count) => (Math.min(Math.max(value, 0), count - 1) + 0.5) / count;
      read(within(column + step[1], columns), within(row + step[0], rows));
    });
  }

  async function start() {
    tell("Loading the network …");
    page = await camfn.open(share => tell(`Loading the network: ${Math.round(100 * share)} %`));
    names = page.meta.classes;
    options($("colors"), Object.keys(page.meta.colors), Object.keys(page.meta.colors).map(name => (name === SIGNED ? `${name} (signed)` : name)));
    offerNetworks();
    offerClasses();
    describe();
    facts();
    tell("Ready.");
    camfn.ready = true;
  }

  listen();
  const ready = start();
  ready.catch(error => {
    tell("");
    trouble(`The page cannot start: ${error.message}.`);
    camfn.failed = String(error.stack ?? error);
  });
})((globalThis.camfn ??= {}));
