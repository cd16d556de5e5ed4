// From pixels to what a network takes: the same numbers as `compress predict`
// (compress/data/photo.py, compress/data/decode.py and compress/data/color.py).

import { reduce, resizePillow, resizeTorch } from "./resize.js";

// As in compress/data/photo.py.
const REDUCING_GAP = 2, LARGEST_SCALE = 8, NARROWEST = 3 / 4, LONGEST = 8;

/**
 * Return what a network sees of an image: an image of its size, of 1 or 3 channels.
 *
 * @param {ImageData} picture upright, its colours not multiplied by alpha.
 * @param {object} model what its file says of itself: input_size, crop_ratio, background, …
 * @param {boolean} invert swap light and dark.
 */
export function look(picture, model, invert) {
  const [channels, height, width] = model.input_size;
  const ground = model.background.map((value) => (invert ? 255 - value : value));
  const { width: across, height: down } = picture;
  const scale = decodingScale(down, across, Math.max(height, width), model.crop_ratio);
  let image = reduce(flatten(picture, ground), scale);
  if (channels === 1) image = toLuma(image);
  image = fit(image, [down, across], scale, [height, width], model);
  if (invert) image.data = image.data.map((value) => 255 - value);
  return image;
}

/** Return an image as the values of a tensor (1, C, H, W), normalized unless the file does that. */
export function toTensor({ width, height, channels, data }, model) {
  const size = width * height;
  const values = model.uint8 ? new Uint8Array(data.length) : new Float32Array(data.length);
  for (let channel = 0; channel < channels; channel++) {
    const mean = Math.fround(model.mean[channel]), std = Math.fround(model.std[channel]);
    for (let place = 0; place < size; place++) {
      const value = data[place * channels + channel];
      values[channel * size + place] = model.uint8
        ? value
        : Math.fround(Math.fround(Math.fround(value / 255) - mean) / std);
    }
  }
  return values;
}

/** Return probabilities of logits. */
export function softmax(logits, temperature) {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const most = scaled.reduce((a, b) => Math.max(a, b));
  const powers = scaled.map((value) => Math.exp(value - most));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}

/** Lay an image over a colour, as Pillow's `alpha_composite` does. */
function flatten({ width, height, data }, ground) {
  const flat = new Uint8Array(width * height * 3);
  for (let place = 0, pixel = 0; pixel < data.length; pixel += 4) {
    const alpha = data[pixel + 3];
    for (let channel = 0; channel < 3; channel++) {
      const value = data[pixel + channel];
      if (alpha === 255) {
        flat[place++] = value;
      } else {
        const mixed = (value * alpha + ground[channel] * (255 - alpha)) * 128 + 0x4000;
        flat[place++] = (((mixed >> 8) + mixed) >> 8) >> 7;
      }
    }
  }
  return { width, height, channels: 3, data: flat };
}

function toLuma({ width, height, data }) {
  const grey = new Uint8Array(width * height);
  for (let place = 0; place < grey.length; place++) {
    const [red, green, blue] = data.subarray(3 * place, 3 * place + 3);
    grey[place] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
  }
  return { width, height, channels: 1, data: grey };
}

/** Round as Python does: a half to the even neighbour. */
function roundEven(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}

/** Return the scale at which a large image is decoded, 1 to 8. */
function decodingScale(height, width, side, cropRatio) {
  const least = Math.min(height, width);
  const available = Math.min(Math.sqrt(NARROWEST * height * width), least) / (REDUCING_GAP * side);
  const resized = least / (REDUCING_GAP * roundEven(side / cropRatio));
  let scale = 1;
  while (scale < LARGEST_SCALE && Math.min(available, resized) >= 2 * scale) scale *= 2;
  return scale;
}

/** Resize an image until it covers the network's, and crop the centre. */
function fit(image, [height, width], scale, [rows, columns], { crop_ratio, pillow }) {
  const [down, across] = cover(height, width, rows, columns, crop_ratio);
  const top = roundEven((down - rows) / 2), left = roundEven((across - columns) / 2);
  const [short, long] = [Math.min(height, width), Math.max(height, width)];
  if (scale === 1 && long <= LONGEST * short && Math.min(rows, columns) > 1) {
    return crop(resizeTorch(image, across, down), left, top, columns, rows);
  }
  const x = width / across, y = height / down;
  const box = [left * x, top * y, (left + columns) * x, (top + rows) * y];
  const [west, north, east, south] = box.map((edge, index) =>
    Math.min(edge / scale, index % 2 ? image.height : image.width),
  );
  const [first, row] = [Math.floor(west), Math.floor(north)];
  const hull = crop(image, first, row, Math.ceil(east) - first, Math.ceil(south) - row);
  const inside = [west - first, north - row, east - first, south - row];
  return resizePillow(hull, inside, columns, rows, pillow);
}

function cover(height, width, rows, columns, cropRatio) {
  const [down, across] = [rows, columns].map((side) => roundEven(side / cropRatio));
  return width * down < height * across
    ? [Math.floor((across * height) / width), across]
    : [down, Math.floor((down * width) / height)];
}

function crop({ width, channels, data }, left, top, columns, rows) {
  const cropped = new Uint8Array(columns * rows * channels);
  for (let row = 0; row < rows; row++) {
    const start = ((top + row) * width + left) * channels;
    cropped.set(data.subarray(start, start + columns * channels), row * columns * channels);
  }
  return { width: columns, height: rows, channels, data: cropped };
}
