"use strict";
// A dropped, pasted or chosen file, or a frame of the camera, as an upright picture.
(camfn => {
  const isPng = bytes => camfn.startsWith(bytes, "\x89PNG\r\n\x1a\n");
  const isJpeg = bytes => bytes[0] === 0xff && bytes[1] === 0xd8;
  const isWebp = bytes => camfn.startsWith(bytes, "RIFF") && camfn.startsWith(bytes.subarray(8), "WEBP");

  // The colors of whatever a canvas can draw, transparent pixels on white.
  function drawn(image, width, height) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.drawImage(image, 0, 0);
    const rgba = pen.getImageData(0, 0, width, height).data, data = new Uint8ClampedArray(width * height * 3);
    for (let from = 0, to = 0; to < data.length; from += 4) {
      data[to++] = rgba[from];
      data[to++] = rgba[from + 1];
      data[to++] = rgba[from + 2];
    }
    return { data, width, height };
  }

  // The browser decodes everything but PNG; it turns nothing and converts no colors, as Pillow does not.
  async function decoded(parts, orientation) {
    const image = await createImageBitmap(new Blob(parts), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    try {
      return camfn.upright(drawn(image, image.width, image.height), orientation);
    } finally {
      image.close();
    }
  }

  async function read(file, range = null) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    try {
      if (isPng(bytes)) return await camfn.png(bytes, range);
      const told = isJpeg(bytes) ? camfn.jpeg(bytes) : isWebp(bytes) ? camfn.webp(bytes) : { orientation: 1, parts: [bytes] };
      return await decoded(told.parts, told.orientation);
    } catch (error) {
      if (error instanceof camfn.DeepGray) throw error;
      const reason = isPng(bytes) ? error.message : "the browser cannot read it; save it as JPEG or PNG";
      throw new Error(`${file.name || "The photo"} cannot be shown: ${reason}.`, { cause: error });
    }
  }

  // A canvas with the picture, to draw parts of it.
  function canvasOf({ data, width, height }) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d"), image = pen.createImageData(width, height), rgba = image.data;
    for (let from = 0, to = 0; from < data.length; to += 4) {
      rgba[to] = data[from++];
      rgba[to + 1] = data[from++];
      rgba[to + 2] = data[from++];
      rgba[to + 3] = 255;
    }
    pen.putImageData(image, 0, 0);
    return canvas;
  }

  Object.assign(camfn, { read, drawn, canvasOf });
})((globalThis.camfn ??= {}));
