/** Pictures in a terminal: two pixels per character, the upper half of a block over the lower. */
import type { RgbImage } from '../image/index.js';

/** What a terminal says of itself. */
export interface Terminal {
  columns?: number;
  rows?: number;
  /** Bits per colour: 24, 8 (256 colours), 4, 1. As `tty.WriteStream`. */
  getColorDepth?: () => number;
}

/** Widest picture in characters: more is not seen better. */
const WIDEST = 100;
const [DEFAULT_COLUMNS, DEFAULT_ROWS] = [80, 24];
/** Lines below the picture: where it is, how long it took, the prompt of the shell. */
const LINES_BELOW = 4;
const UPPER_HALF = '▀';

/**
 * The picture as text with colours, one line per two rows of pixels; undefined where the terminal has fewer than 256 colours.
 * It fits the terminal, and is not enlarged.
 */
export function terminalPicture(image: RgbImage, terminal: Terminal): string | undefined {
  const depth = terminal.getColorDepth?.() ?? 1;
  if (depth < 8) return undefined;
  const { columns = DEFAULT_COLUMNS, rows = DEFAULT_ROWS } = terminal;
  const most = { width: Math.min(columns, WIDEST), height: 2 * Math.max(1, rows - LINES_BELOW) };
  const scale = Math.min(1, most.width / image.width, most.height / image.height);
  const width = Math.max(1, Math.floor(image.width * scale));
  // An even number of rows.
  const height = 2 * Math.max(1, Math.floor((image.height * scale) / 2));
  const small = shrink(image, width, height);
  const colour = depth >= 24 ? trueColour : paletteColour;
  const lines: string[] = [];
  for (let y = 0; y < height; y += 2) {
    let line = '';
    for (let x = 0; x < width; x++) {
      const [upper, lower] = [(y * width + x) * 3, ((y + 1) * width + x) * 3];
      line += `\x1b[38;${colour(small, upper)};48;${colour(small, lower)}m${UPPER_HALF}`;
    }
    lines.push(`${line}\x1b[0m`);
  }
  return lines.join('\n');
}

const trueColour = (data: Uint8Array, at: number) => `2;${data[at]};${data[at + 1]};${data[at + 2]}`;

/** The nearest of the 6 x 6 x 6 colours that every terminal of 256 has from 16 on. */
function paletteColour(data: Uint8Array, at: number): string {
  const level = (value: number) => Math.round((value / 255) * 5);
  const [red, green, blue] = [level(data[at]!), level(data[at + 1]!), level(data[at + 2]!)];
  return `5;${16 + 36 * red + 6 * green + blue}`;
}

/** The mean of the pixels that fall into each of fewer ones. */
function shrink({ width, height, data }: RgbImage, toWidth: number, toHeight: number): Uint8Array {
  const small = new Uint8Array(toWidth * toHeight * 3);
  const bounds = (i: number, from: number, to: number) => {
    const first = Math.floor((i * from) / to);
    return [first, Math.max(first + 1, Math.floor(((i + 1) * from) / to))] as const;
  };
  for (let y = 0; y < toHeight; y++) {
    const [top, bottom] = bounds(y, height, toHeight);
    for (let x = 0; x < toWidth; x++) {
      const [left, right] = bounds(x, width, toWidth);
      const sums = [0, 0, 0];
      for (let v = top; v < bottom; v++) {
        for (let u = left; u < right; u++) {
          for (let c = 0; c < 3; c++) sums[c]! += data[(v * width + u) * 3 + c]!;
        }
      }
      const count = (bottom - top) * (right - left);
      for (let c = 0; c < 3; c++) small[(y * toWidth + x) * 3 + c] = Math.round(sums[c]! / count);
    }
  }
  return small;
}
