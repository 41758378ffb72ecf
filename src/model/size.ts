import { invalidArgument } from '../errors.js';

/** Fewest tokens along a side; the interpolation between anchors looks three tokens beyond the border. */
export const MIN_SIDE_TOKENS = 4;
/** Most pixels along a side. */
export const MAX_SIDE_PIXELS = 8192;

/** Side of one packed token in pixels: 16 for FLUX.1, 8 for flux-tiny. */
export function pixelsPerToken(index: { decoder: { spatialFactor: number } }): number {
  return index.decoder.spatialFactor * 2;
}

/**
 * Checks a picture's width or height.
 * @param unit pixels per token
 * @param model name for the message
 * @throws ERR_JITFLUX_INVALID_ARGUMENT stating the rule
 */
export function checkSide(option: 'width' | 'height', value: unknown, unit: number, model: string): number {
  const least = unit * MIN_SIDE_TOKENS;
  const most = Math.floor(MAX_SIDE_PIXELS / unit) * unit;
  const valid =
    Number.isInteger(value) &&
    (value as number) % unit === 0 &&
    (value as number) >= least &&
    (value as number) <= most;
  if (valid) return value as number;
  const isNumber = typeof value === 'number' && Number.isFinite(value);
  const nearest = isNumber && Math.min(most, Math.max(least, Math.round(value / unit) * unit));
  throw invalidArgument(
    option,
    `a multiple of ${unit} from ${least} to ${most} (pixels, for ${model}${isNumber ? `; ${nearest} is the nearest` : ''})`,
    value,
  );
}
