// A tokenizer.json and what it makes of prompts. The input is the file's text.
import { mutateJson } from './support/mutate.mjs';
import { built, coded, expect, refusedOr } from './support/outcome.mjs';

const PROMPTS = [
  '',
  'a red circle',
  'Ein großes Haus,  12 !',
  '\ufb01 \u0061\u0308 \ud83d\udc68\u200d\ud83d\udc69',
  ' \ud800 ',
];
const LENGTH = 24;

/** @type {import('./support/loop.mjs').Target} */
export default {
  instrument: ['/dist/text/', '/@huggingface/tokenizers/'],
  maxLength: 4096,
  async open() {
    const { Tokenizer } = await built('text/tokenizer.js');
    return (input) => {
      let json;
      try {
        json = JSON.parse(input.toString('utf8'));
      } catch {
        return;
      }
      const tokenizer = refusedOr(coded('INVALID_MODEL'), () => Tokenizer.from(json, 'file'));
      if (tokenizer === undefined) return;
      for (const prompt of PROMPTS) {
        const encoded = refusedOr(coded('INVALID_MODEL'), () => tokenizer.encode(prompt, LENGTH));
        if (encoded === undefined) continue;
        const { ids, tokens, truncated } = encoded;
        expect(ids.length === Math.max(LENGTH, tokenizer.specialTokens), 'as many ids as asked for');
        expect(
          ids.every((/** @type {unknown} */ id) => Number.isSafeInteger(id)),
          'ids are integers',
        );
        expect(tokens >= 0 && truncated === Math.max(0, tokens - LENGTH), 'tokens are counted');
      }
    };
  },
  mutate: (input, { random }) => mutateJson(input, random),
};
