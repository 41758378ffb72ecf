/** How alike two pictures are. */
import { invalidArgument } from '../errors.js';
import { checkImage, type RgbImage } from './png.js';

/** Largest value of a byte. */
const PEAK = 255;

/**
 * Peak signal-to-noise ratio of two pictures of one size, in dB over all bytes; `Infinity` if they are equal.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function psnr(a: RgbImage, b: RgbImage): number {
  const [one, other] = ofOneSize(a, b);
  let sum = 0;
  for (let i = 0; i < one.data.length; i++) sum += (one.data[i]! - other.data[i]!) ** 2;
  return 10 * Math.log10((PEAK ** 2 * one.data.length) / sum);
}

/** Window of Wang et al.: 11 x 11, Gaussian of this standard deviation. */
const WINDOW = 11;
const DEVIATION = 1.5;
/** Their K1 and K2, times the peak, squared. */
const C1 = (0.01 * PEAK) ** 2;
const C2 = (0.03 * PEAK) ** 2;
/** Shares of red, green and blue in luma (ITU-R BT.601). */
const LUMA = [0.299, 0.587, 0.114] as const;

/**
 * Mean structural similarity of the luma of two pictures of one size (Wang, Bovik, Sheikh and Simoncelli, 2004): 1 if they
 * are equal. Windows of 11 x 11 that lie in the picture, population statistics; scikit-image's `structural_similarity` with
 * `gaussian_weights=True, use_sample_covariance=False, data_range=255` gives the same. Computed at once: about 0.3 s for
 * 1024x1024.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, also for pictures with a side below 11
 */
export function ssim(a: RgbImage, b: RgbImage): number {
  const [one, other] = ofOneSize(a, b);
  const { width, height } = one;
  if (Math.min(width, height) < WINDOW) {
    throw invalidArgument('image', `sides of at least ${WINDOW} pixels`, `${width} x ${height}`);
  }
  const [x, y] = [lumaOf(one), lumaOf(other)];
  const blurred = (value: (i: number) => number) =>
    blur(
      Float64Array.from(x, (_, i) => value(i)),
      width,
    );
  const meanX = blurred((i) => x[i]!);
  const meanY = blurred((i) => y[i]!);
  const squareX = blurred((i) => x[i]! ** 2);
  const squareY = blurred((i) => y[i]! ** 2);
  const product = blurred((i) => x[i]! * y[i]!);
  let sum = 0;
  for (let i = 0; i < meanX.length; i++) {
    const [mx, my] = [meanX[i]!, meanY[i]!];
    const [vx, vy, vxy] = [squareX[i]! - mx * mx, squareY[i]! - my * my, product[i]! - mx * my];
    sum += ((2 * mx * my + C1) * (2 * vxy + C2)) / ((mx * mx + my * my + C1) * (vx + vy + C2));
  }
  return sum / meanX.length;
}

function ofOneSize(a: RgbImage, b: RgbImage): [RgbImage, RgbImage] {
  const [one, other] = [checkImage(a), checkImage(b)];
  if (one.width === other.width && one.height === other.height) return [one, other];
  const wanted = `two pictures of one size (the first is ${one.width} x ${one.height})`;
  throw invalidArgument('image', wanted, `${other.width} x ${other.height}`);
}

function lumaOf({ data }: RgbImage): Float64Array {
  const [red, green, blue] = LUMA;
  return Float64Array.from({ length: data.length / 3 }, (_, i) => {
    return red * data[3 * i]! + green * data[3 * i + 1]! + blue * data[3 * i + 2]!;
  });
}

/** Along rows, then along columns; where the whole window lies in the picture. */
function blur(values: Float64Array, width: number): Float64Array {
  const weights = gaussian();
  const height = values.length / width;
  const [cols, rows] = [width - WINDOW + 1, height - WINDOW + 1];
  const along = new Float64Array(cols * height);
  for (let r = 0; r < height; r++) {
    for (let c = 0; c < cols; c++) {
      let sum = 0;
      for (let j = 0; j < WINDOW; j++) sum += weights[j]! * values[r * width + c + j]!;
      along[r * cols + c] = sum;
    }
  }
  const blurred = new Float64Array(cols * rows);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) {
      let sum = 0;
      for (let j = 0; j < WINDOW; j++) sum += weights[j]! * along[(r + j) * cols + c]!;
      blurred[r * cols + c] = sum;
    }
  }
  return blurred;
}

function gaussian(): number[] {
  const centre = (WINDOW - 1) / 2;
  const raw = Array.from({ length: WINDOW }, (_, j) => Math.exp(-0.5 * ((j - centre) / DEVIATION) ** 2));
  const sum = raw.reduce((total, value) => total + value, 0);
  return raw.map((value) => value / sum);
}
