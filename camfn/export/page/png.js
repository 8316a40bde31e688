"use strict";
// PNG files as camfn reads them: gray values of 16 bits scaled, transparent pixels laid on white, profiles ignored.
// A browser's canvas would round transparent colors, and scale deep ones in its own way.
(camfn => {
  const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
  const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

  // Values of 16 bits that would show as almost one gray; `gray` says whether their own range could be shown.
  class DeepGray extends Error {
    constructor(words, gray) {
      super(words);
      this.gray = gray;
    }
  }

  async function inflate(bytes, expected) {
    const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
    const out = new Uint8Array(expected);
    let at = 0;
    try {
      while (at < expected) {
        const { done, value } = await reader.read();
        if (done) break;
        out.set(value.subarray(0, expected - at), at);
        at += value.length;
      }
    } catch (error) {
      if (at < expected) throw new Error("its data are damaged", { cause: error });
    }
    reader.cancel().catch(() => {});
    if (at < expected) throw new Error("it is cut off");
    return out;
  }

  function chunks(bytes) {
    const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), found = { IDAT: [], text: {} };
    for (let at = 8; at + 8 <= bytes.length; ) {
      const size = data.getUint32(at), name = camfn.latin(bytes.subarray(at + 4, at + 8)), body = bytes.subarray(at + 8, at + 8 + size);
      if (name === "IEND") break;
      if (name === "IDAT") found.IDAT.push(body);
      else if (name === "tEXt" || name === "zTXt" || name === "iTXt") {
        const end = body.indexOf(0);
        found.text[camfn.latin(body.subarray(0, end))] = { kind: name, body: body.subarray(end + 1) };
      } else found[name] ??= body;
      at += 12 + size;
    }
    return found;
  }

  // Undo the filters of the lines of one pass, in place; returns the lines without their filter bytes.
  function unfilter(raw, start, rows, line, unit) {
    const out = new Uint8Array(rows * line);
    for (let row = 0, from = start; row < rows; row++) {
      const kind = raw[from++], to = row * line;
      for (let k = 0; k < line; k++, from++) {
        const left = k >= unit ? out[to + k - unit] : 0, up = row ? out[to + k - line] : 0;
        let guess = 0;
        if (kind === 1) guess = left;
        else if (kind === 2) guess = up;
        else if (kind === 3) guess = (left + up) >> 1;
        else if (kind === 4) {
          const corner = k >= unit && row ? out[to + k - line - unit] : 0, sum = left + up - corner;
          const a = Math.abs(sum - left), b = Math.abs(sum - up), c = Math.abs(sum - corner);
          guess = a <= b && a <= c ? left : b <= c ? up : corner;
        } else if (kind !== 0) throw new Error("its data are damaged");
        out[to + k] = raw[from] + guess;
      }
    }
    return out;
  }

  // The samples of all pixels, whole numbers of `depth` bits, row by row.
  async function samples(found, { width, height, depth, channels, interlaced }) {
    const passes = interlaced ? ADAM7 : [[0, 0, 1, 1]], unit = Math.max(1, (channels * depth) >> 3);
    const sizes = passes.map(([x, y, dx, dy]) => {
      const across = Math.ceil((width - x) / dx), down = Math.ceil((height - y) / dy);
      return { across, down, line: Math.ceil((across * channels * depth) / 8) };
    }).map(size => (size.across > 0 && size.down > 0 ? size : { across: 0, down: 0, line: 0 }));
    const raw = await inflate(new Blob(found.IDAT), sizes.reduce((sum, { down, line }) => sum + down * (line + 1), 0));
    const out = depth === 16 ? new Uint16Array(width * height * channels) : new Uint8Array(width * height * channels);
    let start = 0;
    passes.forEach(([x0, y0, dx, dy], pass) => {
      const { across, down, line } = sizes[pass], lines = unfilter(raw, start, down, line, unit);
      start += down * (line + 1);
      for (let row = 0; row < down; row++)
        for (let column = 0; column < across; column++)
          for (let c = 0; c < channels; c++) {
            const k = column * channels + c, at = row * line, to = ((y0 + row * dy) * width + x0 + column * dx) * channels + c;
            if (depth === 8) out[to] = lines[at + k];
            else if (depth === 16) out[to] = lines[at + 2 * k] * 256 + lines[at + 2 * k + 1];
            else out[to] = (lines[at + ((k * depth) >> 3)] >> (8 - depth - ((k * depth) & 7))) & ((1 << depth) - 1);
          }
    });
    return out;
  }

  // Gray values of 16 bits as bytes; `range` is "full", "own", or null: full, unless that would show almost one gray.
  function scaled(values, range) {
    let low = 65535, high = 0;
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (!range && high - low < 0.25 * 65535)
      throw new DeepGray(`its gray values, ${low} to ${high} of 0 to 65535, use less than a quarter of their range`, true);
    const [black, white] = range === "own" ? [low, high] : [0, 65535], factor = 255 / (white - black || 1);
    return Uint8Array.from(values, value => camfn.round(Math.min(Math.max((value - black) * factor, 0), 255)));
  }

  // One color laid on white, as Pillow's alpha_composite does it.
  function onWhite(value, alpha) {
    if (alpha === 0) return 255;
    const sum = value * alpha * 128 + 255 * (255 - alpha) * 128 + (0x80 << 7);
    return ((sum >> 8) + sum) >> 8 >> 7;
  }

  // The function that says red, green, blue, alpha of pixel `at`.
  function colors(found, values, { type, depth, width, height }, range) {
    const given = found.tRNS, key = k => (given && given.length >= 2 * k + 2 ? given[2 * k] * 256 + given[2 * k + 1] : -1);
    if (type === 3) {
      const table = found.PLTE ?? [], known = Math.floor(table.length / 3);
      return at => {
        const k = values[at], rgb = k < known ? table.subarray(3 * k, 3 * k + 3) : [0, 0, 0];
        return [rgb[0], rgb[1], rgb[2], given && k < given.length ? given[k] : 255];
      };
    }
    if (type === 0 && depth === 16) {
      const gray = scaled(values, range);
      return at => [gray[at], gray[at], gray[at], 255];
    }
    const shift = depth === 16 ? 8 : 0, factor = depth < 8 ? 255 / ((1 << depth) - 1) : 1;
    if (type === 0) return at => [values[at] * factor, values[at] * factor, values[at] * factor, values[at] * factor === key(0) ? 0 : 255];
    if (type === 4) return at => [values[2 * at] >> shift, values[2 * at] >> shift, values[2 * at] >> shift, values[2 * at + 1] >> shift];
    if (type === 6) return at => [values[4 * at] >> shift, values[4 * at + 1] >> shift, values[4 * at + 2] >> shift, values[4 * at + 3] >> shift];
    const [r, g, b] = [key(0), key(1), key(2)];
    return at => {
      const rgb = [values[3 * at] >> shift, values[3 * at + 1] >> shift, values[3 * at + 2] >> shift];
      return [...rgb, given && rgb[0] === r && rgb[1] === g && rgb[2] === b ? 0 : 255];
    };
  }

  async function textOf({ kind, body }) {
    if (kind === "tEXt") return body;
    if (kind === "iTXt") {
      const language = body.indexOf(0, 2), end = body.indexOf(0, language + 1);
      return body.subarray(body[0] === 0 ? end + 1 : body.length); // packed text is passed over
    }
    const stream = new Blob([body.subarray(1)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function told(found) {
    let exif = found.eXIf ?? null;
    const raw = found.text["Raw profile type exif"], xmp = found.text["XML:com.adobe.xmp"];
    if (!exif && raw) {
      const hex = camfn.latin(await textOf(raw)).split("\n").slice(3).join("");
      exif = Uint8Array.from(hex.match(/../g) ?? [], pair => parseInt(pair, 16));
    }
    return camfn.orientation(exif, xmp ? await textOf(xmp) : null);
  }

  // A PNG file as an upright picture.
  async function png(bytes, range = null) {
    const found = chunks(bytes), head = found.IHDR;
    if (!head || head.length < 13 || !found.IDAT.length) throw new Error("it is damaged");
    const data = new DataView(head.buffer, head.byteOffset, head.length);
    const info = { width: data.getUint32(0), height: data.getUint32(4), depth: head[8], type: head[9], interlaced: head[12] === 1 };
    info.channels = CHANNELS[info.type];
    if (!info.channels || !info.width || !info.height) throw new Error("it is damaged");
    const values = await samples(found, info), color = colors(found, values, info, range);
    const out = new Uint8ClampedArray(info.width * info.height * 3);
    let low = 255, high = 0;
    for (let at = 0, to = 0; at < info.width * info.height; at++, to += 3) {
      const [red, green, blue, alpha] = color(at);
      out[to] = alpha === 255 ? red : onWhite(red, alpha);
      out[to + 1] = alpha === 255 ? green : onWhite(green, alpha);
      out[to + 2] = alpha === 255 ? blue : onWhite(blue, alpha);
      low = Math.min(low, out[to], out[to + 1], out[to + 2]);
      high = Math.max(high, out[to], out[to + 1], out[to + 2]);
    }
    if (info.depth === 16 && info.type !== 0 && range !== "full" && high - low < 64)
      throw new DeepGray("its colors of 16 bits use less than a quarter of their range", false);
    return camfn.upright({ data: out, width: info.width, height: info.height }, await told(found));
  }

  Object.assign(camfn, { png, DeepGray });
})((globalThis.camfn ??= {}));
