// Drives the page in headless Chromium: browser.cjs SPEC.json, {chromium, playwright, url, steps}. Prints, as JSON, what
// each step returned, every address that was asked for, every line of the console and every error.
const fs = require("fs"), path = require("path");
const spec = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const { chromium } = require(spec.playwright);

// The page forbids code from strings, which Playwright's own waiting needs.
async function until(page, what) {
  for (let k = 0; k < 2400; k++) {
    if (await page.evaluate(what)) return;
    await new Promise(next => setTimeout(next, 25));
  }
  throw new Error(`never: ${what}`);
}

// Wait until an act has led to a new map, or to a message.
async function led(page, act) {
  await page.evaluate("globalThis.before = camfn.last");
  await act();
  await until(page, "camfn.last !== globalThis.before || !document.getElementById('problem').hidden");
}

const withFile = (page, file, use) =>
  page.evaluate(
    async ([content, name, body]) => {
      const file = new File([Uint8Array.from(atob(content), letter => letter.charCodeAt(0))], name, { type: "image/png" });
      const data = new DataTransfer();
      data.items.add(file);
      const event = body === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }) : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
      document.body.dispatchEvent(event);
    },
    [fs.readFileSync(file).toString("base64"), path.basename(file), use],
  );

const DO = {
  open: async page => {
    await page.goto(spec.url);
    await until(page, "camfn.ready || camfn.failed");
    return await page.evaluate("camfn.failed ?? null");
  },
  drop: (page, { file }) => led(page, () => withFile(page, file, "drop")),
  paste: (page, { file }) => led(page, () => withFile(page, file, "paste")),
  choose: (page, { file }) => led(page, () => page.setInputFiles("#file", file)),
  click: (page, { on }) => led(page, () => page.click(on)),
  press: (page, { keys }) => led(page, async () => { for (const key of keys) await page.keyboard.press(key); }),
  select: (page, { on, value }) => led(page, () => page.selectOption(on, value)),
  fill: (page, { on, text }) => page.fill(on, text),
  set: async (page, { on, value }) => {
    await page.evaluate(([on, value]) => {
      const control = document.querySelector(on);
      if (control.type === "checkbox") control.checked = value;
      else control.value = value;
      control.dispatchEvent(new Event("input", { bubbles: true }));
      control.dispatchEvent(new Event("change", { bubbles: true }));
    }, [on, value]);
  },
  focus: (page, { on }) => page.focus(on),
  key: (page, { key }) => page.keyboard.press(key),
  toggle: (page, { on }) => page.click(on),
  text: (page, { on }) => page.innerText(on),
  value: (page, { code }) => page.evaluate(code),
  until: (page, { code }) => until(page, code),
  wait: (page, { milliseconds }) => page.waitForTimeout(milliseconds),
  download: async (page, { on, to }) => {
    const [file] = await Promise.all([page.waitForEvent("download"), page.click(on)]);
    await file.saveAs(to);
    return file.suggestedFilename();
  },
  shot: async (page, { to, width, height, dark }) => {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
    await page.mouse.move(0, 0);
    await page.screenshot({ path: to, fullPage: true });
    return await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth");
  },
  // The pages of a print, and the color of the words on it.
  print: async (page, { to }) => {
    await page.emulateMedia({ colorScheme: "dark", media: "print" });
    const color = await page.evaluate("getComputedStyle(document.body).color"), pdf = await page.pdf({ path: to, printBackground: true });
    await page.emulateMedia({ media: null });
    return [color, pdf.toString("latin1").match(/\/Type *\/Page\b/g).length];
  },
  axe: async page => {
    await page.evaluate(fs.readFileSync(spec.axe, "utf8"));
    const { violations } = await page.evaluate("axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'] })");
    return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(node => node.html.slice(0, 120)).join(" | ")}`);
  },
  // What was explained last: the input, the outputs, the class.
  last: page =>
    page.evaluate(`(() => {
      const pack = values => { const bytes = new Uint8Array(Float32Array.from(values).buffer); let text = ""; for (let k = 0; k < bytes.length; k += 32768) text += String.fromCharCode(...bytes.subarray(k, k + 32768)); return btoa(text); };
      const { logits, cam, input, size, target, best, which } = camfn.last;
      return { logits: pack(logits), cam: pack(cam), input: pack(input), size, target, best, which };
    })()`),
};

(async () => {
  const flags = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
  const browser = await chromium.launch({ executablePath: spec.chromium, headless: true, args: flags });
  const page = await (await browser.newContext({ viewport: { width: 1366, height: 900 }, acceptDownloads: true })).newPage();
  const asked = [], lines = [], errors = [], returned = [];
  page.on("request", request => asked.push(request.url()));
  page.on("console", message => lines.push(message.text()));
  page.on("pageerror", error => errors.push(String(error)));
  try {
    for (const step of spec.steps) returned.push((await DO[step.do](page, step)) ?? null);
  } finally {
    await browser.close();
  }
  fs.writeFileSync(spec.out, JSON.stringify({ returned, asked, lines, errors }));
})().catch(error => {
  console.error(error);
  process.exit(1);
});
