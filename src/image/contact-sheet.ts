/** Several pictures in one. */
import { checkInteger, type Names, readList, readOptions } from '../arguments.js';
import { checkImage, type RgbImage } from './png.js';

/** Options of {@link contactSheet}. */
export interface ContactSheetOptions {
  /** Pictures in a row. Default: as many as make the sheet about square. */
  columns?: number | undefined;
  /** Pixels between pictures and around them, 0 to 256. Default 8. */
  gap?: number | undefined;
}

const OPTIONS: Names<ContactSheetOptions> = { columns: true, gap: true };
const MOST_IMAGES = 10_000;
const DEFAULT_GAP = 8;
const WIDEST_GAP = 256;
/** Neither black nor white, so that pictures of both can be told from it. */
const GREY = 0x80;

/**
 * Pictures side by side, row by row, on grey. A cell is as large as the largest of them, and smaller ones are in its middle.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function contactSheet(given: readonly RgbImage[], o: ContactSheetOptions = {}): RgbImage {
  const expected = `a list of 1 to ${MOST_IMAGES} pictures`;
  const images = readList(given, 'images', expected, [1, MOST_IMAGES]).map(checkImage);
  const { columns = Math.ceil(Math.sqrt(images.length)), gap = DEFAULT_GAP } = readOptions(o, OPTIONS);
  checkInteger('columns', columns, 1, MOST_IMAGES);
  checkInteger('gap', gap, 0, WIDEST_GAP);
  const across = Math.min(columns, images.length);
  const cell = {
    width: Math.max(...images.map(({ width }) => width)),
    height: Math.max(...images.map(({ height }) => height)),
  };
  const rows = Math.ceil(images.length / across);
  const width = gap + across * (cell.width + gap);
  const height = gap + rows * (cell.height + gap);
  const data = new Uint8Array(width * height * 3).fill(GREY);
  for (const [i, image] of images.entries()) {
    const left = gap + (i % across) * (cell.width + gap) + Math.floor((cell.width - image.width) / 2);
    const top =
      gap + Math.floor(i / across) * (cell.height + gap) + Math.floor((cell.height - image.height) / 2);
    for (let y = 0; y < image.height; y++) {
      const row = image.data.subarray(y * image.width * 3, (y + 1) * image.width * 3);
      data.set(row, ((top + y) * width + left) * 3);
    }
  }
  return { width, height, data };
}
