// Pixels to input tensor, in every bit as edge_stra/preprocess.py. A picture is {width, height, channels, bytes}.

/** RGB of a canvas's ImageData, its alpha dropped. */
export function rgbOf(image) {
  const count = image.width * image.height;
  const bytes = new Uint8Array(3 * count);
  for (let i = 0; i < count; i++) {
    bytes[3 * i] = image.data[4 * i];
    bytes[3 * i + 1] = image.data[4 * i + 1];
    bytes[3 * i + 2] = image.data[4 * i + 2];
  }
  return { width: image.width, height: image.height, channels: 3, bytes };
}

/** OpenCV's COLOR_RGB2GRAY: 0.299 R + 0.587 G + 0.114 B in 15 fractional bits. */
export function grey({ width, height, bytes: rgb }) {
  const bytes = new Uint8Array(width * height);
  for (let i = 0, j = 0; i < bytes.length; i++, j += 3) {
    bytes[i] = (9798 * rgb[j] + 19235 * rgb[j + 1] + 3735 * rgb[j + 2] + (1 << 14)) >> 15;
  }
  return { width, height, channels: 1, bytes };
}

/** Resizes; larger pictures are halved first, against aliasing. */
export function resizeExact(picture, width, height) {
  let last = picture;
  while (last.height >= 2 * height && last.width >= 2 * width) last = resizeOnce(last, last.width >> 1, last.height >> 1);
  return resizeOnce(last, width, height);
}

/** OpenCV's INTER_LINEAR_EXACT: along rows in 8 fractional bits, down columns in 8 more, rounded once at the end. */
function resizeOnce(picture, width, height) {
  if (width === picture.width && height === picture.height) return picture;
  const { channels, bytes: source } = picture;
  const across = taps(picture.width, width, channels);
  const length = width * channels;
  const narrow = new Int32Array(picture.height * length); // in 1/256
  for (let row = 0, out = 0; row < picture.height; row++) {
    const start = row * picture.width * channels;
    for (let i = 0; i < width; i++) {
      const near = start + across.near[i];
      const far = start + across.far[i];
      const weight = across.weight[i];
      for (let c = 0; c < channels; c++) narrow[out++] = source[near + c] * (256 - weight) + source[far + c] * weight;
    }
  }
  const bytes = new Uint8Array(height * length);
  const down = taps(picture.height, height, length);
  for (let row = 0, out = 0; row < height; row++) {
    const near = down.near[row];
    const far = down.far[row];
    const weight = down.weight[row];
    for (let i = 0; i < length; i++) {
      bytes[out++] = (narrow[near + i] * (256 - weight) + narrow[far + i] * weight + (1 << 15)) >> 16;
    }
  }
  return { width, height, channels, bytes };
}

/** Where the two sources of each output pixel begin, `step` values apart, and the far one's weight in 1/256. */
function taps(source, target, step) {
  const [near, far, weight] = [0, 1, 2].map(() => new Int32Array(target));
  const scale = 1 / (target / source); // OpenCV inverts twice, and so rounds twice
  for (let i = 0; i < target; i++) {
    const place = scale * (i + 0.5) - 0.5; // centres lie at i + 1/2
    const low = Math.floor(place);
    const inside = low >= 0 && low < source - 1;
    near[i] = step * Math.max(0, Math.min(low, source - 1));
    far[i] = inside ? near[i] + step : near[i];
    weight[i] = inside ? halfToEven((place - low) * 256) : 0;
  }
  return { near, far, weight };
}

function halfToEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
}

/** What the model sees: grey where it wants that, at its size. */
export function prepared(picture, input) {
  const [height, width] = input.size_hw;
  return resizeExact(input.color === "grey" ? grey(picture) : picture, width, height);
}

/** The normalised input [1, H, W, 3], float32 at every step as numpy has it. */
export function tensorOf(picture, input) {
  const ready = prepared(picture, input);
  const one = Math.fround;
  const tables = [0, 1, 2].map((c) => {
    const [mean, std] = [one(input.mean_rgb[c]), one(input.std_rgb[c])];
    return Float32Array.from({ length: 256 }, (_, byte) => one(one(one(byte / 255) - mean) / std));
  });
  const single = ready.channels === 1;
  const tensor = new Float32Array(ready.width * ready.height * 3);
  for (let i = 0, pixel = 0; i < tensor.length; i += 3, pixel++) {
    for (let c = 0; c < 3; c++) tensor[i + c] = tables[c][ready.bytes[single ? pixel : i + c]];
  }
  return tensor;
}
