// Small files of settings: the first byte says which, the rest is the file. Every reader of one refuses with a code.
import { memoryFolder } from './support/folder.mjs';
import { mutateJson } from './support/mutate.mjs';
import { built, coded, expect, refusedOrAsync } from './support/outcome.mjs';

/** @type {import('./support/loop.mjs').Target} */
export default {
  instrument: [
    '/dist/engine/component-config.js',
    '/dist/model/model-directory.js',
    '/dist/model/model-family.js',
    '/dist/convert/snapshot.js',
    '/dist/files/',
  ],
  maxLength: 2048,
  async open() {
    const config = await built('engine/component-config.js');
    const { readSchedule } = await built('model/model-family.js');
    const { checkModelIndex } = await built('model/model-directory.js');
    const { readSnapshot } = await built('convert/snapshot.js');
    const { readJsonFile } = await built('files/json.js');
    const { path, write } = memoryFolder();
    const weights = `${path}/weights.safetensors`;
    for (const part of ['unet', 'text_encoder', 'tokenizer']) write(`${part}/file`, '');
    /** @type {Record<string, [name: string, read: () => Promise<any>]>} */
    const readers = {
      t: ['config.json', () => config.readTransformerConfig(weights)],
      c: ['config.json', () => config.readClipConfig(weights)],
      5: ['config.json', () => config.readT5Config(weights)],
      a: ['config.json', () => config.readAutoencoderConfig(weights)],
      s: ['scheduler_config.json', () => readSchedule(`${path}/scheduler_config.json`)],
      m: ['index.json', async () => checkModelIndex(await readJsonFile(`${path}/index.json`), 'index.json')],
      n: ['model_index.json', () => readSnapshot(path)],
    };
    return async (input) => {
      const reader = readers[input.toString('latin1', 0, 1)];
      if (reader === undefined) return;
      const [name, read] = reader;
      write(name, input.subarray(1));
      const result = await refusedOrAsync(coded('INVALID_MODEL', 'FILE_NOT_FOUND'), read);
      write(name, undefined);
      for (const value of Object.values({ ...result?.settings, ...result?.declared })) {
        const numbers = [value].flat().filter((each) => typeof each === 'number');
        expect(numbers.every(Number.isFinite), 'numbers are finite');
      }
      for (const file of result?.others ?? []) {
        expect(!file.split('/').includes('..') && !file.startsWith('/'), 'nothing outside of the folder');
      }
    };
  },
  mutate(input, { random }) {
    const text = mutateJson(input.subarray(1), random);
    return text && Buffer.concat([input.subarray(0, 1), text]);
  },
};
