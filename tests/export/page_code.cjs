// Runs the page's own code in node, without a browser: page_code.cjs JOBS.json, a list of jobs, each of which writes to
// its `out`. {do: "read", file, range} an upright PNG; {do: "prepare", file, width, height, recipe} the input of a raw
// picture; {do: "turn", file, kind} the orientation of a JPEG or WebP file; {do: "overlay", values, size, ...} a map.
const fs = require("fs"), path = require("path"), vm = require("vm");
const folder = path.join(__dirname, "../../camfn/export/page");
globalThis.ImageData = class {
  constructor(width, height) {
    this.data = new Uint8ClampedArray(width * height * 4);
  }
};
for (const name of ["pixels.js", "exif.js", "png.js", "map.js"]) vm.runInThisContext(fs.readFileSync(path.join(folder, name), "utf8"), { filename: name });

const DO = {
  async read({ file, range, out }) {
    const { data, width, height } = await camfn.png(new Uint8Array(fs.readFileSync(file)), range ?? null);
    fs.writeFileSync(out, data);
    return { size: [width, height] };
  },
  async prepare({ file, width, height, recipe, out }) {
    const picture = { data: new Uint8Array(fs.readFileSync(file)), width, height };
    fs.writeFileSync(out, new Uint8Array(camfn.prepare(picture, recipe).buffer));
    return { view: camfn.view(picture, recipe) };
  },
  async turn({ file, kind }) {
    return camfn[kind](new Uint8Array(fs.readFileSync(file))).orientation;
  },
  async overlay({ values, size, width, height, signed, alpha, colors, out }) {
    const span = camfn.spanOf(values, signed);
    fs.writeFileSync(out, camfn.overlay(camfn.heat(values, span, signed), size, width, height, { colors, signed, alpha }).data);
    return { span, words: camfn.inWords(values, size) };
  },
};

(async () => {
  const said = [];
  for (const job of JSON.parse(fs.readFileSync(process.argv[2], "utf8")))
    said.push(await DO[job.do](job).catch(error => ({ error: error.message, deep: error instanceof camfn.DeepGray })));
  console.log(JSON.stringify(said));
})();
