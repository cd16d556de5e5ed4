// Resizing with antialiasing, in whole numbers, as Pillow and torch compute it.
//
// An image is {width, height, channels, data}: bytes, row by row, the channels of a pixel together.

// Weights of Pillow have so many bits after the point.
const PILLOW_BITS = 22;

/**
 * Resize a box of an image, whose edges may lie between pixels, as Pillow does.
 *
 * @param {number} version of Pillow: from 13 on, an image that gets much lower is first resized
 *   along columns.
 */
export function resizePillow(image, [left, top, right, bottom], width, height, version) {
  const across = weigh(image.width, Math.fround(left), Math.fround(right), width);
  const down = weigh(image.height, Math.fround(top), Math.fround(bottom), height);
  const lower = image.height - height, narrower = image.width - width;
  const downFirst = version >= 13 && lower > 0 && lower > 2 * narrower;
  return resample(image, quantize(across, PILLOW_BITS), quantize(down, PILLOW_BITS), downFirst);
}

/** Resize an image as torch does: weights of 16 bits, with as many after the point as fit. */
export function resizeTorch(image, width, height) {
  const across = weigh(image.width, 0, image.width, width);
  const down = weigh(image.height, 0, image.height, height);
  return resample(image, quantize(across, torchBits(across)), quantize(down, torchBits(down)));
}

/** Replace blocks of `scale` × `scale` pixels by their means, as Pillow's `reduce` does. */
export function reduce(image, scale) {
  if (scale === 1) return image;
  const { width, height, channels, data } = image;
  const reduced = blank(Math.ceil(width / scale), Math.ceil(height / scale), channels);
  let place = 0;
  for (let y = 0; y < height; y += scale) {
    for (let x = 0; x < width; x += scale) {
      const bottom = Math.min(y + scale, height), right = Math.min(x + scale, width);
      const count = (bottom - y) * (right - x);
      // Pillow multiplies by a rounded reciprocal, and so rounds some means down.
      const reciprocal = Math.floor(Math.fround(2 ** 32 / (256 * count)));
      for (let channel = 0; channel < channels; channel++) {
        let sum = count >> 1;
        for (let row = y; row < bottom; row++) {
          for (let column = x; column < right; column++) {
            sum += data[(row * width + column) * channels + channel];
          }
        }
        reduced.data[place++] = Math.floor((sum * reciprocal) / 2 ** 24);
      }
    }
  }
  return reduced;
}

function blank(width, height, channels) {
  return { width, height, channels, data: new Uint8Array(width * height * channels) };
}

/** Return, for each of `count` pixels, the first pixel that it is made of, and weights. */
function weigh(size, start, end, count) {
  const scale = Math.fround(end - start) / count;
  const support = Math.max(scale, 1);
  return Array.from({ length: count }, (_, number) => {
    const center = start + (number + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), size);
    const weights = [];
    for (let place = first; place < last; place++) {
      weights.push(Math.max(0, 1 - Math.abs((place - center + 0.5) * (1 / support))));
    }
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

function torchBits(rows) {
  const largest = rows.reduce((most, row) => Math.max(most, ...row.weights), 0);
  let bits = 0;
  while (bits < 22 && Math.trunc(0.5 + largest * 2 ** (bits + 1)) < 2 ** 15) bits++;
  return bits;
}

function quantize(rows, bits) {
  const whole = ({ first, weights }) => ({
    first,
    weights: weights.map((weight) => Math.trunc(0.5 + weight * 2 ** bits)),
  });
  return { bits, rows: rows.map(whole) };
}

/** Resize along rows, then along columns, or the reverse; values between are bytes, too. */
function resample(image, across, down, downFirst = false) {
  return downFirst
    ? resizeRows(resizeColumns(image, down), across)
    : resizeColumns(resizeRows(image, across), down);
}

function resizeRows({ width, height, channels, data }, across) {
  const resized = blank(across.rows.length, height, channels);
  for (let y = 0; y < height; y++) {
    const from = y * width * channels, to = y * resized.width * channels;
    mix(data, from, channels, across, channels, resized.data, to, channels);
  }
  return resized;
}

function resizeColumns({ width, channels, data }, down) {
  const resized = blank(width, down.rows.length, channels);
  const stride = width * channels;
  mix(data, 0, stride, down, stride, resized.data, 0, stride);
  return resized;
}

/** Mix vectors of `length` bytes, `step` apart, by the weights of each row. */
function mix(source, from, step, { bits, rows }, length, target, to, toStep) {
  const half = 2 ** (bits - 1);
  rows.forEach(({ first, weights }, number) => {
    for (let offset = 0; offset < length; offset++) {
      let sum = half;
      let place = from + first * step + offset;
      for (let index = 0; index < weights.length; index++, place += step) {
        sum += source[place] * weights[index];
      }
      target[to + number * toStep + offset] = Math.min(255, sum >> bits);
    }
  });
}
