import sharp from 'sharp';
import { describe, expect, it } from 'vitest';

import {
  contactSheet,
  encodeImage,
  encodePng,
  formatForPath,
  formatOfContent,
  psnr,
  readImageFacts,
  type RgbImage,
} from '../../../src/image/index.js';
import { expectError } from '../../support/errors.js';

function picture(width: number, height: number, of: (x: number, y: number) => readonly number[]): RgbImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) data.set(of(x, y), (y * width + x) * 3);
  return { width, height, data };
}

const smooth = picture(48, 32, (x, y) => [x * 5, y * 7, 255 - x * 5]);
const METADATA = {
  prompt: 'a <b> & "ü" 日本 ]]> </jitflux:metadata>',
  seed: '18446744073709551615',
  steps: 4,
};

async function pixelsOf(file: Uint8Array): Promise<RgbImage> {
  const { data, info } = await sharp(file).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, data: new Uint8Array(data) };
}

describe('encodeImage', () => {
  it('as PNG gives the bytes of encodePng', async () => {
    expect(Buffer.from(await encodeImage(smooth))).toEqual(Buffer.from(encodePng(smooth)));
    const file = await encodeImage(smooth, { format: 'png', metadata: METADATA });
    expect(Buffer.from(file)).toEqual(Buffer.from(encodePng(smooth, METADATA)));
  });

  it.each(['jpeg', 'webp'] as const)('as %s keeps the picture and what it says', async (format) => {
    const file = await encodeImage(smooth, { format, metadata: METADATA });
    expect(formatOfContent(Buffer.from(file))).toBe(format);
    expect(psnr(await pixelsOf(file), smooth)).toBeGreaterThan(35);
    expect(await readImageFacts(Buffer.from(file))).toEqual({
      format,
      width: 48,
      height: 32,
      text: {},
      metadata: METADATA,
    });
    const again = await encodeImage(smooth, { format, metadata: METADATA });
    expect(Buffer.from(again)).toEqual(Buffer.from(file));
    const silent = await encodeImage(smooth, { format });
    expect((await readImageFacts(Buffer.from(silent))).metadata).toBeUndefined();
    const coarse = await encodeImage(smooth, { format, quality: 20 });
    expect(coarse.length).toBeLessThan(silent.length);
  });

  it('leaves out of a JPEG what it has no room for', async () => {
    const metadata = { prompt: '日'.repeat(22_000) };
    const file = await encodeImage(smooth, { format: 'jpeg', metadata });
    expect((await readImageFacts(Buffer.from(file))).metadata).toBeUndefined();
    expect(psnr(await pixelsOf(file), smooth)).toBeGreaterThan(35);
  });

  it('refuses what it does not know, and stops when it is told to', async () => {
    const code = 'ERR_JITFLUX_INVALID_ARGUMENT';
    await expectError(() => encodeImage(smooth, { format: 'gif' as never }), code, /png, jpeg, webp.*gif/s);
    await expectError(() => encodeImage(smooth, { format: 'jpeg', quality: 0 }), code, /quality.*0/s);
    await expectError(() => encodeImage({ ...smooth, width: 3 }, { format: 'webp' }), code, /data/);
    await expectError(() => encodeImage(smooth, { qualty: 3 } as never), code, /qualty/);
    const signal = AbortSignal.abort();
    for (const format of ['png', 'jpeg'] as const) {
      await expectError(() => encodeImage(smooth, { format, signal }), 'ERR_JITFLUX_ABORTED');
    }
  });
});

describe('a file name', () => {
  it('says the format', async () => {
    const names = ['a.png', 'a.PNG', 'b.jpg', 'b.JPEG', 'x.y/c.webp'];
    const formats = await Promise.all(names.map((name) => formatForPath(name, 'out')));
    expect(formats).toEqual(['png', 'png', 'jpeg', 'jpeg', 'webp']);
    for (const name of ['a', 'a.gif', 'png', '.png', 'a.constructor']) {
      await expectError(
        () => formatForPath(name, 'out'),
        'ERR_JITFLUX_INVALID_ARGUMENT',
        /ends in \.png, \.jpg or \.webp.*"out"/,
      );
    }
  });
});

describe('readImageFacts', () => {
  it('of other content is refused', async () => {
    await expectError(() => readImageFacts(Buffer.from('GIF89a')), 'ERR_JITFLUX_UNSUPPORTED_FORMAT');
    await expectError(() => readImageFacts(Buffer.alloc(0)), 'ERR_JITFLUX_UNSUPPORTED_FORMAT');
    for (const format of ['jpeg', 'webp', 'png'] as const) {
      const file = Buffer.from(await encodeImage(smooth, { format }));
      await expectError(() => readImageFacts(file.subarray(0, 20)), 'ERR_JITFLUX_CORRUPT_FILE');
    }
  });

  it("takes another program's XMP for none of ours", async () => {
    const xmp = (inner: string) =>
      `<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/">${inner}</x:xmpmeta><?xpacket end="w"?>`;
    for (const inner of [
      '<dc:title>mine</dc:title>',
      '<jitflux:metadata>{"prompt":</jitflux:metadata>',
      '<jitflux:metadata>{"prompt":{"deep":[1]}}</jitflux:metadata>',
      '<jitflux:metadata>{}',
    ]) {
      const file = await sharp(Buffer.from(encodePng(smooth)))
        .jpeg()
        .withXmp(xmp(inner))
        .toBuffer();
      expect((await readImageFacts(file)).metadata).toBeUndefined();
    }
  });
});

describe('contactSheet', () => {
  const filled = (value: number, width = 4, height = 3) =>
    picture(width, height, () => [value, value, value]);
  const at = ({ data, width }: RgbImage, x: number, y: number) => data[(y * width + x) * 3];

  it('places pictures row by row on grey', () => {
    const sheet = contactSheet([filled(1), filled(2), filled(3)], { gap: 2 });
    expect([sheet.width, sheet.height]).toEqual([2 + 2 * (4 + 2), 2 + 2 * (3 + 2)]);
    expect([at(sheet, 2, 2), at(sheet, 8, 2), at(sheet, 2, 7), at(sheet, 8, 7)]).toEqual([1, 2, 3, 128]);
    expect([at(sheet, 1, 1), at(sheet, 6, 2), at(sheet, 2, 5)]).toEqual([128, 128, 128]);
    const row = contactSheet([filled(1), filled(2)], { gap: 0, columns: 5 });
    expect([row.width, row.height]).toEqual([8, 3]);
    const column = contactSheet([filled(1), filled(2)], { gap: 0, columns: 1 });
    expect([column.width, column.height, at(column, 3, 2), at(column, 0, 3)]).toEqual([4, 6, 1, 2]);
  });

  it('puts a smaller one into the middle of its cell', () => {
    const sheet = contactSheet([filled(1, 6, 6), filled(2, 2, 4)], { gap: 0 });
    expect([sheet.width, sheet.height]).toEqual([12, 6]);
    expect([at(sheet, 7, 3), at(sheet, 8, 1), at(sheet, 9, 4), at(sheet, 8, 0)]).toEqual([128, 2, 2, 128]);
  });

  it('refuses no pictures, and what is none', async () => {
    const code = 'ERR_JITFLUX_INVALID_ARGUMENT';
    await expectError(() => contactSheet([]), code, /1 to 10000 pictures/);
    await expectError(() => contactSheet([{ width: 1, height: 1, data: new Uint8Array(2) }]), code, /data/);
    await expectError(() => contactSheet([filled(1)], { columns: 0 }), code, /columns/);
    await expectError(() => contactSheet([filled(1)], { gap: 257 }), code, /gap/);
  });
});
