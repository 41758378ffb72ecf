/**
 * Headers of safetensors files that were made to exhaust or to mislead, through every entry that takes such a file: the
 * native reader judges them all, so every entry gives the same code, and the event loop turns meanwhile.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { convertModel } from '../../../src/convert/index.js';
import { describeWeights } from '../../../src/engine/describe.js';
import { inspectWeights } from '../../../src/engine/inspect.js';
import { ERROR_CODES } from '../../../src/errors.js';
import { resolveModel } from '../../../src/model/resolve-model.js';
import { loadEncodedPrompts } from '../../../src/pipeline/encoded-prompts.js';
import { expectError } from '../../support/errors.js';

const { CORRUPT_FILE, UNSAFE_FILE, UNSUPPORTED_FORMAT, ABORTED } = ERROR_CODES;

let directory: string;
let file: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'jit-flux-header-'));
  file = join(directory, 'flux1-dev.safetensors');
});
afterAll(() => rm(directory, { recursive: true, force: true }));

type Entry = (signal?: AbortSignal) => Promise<unknown>;
const ENTRIES: Record<string, Entry> = {
  inspectWeights: (signal) => inspectWeights(file, signal && { signal }),
  describeWeights: (signal) => describeWeights(file, { signal }),
  'resolveModel of a file': (signal) => resolveModel(file, { signal, textEncoders: false }),
  'resolveModel of a directory': (signal) => resolveModel(directory, { signal, textEncoders: false }),
  convertModel: (signal) => convertModel(file, join(directory, 'out.pt'), signal && { signal }),
  loadEncodedPrompts: (signal) => loadEncodedPrompts(file, { signal }),
};

async function write(header: string | Buffer, length?: bigint): Promise<void> {
  const json = Buffer.from(header);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(length ?? BigInt(json.length));
  await writeFile(file, Buffer.concat([size, json, Buffer.alloc(64)]));
  // Beside a checkpoint, so that nothing else about the model is wrong before its header is read.
  await writeFile(join(directory, 'ae.safetensors'), 'no weights');
}

const tensor = (name: string, o: object = {}): string =>
  `${JSON.stringify(name)}: ${JSON.stringify({ dtype: 'F32', shape: [1], data_offsets: [0, 4], ...o })}`;

const HEADERS: Record<string, [header: string | Buffer, code: string, length?: bigint]> = {
  'deep nesting': [`{"__metadata__": {"a": ${'['.repeat(100_000)}`, UNSAFE_FILE],
  'a tensor twice': [`{${tensor('a')}, ${tensor('a', { data_offsets: [4, 8] })}}`, CORRUPT_FILE],
  'a field twice': [
    '{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    CORRUPT_FILE,
  ],
  'an unknown field': [`{${tensor('a', { code: 'x' })}}`, CORRUPT_FILE],
  'a number beyond 64 bits': ['{"a": {"dtype": "F32", "shape": [1' + '0'.repeat(400) + ']}}', CORRUPT_FILE],
  'a number beyond the file': [`{${tensor('a', { data_offsets: [0, 2 ** 53] })}}`, CORRUPT_FILE],
  'a fraction': ['{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}', CORRUPT_FILE],
  'a negative number': ['{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', CORRUPT_FILE],
  'a product that overflows': [`{${tensor('a', { shape: [2 ** 40, 2 ** 40] })}}`, CORRUPT_FILE],
  'many dimensions': [`{${tensor('a', { shape: Array.from({ length: 100 }, () => 1) })}}`, UNSAFE_FILE],
  'tensors that overlap': [`{${tensor('a')}, ${tensor('b', { data_offsets: [2, 6] })}}`, CORRUPT_FILE],
  'offsets in the wrong order': [`{${tensor('a', { data_offsets: [4, 0] })}}`, CORRUPT_FILE],
  'a name that is no UTF-8': [
    Buffer.concat([
      Buffer.from('{"'),
      Buffer.from([0xff, 0xc0]),
      Buffer.from(tensor('a').slice(2)),
      Buffer.from('}'),
    ]),
    CORRUPT_FILE,
  ],
  'half a surrogate pair': [`{${tensor('a').replace('"a"', '"\\ud800"')}}`, CORRUPT_FILE],
  'a long name': [`{${tensor('a'.repeat(10_000))}}`, UNSAFE_FILE],
  'a comma too many': [`{${tensor('a')},}`, CORRUPT_FILE],
  'something behind it': [`{${tensor('a')}} {}`, CORRUPT_FILE],
  'a type that nobody knows': [`{${tensor('a', { dtype: 'F4' })}}`, UNSUPPORTED_FORMAT],
  'more than the file': [`{${tensor('a')}}`, CORRUPT_FILE, 5000n],
  'more than any file': [`{${tensor('a')}}`, UNSAFE_FILE, 200_000_000n],
};

describe.each(Object.entries(HEADERS))('a header with %s', (_name, [header, code, length]) => {
  it.each(Object.entries(ENTRIES))('is refused by %s with the same code', async (_entry, run) => {
    await write(header, length);
    const error = await expectError(() => run(), code);
    expect(error.message).toContain(file);
  });
});

/** How often the event loop turned while something was done. */
async function countTurns(work: () => Promise<unknown>): Promise<number> {
  let turns = 0;
  let working = true;
  const count = (): void => {
    turns++;
    if (working) setImmediate(count);
  };
  count();
  await work();
  working = false;
  return turns;
}

