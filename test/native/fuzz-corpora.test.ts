/**
 * What the fuzzers found (test/fuzz/regressions) and begin with (test/fuzz/corpus), through the readers as they are
 * shipped: every outcome is a description or an error with a code. `npm run fuzz` looks for more.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { describeWeights } from '../../src/engine/describe.js';
import { inspectWeights } from '../../src/engine/inspect.js';
import { JitFluxError } from '../../src/errors.js';

const FUZZ = new URL('../fuzz/', import.meta.url).pathname;
/** Names without an ending would be taken for nothing by a folder, and for anything by a file. */
const FILES: Record<string, string> = {
  safetensors: 'file.safetensors',
  torchscript: 'file.pt',
  zip: 'file.pt',
  weights: 'file',
  index: 'model.safetensors.index.json',
};
const CODES = ['CORRUPT_FILE', 'UNSAFE_FILE', 'UNSUPPORTED_FORMAT', 'FILE_NOT_FOUND', 'WEIGHTS_MISMATCH'];

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'jit-flux-corpora-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function inputs(target: string): [name: string, path: string][] {
  return ['regressions', 'corpus'].flatMap((kind) => {
    const path = join(FUZZ, kind, target);
    return existsSync(path)
      ? readdirSync(path).map((name): [string, string] => [`${kind}/${target}/${name}`, join(path, name)])
      : [];
  });
}

async function check(path: string): Promise<void> {
  for (const read of [describeWeights, inspectWeights]) {
    const error = await read(path).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (error === undefined) continue;
    expect(error).toBeInstanceOf(JitFluxError);
    const { code, message } = error as JitFluxError;
    expect(CODES.map((name) => `ERR_JITFLUX_${name}`)).toContain(code);
    // eslint-disable-next-line no-control-regex -- these are what must not be there
    expect(message).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
    expect(message.length).toBeLessThan(64 * 1024);
  }
}

describe.each(Object.entries(FILES))('inputs of the fuzz target %s', (target, name) => {
  it('are described or refused with a code', async () => {
    for (const [label, path] of inputs(target)) {
      const file = join(folder, name);
      writeFileSync(file, readFileSync(path));
      await check(file).catch((cause: unknown) => {
        throw new Error(label, { cause });
      });
    }
  });
});

describe('inputs of the fuzz target directory', () => {
  /** Length of a name, the name, length of the content (two bytes), the content: test/fuzz/directory.cc. */
  function unpack(bytes: Buffer, target: string): void {
    let rest = bytes;
    for (let files = 0; rest.length > 3 && files < 8; files++) {
      const end = 1 + Math.min(rest.readUInt8(0), rest.length - 3);
      const name = rest.subarray(1, end);
      const length = rest.readUInt16LE(end);
      const usable =
        name.length > 0 && !name.includes(0) && !name.includes('/') && !/^\.\.?$/.test(name.toString());
      if (usable) {
        const path = Buffer.concat([Buffer.from(`${target}/`), name]);
        writeFileSync(path, rest.subarray(end + 2, end + 2 + length));
      }
      rest = rest.subarray(end + 2 + length);
    }
  }

  it('are described or refused with a code', async () => {
    for (const [label, path] of inputs('directory')) {
      const target = join(folder, 'directory');
      mkdirSync(target);
      unpack(readFileSync(path), target);
      await check(target).catch((cause: unknown) => {
        throw new Error(label, { cause });
      });
      rmSync(target, { recursive: true });
    }
  });
});

interface Target {
  default: { open(): Promise<(input: Buffer) => unknown> };
}
const SCRIPTS = readdirSync(FUZZ).filter((name) => name.endsWith('.mjs'));

describe.each(SCRIPTS)('inputs of the fuzz target %s', (script) => {
  it('keep the properties of the target', async () => {
    const target = (await import(join(FUZZ, script))) as Target;
    const run = await target.default.open();
    for (const [label, path] of inputs(script.replace('.mjs', ''))) {
      try {
        await run(readFileSync(path));
      } catch (cause) {
        throw new Error(label, { cause });
      }
    }
  });
});
