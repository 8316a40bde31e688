// Opens a notebook in JupyterLab, runs its cells, and takes steps: notebook.cjs SPEC.json, {chromium, playwright, url, steps}.
const fs = require("fs");
const spec = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const { chromium } = require(spec.playwright);

const DO = {
  run: async (page, { cell }) => {
    const code = page.locator(".jp-Notebook .jp-CodeCell").nth(cell);
    await code.locator(".cm-content").click();
    await page.keyboard.press("Shift+Enter");
    for (let k = 0; k < 900; k++) {
      if (/\[\d+\]/.test(await code.locator(".jp-InputPrompt").innerText())) return;
      await page.waitForTimeout(100);
    }
    throw new Error(`cell ${cell} does not end`);
  },
  seen: (page, { on }) => page.waitForSelector(on, { timeout: 60000 }).then(() => true),
  click: (page, { on }) => page.click(on),
  said: (page, { cell }) => page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".jp-OutputArea-output").last().innerText(),
  value: (page, { code }) => page.evaluate(code),
  wait: (page, { milliseconds }) => page.waitForTimeout(milliseconds),
  shot: (page, { to }) => page.screenshot({ path: to }),
};

(async () => {
  const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  const browser = await chromium.launch({ executablePath: spec.chromium, args: flags });
  const page = await browser.newPage({ viewport: { width: 1366, height: 900 } });
  const errors = [];
  page.on("pageerror", error => errors.push(String(error)));
  await page.goto(spec.url);
  await page.waitForSelector(".jp-Notebook .jp-Cell .cm-content", { timeout: 120000 });
  await page.waitForSelector("text=/Python 3.*Idle/", { timeout: 120000 });
  await page.waitForTimeout(1000);
  await page.click(".jp-Notebook .jp-Cell .cm-content");
  const returned = [];
  try {
    for (const step of spec.steps) returned.push((await DO[step.do](page, step)) ?? null);
  } catch (error) {
    await page.screenshot({ path: `${spec.out}.png` });
    throw error;
  }
  fs.writeFileSync(spec.out, JSON.stringify({ returned, errors }));
  await browser.close();
})().catch(error => {
  console.error(error);
  process.exit(1);
});
