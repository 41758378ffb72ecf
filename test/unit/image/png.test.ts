import { crc32 } from 'node:zlib';

import { decode } from 'fast-png';
import { describe, expect, it } from 'vitest';

import { encodePng, encodePngAsync, METADATA_KEYWORD, readPngText } from '../../../src/image/index.js';
import { runSource } from '../../support/program.js';

function picture(width: number, height: number) {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 37 + (i >> 5)) & 255);
  return { width, height, data };
}

const METADATA = {
  prompt: 'a red circle\non a café table',
  seed: '18446744073709551615',
  preset: 'jit-4x',
  steps: 18,
  guidance: 3.5,
  model: 'flux-tiny',
  version: '0.1.0',
};

describe('encodePng', () => {
  it('round-trips pixels and metadata', () => {
    const image = picture(33, 17);
    const png = encodePng(image, METADATA);
    const decoded = decode(png, { checkCrc: true });
    expect([decoded.width, decoded.height, decoded.channels, decoded.depth]).toEqual([33, 17, 3, 8]);
    expect(
      Buffer.from(decoded.data.buffer as ArrayBuffer, decoded.data.byteOffset, decoded.data.byteLength),
    ).toEqual(Buffer.from(image.data));
    const { text, metadata } = readPngText(png);
    expect(metadata).toEqual(METADATA);
    expect(text).toMatchObject({
      prompt: METADATA.prompt,
      seed: METADATA.seed,
      steps: '18',
      guidance: '3.5',
    });
    expect(decoded.text.prompt).toBe(METADATA.prompt);
    expect(text[METADATA_KEYWORD]).toMatch(/^[\x20-\x7e]*$/);
  });

  it('keeps text beyond Latin-1', () => {
    const metadata = { prompt: '赤い円 🐱', seed: '1', note: 'nul\0inside' };
    const png = encodePng(picture(4, 4), metadata);
    expect(decode(png, { checkCrc: true }).width).toBe(4);
    const read = readPngText(png);
    expect(read.text.prompt).toBe(metadata.prompt);
    expect(read.text.note).toBe('nul\ufffdinside');
    expect(read.metadata).toEqual(metadata);
  });

  it('is deterministic', () => {
    const image = picture(64, 48);
    expect(Buffer.compare(encodePng(image, METADATA), encodePng(image, { ...METADATA }))).toBe(0);
  });

  it('refuses data of the wrong size', () => {
    expect(() => encodePng({ width: 2, height: 2, data: new Uint8Array(13) })).toThrow(
      /2 x 2 x 3 = 12 bytes/,
    );
    expect(() => encodePng({ width: 0, height: 2, data: new Uint8Array(0) })).toThrow(/"width"/);
  });
});

