// Text chunks of a PNG: readPngText on any bytes, on the same with the checksums of its chunks put right, and what
// encodePng writes.
import { crc32 } from 'node:zlib';
import { built, coded, expect, refusedOr } from './support/outcome.mjs';

const promised = coded('UNSUPPORTED_FORMAT', 'CORRUPT_FILE');

/** With the right checksum behind every chunk that is complete. @param {Buffer} input */
function repaired(input) {
  const bytes = Buffer.from(input);
  for (let at = 8; at + 12 <= bytes.length;) {
    const end = at + 8 + bytes.readUInt32BE(at);
    if (end + 4 > bytes.length) break;
    bytes.writeUInt32BE(crc32(bytes.subarray(at + 4, end)), end);
    at = end + 4;
  }
  return bytes;
}

/** Of the complete tEXt chunks up to the end. @param {Buffer} input */
function* keywords(input) {
  for (let at = 8; at + 12 <= input.length;) {
    const end = at + 8 + input.readUInt32BE(at);
    if (end + 4 > input.length) return;
    const type = input.toString('latin1', at + 4, at + 8);
    if (type === 'IEND') return;
    const nul = input.subarray(at + 8, end).indexOf(0);
    if (type === 'tEXt' && nul > 0) yield input.toString('latin1', at + 8, at + 8 + nul);
    at = end + 4;
  }
}

/** @type {import('./support/loop.mjs').Target} */
export default {
  instrument: ['/dist/image/png.js'],
  maxLength: 2048,
  async open() {
    const { encodePng, readPngText } = await built('image/png.js');
    const picture = { width: 1, height: 1, data: new Uint8Array(3) };
    return (input) => {
      refusedOr(promised, () => readPngText(input));
      const read = refusedOr(promised, () => readPngText(repaired(input)));
      if (read === undefined) return;
      for (const [keyword, text] of Object.entries(read.text)) {
        expect(keyword !== '' && typeof text === 'string', 'keywords have texts');
      }
      for (const keyword of keywords(input)) {
        expect(Object.hasOwn(read.text, keyword), 'every tEXt chunk is there, whatever its name');
      }
      const { metadata } = read;
      expect(
        metadata === undefined || (typeof metadata === 'object' && !Array.isArray(metadata)),
        'an object',
      );
      // Others are read, and not written.
      const texts = Object.entries(read.text).filter(([keyword]) =>
        /^[\x20-\x7e\xa0-\xff]{1,79}$/.test(keyword),
      );
      if (input.length % 16 !== 0 || texts.length === 0) return;
      const again = readPngText(encodePng(picture, Object.fromEntries(texts)));
      for (const [keyword, text] of texts) {
        if (keyword === 'jit-flux') continue;
        expect(Object.hasOwn(again.text, keyword), 'a keyword is read back');
        expect(again.text[keyword] === text.replaceAll('\0', '\ufffd'), 'a text is read back');
      }
    };
  },
  mutate(input, { random, change }) {
    /** @type {Buffer[]} */
    const chunks = [];
    for (let at = 8; at + 12 <= input.length;) {
      const next = at + 12 + input.readUInt32BE(at);
      if (next > input.length) break;
      chunks.push(input.subarray(at + 4, next - 4));
      at = next;
    }
    if (chunks.length === 0) return undefined;
    const place = random.below(chunks.length);
    const chunk = /** @type {Buffer} */ (chunks[place]);
    const choice = random.below(8);
    if (choice === 0) chunks.splice(place, 1);
    else if (choice === 1) chunks.splice(place, 0, Buffer.from(chunk));
    else chunks[place] = Buffer.concat([chunk.subarray(0, 4), change(chunk.subarray(4))]);
    const parts = chunks.map((content) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(content.length - 4);
      return Buffer.concat([length, content, Buffer.alloc(4)]);
    });
    return repaired(Buffer.concat([input.subarray(0, 8), ...parts]));
  },
};
