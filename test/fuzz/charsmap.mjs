// SentencePiece's character map, and texts normalised by it.
import { built, expect, refusedOr } from './support/outcome.mjs';

const TEXTS = ['', 'abc ABC', '\ufb01\u2460\uff21', '\u0061\u0308\ud83d\ude00', 'a\0b\ud800'];

/** @type {import('./support/loop.mjs').Target} */
export default {
  instrument: ['/dist/text/charsmap.js'],
  maxLength: 2048,
  async open() {
    const { InvalidCharsmap, charsmapNormalizer } = await built('text/charsmap.js');
    return (input) => {
      const normalize = refusedOr(
        (error) => error instanceof InvalidCharsmap,
        () => charsmapNormalizer(input.toString('base64')),
      );
      if (normalize === undefined) return;
      for (const text of TEXTS) {
        const result = normalize(text);
        expect(typeof result === 'string' && normalize(text) === result, 'a text has one normal form');
        expect(result.length <= text.length * input.length, 'a text does not grow beyond the map');
      }
    };
  },
  mutate(input, { random, change }) {
    if (input.length < 8) return undefined;
    // The length of the trie goes with the trie.
    const length = Math.min(input.readUInt32LE(0), input.length - 4);
    let trie = input.subarray(4, 4 + length);
    let rest = input.subarray(4 + length);
    if (random.below(4) === 0) rest = change(rest);
    else trie = change(trie);
    trie = trie.subarray(0, trie.length - (trie.length % 4));
    const size = Buffer.alloc(4);
    size.writeUInt32LE(trie.length);
    return Buffer.concat([size, trie, rest]);
  },
};