describe('a header of 95 MB', () => {
  beforeAll(async () => {
    // The most tensors that fit: what took JavaScript's parser minutes, and gigabytes.
    const entries = Array.from(
      { length: 1_500_000 },
      (_, i) => `"${i}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`,
    );
    await write(`{${entries.join(',')}}`);
  });

  it.each(Object.entries(ENTRIES))('is refused by %s, and the event loop turns', async (_entry, run) => {
    const turns = await countTurns(() => expectError(() => run(), UNSAFE_FILE, /too many tensors/));
    expect(turns).toBeGreaterThan(1000);
  });

  it.each(['inspectWeights', 'resolveModel of a file', 'loadEncodedPrompts'])(
    'is given up by %s when the signal fires',
    async (entry) => {
      const controller = new AbortController();
      const reason = new Error('enough');
      const running = ENTRIES[entry]!(controller.signal);
      void setTimeout(20).then(() => controller.abort(reason));
      const error = await expectError(() => running, ABORTED);
      expect(error.cause).toBe(reason);
    },
  );
});

describe('what is no header of encoded prompts', () => {
  const prompts = (metadata: string) =>
    `{${tensor('prompt', { shape: [1, 1, 1] })}, ${tensor('pooled', { shape: [1, 1], data_offsets: [4, 8] })}, ` +
    `"__metadata__": ${metadata}}`;

  it.each<[string, string]>([
    ['weights', `{${tensor('a')}}`],
    [
      'a third tensor',
      `{${tensor('prompt')}, ${tensor('pooled', { data_offsets: [4, 8] })}, ${tensor('c', { data_offsets: [8, 12] })}}`,
    ],
    [
      'another type',
      `{${tensor('prompt', { dtype: 'I32' })}, ${tensor('pooled', { data_offsets: [4, 8] })}}`,
    ],
    ['no metadata', prompts('{}')],
    ['metadata of another kind', prompts('[]')],
    ['millions of values in the metadata', prompts(`{"a": [${'[],'.repeat(5_000_000)}[]]}`)],
    [
      'millions of keys in the metadata',
      prompts(`{"a": "${'\\"'.repeat(100)}", ${'"b":0,'.repeat(2_000_000)}"c":0}`),
    ],
  ])('%s', async (_name, header) => {
    await write(header);
    await expectError(() => loadEncodedPrompts(file), UNSUPPORTED_FORMAT);
  });

  it.each(['prompts', 'tokens', 'warnings'])('%s that are no JSON', async (field) => {
    const metadata = {
      format: 'jit-flux-conditioning',
      version: '1',
      model: 'm',
      prompts: '["a"]',
      tokens: '[{}]',
      warnings: '[]',
      [field]: '{"__proto__": [',
    };
    await write(prompts(JSON.stringify(metadata)));
    await expectError(() => loadEncodedPrompts(file), CORRUPT_FILE, /metadata is malformed/);
  });

  it('prompts with millions of values in a text of the metadata', async () => {
    const metadata = {
      format: 'jit-flux-conditioning',
      version: '1',
      model: 'm',
      tokens: '[]',
      warnings: '[]',
    };
    await write(prompts(JSON.stringify({ ...metadata, prompts: `[${'[],'.repeat(3_000_000)}[]]` })));
    await expectError(() => loadEncodedPrompts(file), CORRUPT_FILE, /lists more than any prompts/);
  });
});

describe('the metadata of a safetensors file', () => {
  const withMetadata = (metadata: string) => write(`{"__metadata__": ${metadata}, ${tensor('a')}}`);
  const inspect = () => inspectWeights(file, { metadata: true });

  it('is given where it is asked for, whatever the names are', async () => {
    await withMetadata('{"__proto__": "p", "toString": "\\u00e4", "": "", "number": 1, "list": ["x"]}');
    const { metadata } = await inspect();
    expect(Object.entries(metadata!)).toEqual([
      ['', ''],
      ['__proto__', 'p'],
      ['toString', 'ä'],
    ]);
    expect(await inspectWeights(file)).not.toHaveProperty('metadata');
  });

  it('is empty where there is none, and no object', async () => {
    await write(`{${tensor('a')}}`);
    expect((await inspect()).metadata).toEqual({});
    await withMetadata('["a"]');
    expect((await inspect()).metadata).toEqual({});
  });

  it('is refused with a name twice, or beyond 16 MiB or 65536 entries', async () => {
    await withMetadata('{"a": "1", "a": "2"}');
    await expectError(inspect, CORRUPT_FILE, /'a' twice/);
    await withMetadata(`{"a": "${'x'.repeat(2 ** 24)}"}`);
    await expectError(inspect, UNSAFE_FILE, /16 MiB/);
    await withMetadata(`{${Array.from({ length: 65_537 }, (_, i) => `"${i}": ""`).join()}}`);
    await expectError(inspect, UNSAFE_FILE, /65536 entries/);
    // Nobody asked, nobody keeps it.
    expect((await inspectWeights(file)).tensors).toHaveLength(1);
  });
});
