// The four files of a CLIP tokenizer, in the input one after another with a zero byte between them: vocab.json,
// merges.txt, special_tokens_map.json, tokenizer_config.json. The last two may be absent.
import { memoryFolder } from './support/folder.mjs';
import { built, coded, expect, refusedOr, refusedOrAsync } from './support/outcome.mjs';

const FILES = ['vocab.json', 'merges.txt', 'special_tokens_map.json', 'tokenizer_config.json'];
const PROMPTS = ['', 'a red circle', "it's 12 \ud83d\ude00"];
const LENGTH = 16;

/** @type {import('./support/loop.mjs').Target} */
export default {
  instrument: ['/dist/text/'],
  maxLength: 4096,
  async open() {
    const { loadClipTokenizer } = await built('text/snapshot-tokenizers.js');
    const folder = memoryFolder();
    return async (input) => {
      const parts = input.toString('latin1').split('\0');
      FILES.forEach((name, i) => {
        const part = parts[i];
        folder.write(name, part === undefined ? (i < 2 ? '' : undefined) : Buffer.from(part, 'latin1'));
      });
      const promised = coded('INVALID_MODEL', 'FILE_NOT_FOUND');
      const tokenizer = await refusedOrAsync(promised, () => loadClipTokenizer(folder.path));
      if (tokenizer === undefined) return;
      for (const prompt of PROMPTS) {
        const encoded = refusedOr(coded('INVALID_MODEL'), () => tokenizer.encode(prompt, LENGTH));
        if (encoded === undefined) continue;
        expect(encoded.ids.length === Math.max(LENGTH, tokenizer.specialTokens), 'as many ids as asked for');
        expect(
          encoded.ids.every((/** @type {unknown} */ id) => Number.isSafeInteger(id)),
          'ids are integers',
        );
      }
    };
  },
};
