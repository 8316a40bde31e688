"use strict";
// How a camera was held: the orientation that a file tells, read as Pillow reads it, and the picture turned upright.
(camfn => {
  // Tag 0x112 of the first directory of a TIFF header; null if there is none.
  function tiffOrientation(bytes) {
    if (bytes.length < 8) return null;
    const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), little = bytes[0] === 0x49;
    const start = data.getUint32(4, little);
    if (start + 2 > bytes.length) return null;
    for (let k = 0, at = start + 2; k < data.getUint16(start, little) && at + 12 <= bytes.length; k++, at += 12) {
      if (data.getUint16(at, little) !== 0x112) continue;
      const kind = data.getUint16(at + 2, little);
      return kind === 3 ? data.getUint16(at + 8, little) : kind === 4 ? data.getUint32(at + 8, little) : bytes[at + 8];
    }
    return null;
  }

  const text = bytes => Array.from(bytes, byte => String.fromCharCode(byte)).join("");
  const starts = (bytes, word) => text(bytes.subarray(0, word.length)) === word;

  function orientation(exif, xmp) {
    while (exif && starts(exif, "Exif\0\0")) exif = exif.subarray(6);
    const told = exif ? tiffOrientation(exif) : null;
    if (told !== null) return told;
    const found = xmp && /tiff:Orientation(="|>)([0-9])/.exec(text(xmp));
    return found ? Number(found[2]) : 1;
  }

  // A JPEG file's orientation, and the file without it and without its color profile, so that no browser uses them.
  function jpeg(bytes) {
    const kept = [bytes.subarray(0, 2)];
    let exif = null, xmp = null, at = 2;
    while (at + 4 <= bytes.length && bytes[at] === 0xff) {
      const kind = bytes[at + 1];
      if (kind === 0xff) { at++; continue; }
      if (kind === 0xda || kind === 0xd9) break;
      const end = at + 2 + bytes[at + 2] * 256 + bytes[at + 3], body = bytes.subarray(at + 4, end);
      if (kind === 0xe1 && starts(body, "Exif\0\0")) exif ??= body;
      else if (kind === 0xe1 && starts(body, "http://ns.adobe.com/xap/1.0/\0")) xmp ??= body;
      else if (!(kind === 0xe2 && starts(body, "ICC_PROFILE\0"))) kept.push(bytes.subarray(at, end));
      at = end;
    }
    kept.push(bytes.subarray(at));
    return { orientation: orientation(exif, xmp), parts: kept };
  }

  // A WebP file likewise; the parts are renamed, which decoders pass over.
  function webp(bytes) {
    const copy = bytes.slice(), data = new DataView(copy.buffer);
    let exif = null, xmp = null;
    for (let at = 12; at + 8 <= copy.length; ) {
      const name = text(copy.subarray(at, at + 4)), size = data.getUint32(at + 4, true), body = copy.subarray(at + 8, at + 8 + size);
      if (name === "EXIF") exif ??= body;
      if (name === "XMP ") xmp ??= body;
      if (name === "EXIF" || name === "XMP ") copy.set([74, 85, 78, 75], at);
      at += 8 + size + (size % 2);
    }
    return { orientation: orientation(exif, xmp), parts: [copy] };
  }

  // Where pixel (x, y) of the upright picture lies in the file's, for a picture of the file's width w and height h.
  const TURNS = {
    2: (x, y, w) => [w - 1 - x, y],
    3: (x, y, w, h) => [w - 1 - x, h - 1 - y],
    4: (x, y, w, h) => [x, h - 1 - y],
    5: (x, y) => [y, x],
    6: (x, y, w, h) => [y, h - 1 - x],
    7: (x, y, w, h) => [w - 1 - y, h - 1 - x],
    8: (x, y, w) => [w - 1 - y, x],
  };

  function upright(picture, told) {
    const turn = TURNS[told];
    if (!turn) return picture;
    const { data, width: w, height: h } = picture, [width, height] = told > 4 ? [h, w] : [w, h];
    const out = new Uint8ClampedArray(data.length);
    for (let y = 0, to = 0; y < height; y++)
      for (let x = 0; x < width; x++, to += 3) {
        const [u, v] = turn(x, y, w, h), at = (v * w + u) * 3;
        out[to] = data[at];
        out[to + 1] = data[at + 1];
        out[to + 2] = data[at + 2];
      }
    return { data: out, width, height };
  }

  Object.assign(camfn, { orientation, jpeg, webp, upright, startsWith: starts, latin: text });
})((globalThis.camfn ??= {}));
