/** How well a format with losses keeps a picture. Nothing large is imported here, so that help is quick. */
import { checkInteger } from '../arguments.js';

/** No difference is to be seen at 1:1. */
export const DEFAULT_QUALITY = 92;
/** Least and most. */
export const QUALITY_RANGE = [1, 100] as const;

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkQuality(quality: unknown): number {
  return checkInteger('quality', quality, ...QUALITY_RANGE);
}
