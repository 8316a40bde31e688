"use strict";
// The page's own files, and the networks in onnxruntime's WebAssembly.
(camfn => {
  const inlined = name => document.getElementById(`file:${name}`);

  // A file of the page: out of the page itself (packed, in base64), or from its folder.
  async function bytesOf(name, tell) {
    const element = inlined(name);
    if (!element) return await fetched(name, tell);
    const packed = Uint8Array.from(atob(element.textContent), letter => letter.charCodeAt(0));
    element.remove(); // the memory is wanted
    return new Uint8Array(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  }

  async function fetched(name, tell) {
    const response = await fetch(new URL(name, document.baseURI));
    if (!response.ok) throw new Error(`${name} is missing from the folder of this page`);
    const parts = [];
    for (let reader = response.body.getReader(), part; !(part = await reader.read()).done; ) {
      parts.push(part.value);
      tell(part.value.length);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  async function runtime(tell) {
    const script = "ort/ort.wasm.bundle.min.mjs";
    let address = new URL(script, document.baseURI).href;
    if (inlined(script)) address = URL.createObjectURL(new Blob([await bytesOf(script)], { type: "text/javascript" }));
    const ort = await import(address);
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    ort.env.wasm.wasmBinary = (await bytesOf("ort/ort-wasm-simd-threaded.wasm", tell)).buffer;
    return ort;
  }

  // Load everything; `tell(share)` is called with what has come, 0 to 1.
  async function open(tell) {
    if (location.protocol === "file:" && !inlined("page.json"))
      throw new Error("this page is a folder and has to be served: run “python -m http.server” in it, or export one.html instead");
    const meta = JSON.parse(new TextDecoder().decode(await bytesOf("page.json", () => {})));
    let come = 0;
    const count = length => tell((come += length) / meta.bytes);
    const ort = await runtime(count), weights = await bytesOf("weights.bin", count);
    const graphs = await Promise.all(meta.networks.map(({ file }) => bytesOf(file, count)));
    let session = null, loaded = -1, busy = Promise.resolve();

    async function sessionOf(k) {
      if (loaded === k) return session;
      await session?.release();
      loaded = -1;
      const externalData = weights.length ? [{ path: "weights.bin", data: weights }] : [];
      session = await ort.InferenceSession.create(graphs[k], { executionProviders: ["wasm"], graphOptimizationLevel: "all", logSeverityLevel: 3, externalData });
      loaded = k;
      return session;
    }

    async function run(k, input, target) {
      const { output, shape } = meta.networks[k], now = await sessionOf(k), began = performance.now();
      const images = new ort.Tensor("float32", input, [1, ...shape]);
      const out = await now.run({ images, target: new ort.Tensor("int64", BigInt64Array.of(BigInt(target ?? -1)), [1]) }, [output, "cam"]);
      const [, rows, columns] = out.cam.dims;
      return { logits: out[output].data, cam: out.cam.data, size: [rows, columns], milliseconds: performance.now() - began };
    }

    // One run at a time, in the order of the calls.
    const explain = (...given) => (busy = busy.catch(() => {}).then(() => run(...given)));
    // The first run is the slowest, and shows at once whether the network can run here.
    await explain(0, new Float32Array(meta.networks[0].shape.reduce((a, b) => a * b)), null);
    return { meta, explain, threads: ort.env.wasm.numThreads };
  }

  Object.assign(camfn, { open });
})((globalThis.camfn ??= {}));
