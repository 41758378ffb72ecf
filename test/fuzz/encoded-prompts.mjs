// A file of encoded prompts, as loadEncodedPrompts reads it and save() writes it. Needs LibTorch: what comes out are
// tensors.
import { memoryFolder } from './support/folder.mjs';
import { built, coded, expect, refusedOrAsync } from './support/outcome.mjs';

/** @type {import('./support/loop.mjs').Target} */
export default {
  instrument: ['/dist/pipeline/encoded-prompts.js'],
  maxLength: 2048,
  async open() {
    const { loadEncodedPrompts } = await built('pipeline/encoded-prompts.js');
    const { path, write } = memoryFolder();
    const promised = coded('UNSUPPORTED_FORMAT', 'CORRUPT_FILE', 'FILE_NOT_FOUND', 'UNSAFE_FILE');
    return async (input) => {
      write('file', input);
      const read = await refusedOrAsync(promised, () => loadEncodedPrompts(`${path}/file`));
      if (read === undefined) return;
      const rows = read.prompts.length;
      expect(rows > 0 && read.prompt.shape[0] === rows && read.pooled.shape[0] === rows, 'one row a prompt');
      await read.save(`${path}/again`);
      const again = await loadEncodedPrompts(`${path}/again`);
      expect(JSON.stringify(again.prompts) === JSON.stringify(read.prompts), 'what is saved is read back');
      for (const name of ['prompt', 'pooled']) {
        const [a, b] = await Promise.all([read[name].toFloat32Array(), again[name].toFloat32Array()]);
        expect(Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0, 'values are read back');
      }
      read.dispose();
      again.dispose();
    };
  },
  mutate(input, { random, change }) {
    if (input.length < 8) return undefined;
    const length = Number(input.readBigUInt64LE(0));
    if (length > input.length - 8) return undefined;
    let header = input.subarray(8, 8 + length);
    let data = input.subarray(8 + length);
    if (random.below(16) === 0) data = change(data);
    else header = change(header);
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(header.length));
    return Buffer.concat([size, header, data]);
  },
};
