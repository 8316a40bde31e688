"use strict";
// Raw maps drawn in colors, by the arithmetic of camfn.image: normalize, upsample, colorize, overlay.
(camfn => {
  const extent = values => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

  // What the colors span: from the lowest value that is shown to the highest. Negative values are shown if `signed`.
  function spanOf(values, signed) {
    if (!values.every(Number.isFinite)) return [0, 0];
    const [low, high] = extent(values), most = Math.max(-low, high);
    return signed ? [-most, most] : [Math.max(low, 0), Math.max(high, 0)];
  }

  // Values in 0..1 along a span; a span of no length shows nothing.
  function heat(values, [low, high], signed) {
    const nothing = signed ? 0.5 : 0;
    return Float32Array.from(values, value => (high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : nothing));
  }

  // For each new place between half-pixel centers: two old places, and the share of the second.
  const between = (from, to) =>
    Array.from({ length: to }, (_, place) => {
      const at = Math.min(Math.max(((place + 0.5) * from) / to - 0.5, 0), from - 1), first = Math.floor(at);
      return [first, Math.min(first + 1, from - 1), at - first];
    });

  function color(colors, value) {
    const place = value * (colors.length - 1), first = Math.min(Math.floor(place), colors.length - 2), rest = place - first;
    return colors[first].map((channel, k) => channel + (colors[first + 1][k] - channel) * rest);
  }

  // The overlay as ImageData: opacity rises from nothing at zero to `alpha` at half the range.
  function overlay(values, [rows, columns], width, height, { colors, signed, alpha }) {
    const image = new ImageData(width, height), down = between(rows, height), across = between(columns, width);
    const zero = signed ? 0.5 : 0, table = Array.from({ length: 1024 }, (_, k) => color(colors, k / 1023));
    for (let y = 0, to = 0; y < height; y++) {
      const [above, below, v] = down[y];
      for (let x = 0; x < width; x++, to += 4) {
        const [left, right, u] = across[x];
        const upper = values[above * columns + left] * (1 - u) + values[above * columns + right] * u;
        const lower = values[below * columns + left] * (1 - u) + values[below * columns + right] * u;
        const value = upper * (1 - v) + lower * v, rgb = table[Math.round(value * 1023)];
        image.data[to] = rgb[0];
        image.data[to + 1] = rgb[1];
        image.data[to + 2] = rgb[2];
        image.data[to + 3] = 255 * alpha * Math.min(1, (2 * Math.abs(value - zero)) / (1 - zero));
      }
    }
    return image;
  }

  // Where a map is strongest, in words for those who do not see it.
  function inWords(values, [rows, columns]) {
    if (!values.every(Number.isFinite)) return "The map shows nothing: it has values that are not finite.";
    const positive = Array.from(values, value => Math.max(value, 0)), [, high] = extent(positive);
    if (!values.some(value => value)) return "The map shows nothing for this class: it is zero everywhere.";
    if (high <= 0) return "The map has no positive value for this class; the colors “seismic” show the negative ones.";
    const at = positive.indexOf(high), y = (Math.floor(at / columns) + 0.5) / rows, x = ((at % columns) + 0.5) / columns;
    const upDown = ["at the top", "in the middle", "at the bottom"][Math.floor(y * 3)];
    const leftRight = ["on the left", "", "on the right"][Math.floor(x * 3)];
    const place = !leftRight && upDown === "in the middle" ? "in the center" : [upDown, leftRight].filter(Boolean).join(" ");
    const total = positive.reduce((sum, value) => sum + value, 0);
    let sum = 0;
    const count = positive.sort((a, b) => b - a).findIndex(value => (sum += value) >= total / 2) + 1;
    return `The map is strongest ${place}; ${Math.round((100 * count) / (rows * columns))}\u00a0% of the picture holds half of it.`;
  }

  Object.assign(camfn, { spanOf, heat, overlay, color, inWords, extent });
})((globalThis.camfn ??= {}));