describe('readPngText', () => {
  it('refuses other files and damaged ones', () => {
    const png = encodePng(picture(4, 4), METADATA);
    expect(() => readPngText(Buffer.from('GIF89a, not a PNG'))).toThrow(
      expect.objectContaining({ code: 'ERR_JITFLUX_UNSUPPORTED_FORMAT' }),
    );
    for (const end of [8, 20, png.length - 1]) {
      expect(() => readPngText(png.subarray(0, end))).toThrow(
        expect.objectContaining({ code: 'ERR_JITFLUX_CORRUPT_FILE' }),
      );
    }
    const damaged = Uint8Array.from(png);
    const at = Buffer.from(png).indexOf('tEXtprompt') + 14;
    damaged[at] = (damaged[at] ?? 0) ^ 1;
    expect(() => readPngText(damaged)).toThrow(/checksum/);
  });

  it('has no metadata where there is none', () => {
    expect(readPngText(encodePng(picture(2, 2)))).toEqual({ text: {} });
  });

  /** A PNG of one pixel with these text chunks in front of it. */
  function withText(...chunks: [type: string, content: string][]): Uint8Array {
    const png = Buffer.from(encodePng(picture(1, 1)));
    const texts = chunks.map(([type, content]) => {
      const body = Buffer.from(type + content, 'latin1');
      const chunk = Buffer.alloc(body.length + 8);
      chunk.writeUInt32BE(body.length - 4, 0);
      body.copy(chunk, 4);
      chunk.writeUInt32BE(crc32(body), body.length + 4);
      return chunk;
    });
    return Buffer.concat([png.subarray(0, 33), ...texts, png.subarray(33)]);
  }

  it('passes over chunks that say nothing it can read', () => {
    const unreadable: [string, string][] = [
      ['tEXt', 'no keyword'],
      ['tEXt', '\0an empty keyword'],
      ['iTXt', 'compressed\0\x01\0\0\0x'],
      ['iTXt', 'no language\0\0\0'],
      ['iTXt', 'no translation\0\0\0en'],
      ['iTXt', 'nothing behind it\0'],
      ['zTXt', 'another kind\0\0x'],
    ];
    const png = withText(...unreadable, ['tEXt', 'title\0a circle'], ['iTXt', 'note\0\0\0en\0Notiz\0x']);
    expect(readPngText(png)).toEqual({ text: { title: 'a circle', note: 'x' } });
  });

  it.each(['[1]', '1', 'null', '"text"', '{', ''])('takes %j under our keyword for text only', (document) => {
    const png = withText(['tEXt', `${METADATA_KEYWORD}\0${document}`]);
    expect(readPngText(png)).toEqual({ text: { [METADATA_KEYWORD]: document } });
  });

  it('keeps keywords that JavaScript objects have a meaning for', () => {
    const { text } = readPngText(withText(['tEXt', '__proto__\0x'], ['tEXt', 'constructor\0y']));
    expect(Object.entries(text)).toEqual([
      ['__proto__', 'x'],
      ['constructor', 'y'],
    ]);
  });
});

describe('encodePngAsync', () => {
  it('gives the bytes of encodePng, for several pictures at once', async () => {
    const images = [picture(33, 17), picture(256, 256), picture(1, 1)];
    const files = await Promise.all(images.map((image) => encodePngAsync(image, METADATA)));
    files.forEach((png, i) => expect(Buffer.compare(png, encodePng(images[i]!, METADATA))).toBe(0));
    // The caller's pixels are still his.
    expect(images[1]!.data).toHaveLength(256 * 256 * 3);
  });

  it('reports errors, can be aborted, and goes on', async () => {
    const bad = { width: 2, height: 2, data: new Uint8Array(3) };
    await expect(encodePngAsync(bad)).rejects.toMatchObject({ code: 'ERR_JITFLUX_INVALID_ARGUMENT' });
    const controller = new AbortController();
    const aborted = encodePngAsync(picture(512, 512), {}, { signal: controller.signal });
    controller.abort('enough');
    await expect(aborted).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED', cause: 'enough' });
    expect((await encodePngAsync(picture(2, 2))).length).toBeGreaterThan(50);
    const metadata = { seed: 1n } as unknown as Record<string, string>;
    await expect(encodePngAsync(picture(2, 2), metadata)).rejects.toMatchObject({
      code: 'ERR_JITFLUX_INVALID_ARGUMENT',
      message: expect.stringMatching(/"metadata".*bigint/) as string,
    });
    expect((await encodePngAsync(picture(2, 2))).length).toBeGreaterThan(50);
  });

  it('keeps no process alive', () => {
    const image = new URL('../../../dist/image/index.js', import.meta.url).href;
    const source = `
      const { encodePngAsync } = await import(${JSON.stringify(image)});
      const png = await encodePngAsync({ width: 1, height: 1, data: Uint8Array.of(1, 2, 3) });
      console.log(png.length > 50);
    `;
    expect(runSource(source, { seconds: 20 })).toMatchObject({ status: 0, stdout: 'true\n', stderr: '' });
  });
});
