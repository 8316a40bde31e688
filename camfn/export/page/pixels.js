"use strict";
// How a photo becomes the network's input, to the bit as Pillow and torch do it. A picture is {data, width, height},
// with three bytes a pixel: red, green, blue.
(camfn => {
  const BITS = 22; // Pillow's weights are whole numbers of 2^-22

  const cubic = x => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0);
  const sinc = x => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
  const hamming = x => (x === 0 ? 1 : x >= 1 ? 0 : sinc(x) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(x * Math.PI)));
  const FILTERS = {
    box: { reach: 0.5, at: x => (x > -0.5 && x <= 0.5 ? 1 : 0) },
    bilinear: { reach: 1, at: x => Math.max(0, 1 - Math.abs(x)) },
    hamming: { reach: 1, at: x => hamming(Math.abs(x)) },
    bicubic: { reach: 2, at: x => cubic(Math.abs(x)) },
    lanczos: { reach: 3, at: x => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
  };

  // For each new place: the first old place that counts, and the weights from there on.
  function weights(from, to, filter) {
    const scale = from / to, stretch = Math.max(scale, 1), reach = filter.reach * stretch;
    return Array.from({ length: to }, (_, place) => {
      const center = (place + 0.5) * scale;
      const first = Math.max(0, Math.trunc(center - reach + 0.5));
      const end = Math.min(from, Math.trunc(center + reach + 0.5));
      const values = [];
      let sum = 0;
      for (let old = first; old < end; old++) {
        values.push(filter.at((old - center + 0.5) * (1 / stretch)));
        sum += values[values.length - 1];
      }
      const whole = values.map(value => Math.trunc((sum === 0 ? value : value / sum) * 2 ** BITS + (value < 0 ? -0.5 : 0.5)));
      return { first, values: Int32Array.from(whole) };
    });
  }

  // Weigh the pixels along one axis: `step` bytes apart, in lines that begin `line` bytes apart.
  function along(data, out, table, lines, line, step, outLine, outStep) {
    table.forEach(({ first, values }, place) => {
      const count = values.length;
      for (let row = 0; row < lines; row++) {
        let red = 1 << (BITS - 1), green = red, blue = red;
        for (let k = 0, at = row * line + first * step; k < count; k++, at += step) {
          const weight = values[k];
          red += data[at] * weight;
          green += data[at + 1] * weight;
          blue += data[at + 2] * weight;
        }
        const to = row * outLine + place * outStep;
        out[to] = red >> BITS; // a Uint8ClampedArray clips
        out[to + 1] = green >> BITS;
        out[to + 2] = blue >> BITS;
      }
    });
  }

  function nearest({ data, width, height }, toWidth, toHeight) {
    const places = (from, to) => {
      const found = new Int32Array(to);
      for (let place = 0, at = (from / to) * 0.5; place < to; place++, at += from / to) found[place] = Math.min(from - 1, Math.trunc(at));
      return found;
    };
    const across = places(width, toWidth), down = places(height, toHeight), out = new Uint8ClampedArray(toWidth * toHeight * 3);
    for (let y = 0, to = 0; y < toHeight; y++)
      for (let x = 0; x < toWidth; x++, to += 3) {
        const at = (down[y] * width + across[x]) * 3;
        out[to] = data[at];
        out[to + 1] = data[at + 1];
        out[to + 2] = data[at + 2];
      }
    return { data: out, width: toWidth, height: toHeight };
  }

  // Image.resize of Pillow: across and down, rounded to bytes after each. Pillow 13 goes down first where a picture
  // loses more than twice as many rows as columns; before, it always went across first.
  function resize(picture, toWidth, toHeight, interpolation, rowsFirst = true) {
    if (picture.width === toWidth && picture.height === toHeight) return picture;
    if (interpolation === "nearest") return nearest(picture, toWidth, toHeight);
    const filter = FILTERS[interpolation];
    if (!filter) throw new Error(`no interpolation ${interpolation}`);
    const across = ({ data, width, height }) => {
      if (width === toWidth) return { data, width, height };
      const out = new Uint8ClampedArray(toWidth * height * 3);
      along(data, out, weights(width, toWidth, filter), height, width * 3, 3, toWidth * 3, 3);
      return { data: out, width: toWidth, height };
    };
    const down = ({ data, width, height }) => {
      if (height === toHeight) return { data, width, height };
      const out = new Uint8ClampedArray(width * toHeight * 3);
      along(data, out, weights(height, toHeight, filter), width, 3, width * 3, 3, width * 3);
      return { data: out, width, height: toHeight };
    };
    const lost = picture.height - toHeight, tall = rowsFirst && lost > 0 && lost > 2 * (picture.width - toWidth);
    return tall ? across(down(picture)) : down(across(picture));
  }

  // Python rounds halves to the even neighbor.
  function round(value) {
    const below = Math.floor(value), rest = value - below;
    return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
  }

  const begin = (length, crop) => (crop <= length ? round((length - crop) / 2) : -Math.floor((crop - length) / 2));

  function resized({ width, height }, recipe) {
    if (recipe.resize === null || recipe.resize === undefined) return [width, height];
    if (typeof recipe.resize !== "number") return [recipe.resize[1], recipe.resize[0]];
    const short = Math.min(width, height);
    return [Math.trunc((recipe.resize * width) / short), Math.trunc((recipe.resize * height) / short)];
  }

  // The box [left, top, width, height] of a photo that is left after the crop, in its own pixels.
  function view(photo, recipe) {
    const [width, height] = resized(photo, recipe), [cropHeight, cropWidth] = recipe.size;
    const left = begin(width, cropWidth), top = begin(height, cropHeight);
    const across = photo.width / width, down = photo.height / height;
    const x0 = round(left * across), y0 = round(top * down);
    return [x0, y0, Math.max(round((left + cropWidth) * across) - x0, 1), Math.max(round((top + cropHeight) * down) - y0, 1)];
  }

  // The photo resized, cropped in the center and normalized: a Float32Array of (channels, height, width).
  function prepare(photo, recipe) {
    const [height, width] = recipe.size, [smallWidth, smallHeight] = resized(photo, recipe);
    const small = resize(photo, smallWidth, smallHeight, recipe.interpolation, recipe.rowsFirst);
    const left = begin(smallWidth, width), top = begin(smallHeight, height), area = height * width;
    const tables = recipe.mean.map((mean, channel) => {
      const m = Math.fround(mean), s = Math.fround(recipe.std[channel]);
      return Float32Array.from({ length: 256 }, (_, byte) => Math.fround(Math.fround(byte / 255) - m) / s);
    });
    const out = new Float32Array(tables.length * area);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const inside = y + top >= 0 && y + top < smallHeight && x + left >= 0 && x + left < smallWidth;
        const at = ((y + top) * smallWidth + x + left) * 3, to = y * width + x;
        const [red, green, blue] = inside ? [small.data[at], small.data[at + 1], small.data[at + 2]] : [0, 0, 0];
        if (tables.length === 1) out[to] = tables[0][(red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16];
        else {
          out[to] = tables[0][red];
          out[to + area] = tables[1][green];
          out[to + 2 * area] = tables[2][blue];
        }
      }
    return out;
  }

  Object.assign(camfn, { round, view, prepare });
})((globalThis.camfn ??= {}));
