import { describe, expect, it } from 'vitest';

import { terminalPicture, type Terminal } from '../../../src/cli/show.js';
import type { RgbImage } from '../../../src/image/index.js';

const halves = (width: number, height: number): RgbImage => ({
  width,
  height,
  // Red above, blue below.
  data: Uint8Array.from({ length: width * height * 3 }, (_, i) => {
    const isUpper = Math.floor(i / 3 / width) < height / 2;
    return i % 3 === (isUpper ? 0 : 2) ? 255 : 0;
  }),
});

const terminal = (columns: number, rows: number, depth: number): Terminal => ({
  columns,
  rows,
  getColorDepth: () => depth,
});

/** Cells of each line. */
const cells = (text: string) => text.split('\n').map((line) => line.split('▀').length - 1);

describe('a picture in a terminal', () => {
  it('fits it, with two pixels per character', () => {
    expect(cells(terminalPicture(halves(1024, 1024), terminal(80, 24, 24))!)).toEqual(
      Array<number>(20).fill(40),
    );
    expect(cells(terminalPicture(halves(1024, 1024), terminal(50, 60, 24))!)).toEqual(
      Array<number>(25).fill(50),
    );
    expect(cells(terminalPicture(halves(1024, 256), terminal(300, 90, 24))!)).toEqual(
      Array<number>(12).fill(100),
    );
    // Not enlarged; and something even where there is no room.
    expect(cells(terminalPicture(halves(8, 6), terminal(80, 24, 24))!)).toEqual([8, 8, 8]);
    expect(cells(terminalPicture(halves(8, 6), terminal(1, 1, 24))!)).toEqual([1]);
  });

  it('has the colours that the terminal has', () => {
    expect(terminalPicture(halves(1, 2), terminal(80, 24, 24))).toBe(
      '\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m',
    );
    expect(terminalPicture(halves(1, 2), terminal(80, 24, 8))).toBe('\x1b[38;5;196;48;5;21m▀\x1b[0m');
    // The mean of what falls into a pixel.
    expect(terminalPicture(halves(2, 4), terminal(1, 4, 24))).toBe('\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m');
  });

  it('is none where there are too few', () => {
    expect(terminalPicture(halves(2, 2), terminal(80, 24, 4))).toBeUndefined();
    expect(terminalPicture(halves(2, 2), {})).toBeUndefined();
  });
});
