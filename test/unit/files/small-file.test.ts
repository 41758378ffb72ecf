/** What is no regular file, or changes while it is read, in the place of every small file that a model has. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, open, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { convertModel } from '../../../src/convert/index.js';
import {
  readAutoencoderConfig,
  readClipConfig,
  readT5Config,
  readTransformerConfig,
} from '../../../src/engine/component-config.js';
import { describeWeights } from '../../../src/engine/describe.js';
import { inspectWeights } from '../../../src/engine/inspect.js';
import { TorchScriptModule } from '../../../src/engine/script-module.js';
import { ERROR_CODES, JitFluxError } from '../../../src/errors.js';
import { readJsonFile } from '../../../src/files/json.js';
import { listDirectory, readSmallFile } from '../../../src/files/small-file.js';
import { readSchedule } from '../../../src/model/model-family.js';
import { resolveModel } from '../../../src/model/resolve-model.js';
import { loadEncodedPrompts } from '../../../src/pipeline/encoded-prompts.js';
import { loadClipTokenizer, loadT5Tokenizer, Tokenizer } from '../../../src/text/index.js';
import { expectError } from '../../support/errors.js';
import { fixturePath } from '../../support/safetensors.js';

const { FILE_NOT_FOUND, INVALID_MODEL, UNSUPPORTED_FORMAT, CORRUPT_FILE, ABORTED } = ERROR_CODES;

let directory: string;
const servers: Server[] = [];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'jit-flux-small-'));
});
afterEach(async () => {
  for (const server of servers.splice(0)) server.close();
  await rm(directory, { recursive: true, force: true });
});

/** Puts something else in the place of a file. */
const IMPOSTORS: Record<string, (path: string) => Promise<void> | void> = {
  'a FIFO': (path) => void execFileSync('mkfifo', [path]),
  'a device': (path) => symlink('/dev/zero', path),
  'a symbolic link to a symbolic link to a device': async (path) => {
    await symlink('/dev/urandom', `${path}.target`);
    await symlink(`${path}.target`, path);
  },
  'a directory': (path) => mkdir(path).then(() => undefined),
  'a socket': (path) =>
    new Promise<void>((ready) => {
      servers.push(createServer().listen(path, () => ready()));
    }),
};

interface Place {
  /** Relative to the directory. */
  file: string;
  code: string;
  prepare?: () => Promise<void>;
  read: (path: string, signal: AbortSignal) => Promise<unknown>;
}

const tokenizerFiles = (folder: string) => () =>
  cp(fixturePath(`tokenizers/${folder}`), directory, { recursive: true });
const clip = (file: string): Place => ({
  file,
  code: INVALID_MODEL,
  prepare: tokenizerFiles('tokenizer'),
  read: (_path, signal) => loadClipTokenizer(directory, { signal }),
});

const PLACES: Record<string, Place> = {
  "a transformer's config.json": {
    file: 'config.json',
    code: INVALID_MODEL,
    read: (_path, signal) => readTransformerConfig(join(directory, 'model.safetensors'), { signal }),
  },
  "a file's own config.json": {
    file: 'model.config.json',
    code: INVALID_MODEL,
    read: (_path, signal) => readT5Config(join(directory, 'model.safetensors'), { signal }),
  },
  "CLIP's config.json": {
    file: 'config.json',
    code: INVALID_MODEL,
    read: (_path, signal) => readClipConfig(directory, { signal }),
  },
  "an autoencoder's config.json": {
    file: 'config.json',
    code: INVALID_MODEL,
    read: (_path, signal) => readAutoencoderConfig(directory, { signal }),
  },
  'scheduler_config.json': {
    file: 'scheduler_config.json',
    code: INVALID_MODEL,
    read: (path, signal) => readSchedule(path, signal),
  },
  'model_index.json': {
    file: 'model_index.json',
    code: INVALID_MODEL,
    read: (_path, signal) => resolveModel(directory, { signal }),
  },
  'model_index.json of a snapshot to convert': {
    file: 'model_index.json',
    code: INVALID_MODEL,
    read: (_path, signal) => convertModel(directory, join(directory, 'out'), { signal }),
  },
  'a model': { file: 'model', code: INVALID_MODEL, read: (path, signal) => resolveModel(path, { signal }) },
  'tokenizer.json of any model': {
    file: 'tokenizer.json',
    code: INVALID_MODEL,
    read: (path, signal) => Tokenizer.load(path, { signal }),
  },
  "T5's tokenizer.json": {
    file: 'tokenizer.json',
    code: INVALID_MODEL,
    prepare: tokenizerFiles('tokenizer_2'),
    read: (_path, signal) => loadT5Tokenizer(directory, { signal }),
  },
  "CLIP's tokenizer.json": clip('tokenizer.json'),
  'vocab.json': clip('vocab.json'),
  'merges.txt': clip('merges.txt'),
  'tokenizer_config.json': clip('tokenizer_config.json'),
  'special_tokens_map.json': clip('special_tokens_map.json'),
  'a TorchScript program': {
    file: 'text_encoder.pt',
    code: FILE_NOT_FOUND,
    read: (path, signal) => TorchScriptModule.load(path, { allowTorchScriptCode: true, signal }),
  },
  'encoded prompts': {
    file: 'prompts.safetensors',
    code: FILE_NOT_FOUND,
    read: (path, signal) => loadEncodedPrompts(path, { signal }),
  },
  'weights to inspect': {
    file: 'model.safetensors',
    code: FILE_NOT_FOUND,
    read: (path, signal) => inspectWeights(path, { signal }),
  },
  'weights to describe': {
    file: 'model.pt',
    code: FILE_NOT_FOUND,
    read: (path, signal) => describeWeights(path, { signal }),
  },
  'an index of shards': {
    file: 'model.safetensors.index.json',
    code: FILE_NOT_FOUND,
    read: (path, signal) => describeWeights(path, { signal }),
  },
  'a shard': {
    file: 'shard.safetensors',
    code: FILE_NOT_FOUND,
    prepare: () =>
      writeFile(join(directory, 'all.safetensors.index.json'), '{"weight_map": {"a": "shard.safetensors"}}'),
    read: (_path, signal) => describeWeights(join(directory, 'all.safetensors.index.json'), { signal }),
  },
  'weights to convert': {
    file: 'model.safetensors',
    code: FILE_NOT_FOUND,
    read: (path, signal) => convertModel(path, join(directory, 'out.pt'), { signal }),
  },
};

describe.each(Object.entries(PLACES))('%s', (_name, { file, code, prepare, read }) => {
  it.each(Object.entries(IMPOSTORS))('%s is refused at once', async (_impostor, put) => {
    await prepare?.();
    const path = join(directory, file);
    await rm(path, { force: true });
    await put(path);
    const { signal } = new AbortController();
    const error = await expectError(() => read(path, signal), code);
    expect(error.message).toContain(directory);
  });
});

describe('readSmallFile', () => {
  const read = (path: string, o: { maxBytes?: number; signal?: AbortSignal } = {}) =>
    readSmallFile(path, { maxBytes: 1024, ...o });

  it('reads up to its limit and not a byte more', async () => {
    const path = join(directory, 'file');
    await writeFile(path, Buffer.alloc(1024, 7));
    expect(await read(path)).toEqual(Buffer.alloc(1024, 7));
    await writeFile(path, '');
    expect((await read(path)).length).toBe(0);
    await writeFile(path, Buffer.alloc(1025));
    await expectError(() => read(path), INVALID_MODEL, /larger than 1024 bytes/);
  });

  it('refuses a file that has more than it says', async () => {
    // A regular file of size 0 that has content, as one that is being written when it is opened.
    await expectError(() => read('/proc/self/status'), INVALID_MODEL, /became longer while it was read/);
  });

  const sysfs = '/sys/kernel/mm/transparent_hugepage/enabled';
  it.skipIf(!existsSync(sysfs))(`refuses a file that has less than it says (needs ${sysfs})`, async () => {
    const error = () => readSmallFile(sysfs, { maxBytes: 1 << 20 });
    await expectError(error, INVALID_MODEL, /became shorter while it was read/);
  });

  it('says that reading fails', async () => {
    // A regular file, for what it says, whose first page cannot be read.
    await expectError(() => read('/proc/self/mem'), INVALID_MODEL, /cannot be read: EIO/);
  });

  it('gives whole content or a typed error while another writes', async () => {
    const path = join(directory, 'changing');
    const file = await open(path, 'w+');
    const block = Buffer.alloc(4096, 1);
    let stop = false;
    const writer = (async () => {
      for (let i = 0; !stop; i++) {
        if (i % 3 === 2) await file.truncate(0);
        else await file.appendFile(block);
      }
    })();
    try {
      for (let round = 0; round < 300; round++) {
        const outcome = await read(path, { maxBytes: 1 << 20 }).catch((error: unknown) => error);
        if (Buffer.isBuffer(outcome)) expect(outcome.length % block.length).toBe(0);
        else expect((outcome as JitFluxError).code, String(outcome)).toBe(INVALID_MODEL);
      }
    } finally {
      stop = true;
      await writer;
      await file.close();
    }
  });

  it('ends with the signal before, and in the middle of, reading', async () => {
    const path = join(directory, 'large.pt');
    const file = await open(path, 'w');
    await file.truncate(512 * 1024 ** 2);
    await file.close();
    await expectError(() => read(path, { signal: AbortSignal.abort() }), ABORTED);
    const controller = new AbortController();
    const reason = new Error('enough');
    setImmediate(() => controller.abort(reason));
    const error = await expectError(
      () => TorchScriptModule.load(path, { signal: controller.signal }),
      ABORTED,
    );
    expect(error.cause).toBe(reason);
  });

  it('lets the event loop turn while it reads', async () => {
    const path = join(directory, 'large.pt');
    const file = await open(path, 'w');
    await file.truncate(64 * 1024 ** 2);
    await file.close();
    let turns = 0;
    let reading = true;
    const count = (): void => {
      turns++;
      if (reading) setImmediate(count);
    };
    count();
    await read(path, { maxBytes: 1 << 30 });
    reading = false;
    // One for every chunk at least.
    expect(turns).toBeGreaterThan(16);
  });

  it('says what kind of problem a TorchScript archive has', async () => {
    const path = join(directory, 'huge.pt');
    const file = await open(path, 'w');
    await file.truncate(2 ** 31);
    await file.close();
    await expectError(() => TorchScriptModule.load(path), UNSUPPORTED_FORMAT, /larger than 2147483647 bytes/);
    await expectError(() => TorchScriptModule.load('/proc/self/status'), CORRUPT_FILE, /became longer/);
    await expectError(() => TorchScriptModule.load(join(directory, 'none')), FILE_NOT_FOUND);
    await expectError(() => TorchScriptModule.load('a\0b'), FILE_NOT_FOUND);
  });
});

it('refuses settings that nobody writes by hand', async () => {
  const path = join(directory, 'config.json');
  await writeFile(path, `{"a": "${'b'.repeat(1 << 20)}"}`);
  await expectError(() => readJsonFile(path), INVALID_MODEL, /larger than 1048576 bytes/);
  await writeFile(path, '['.repeat(1 << 20));
  await expectError(() => readJsonFile(path), INVALID_MODEL, /not valid JSON/);
  await writeFile(path, Buffer.from([0x7b, 0xff, 0xfe, 0x7d]));
  await expectError(() => readJsonFile(path), INVALID_MODEL, /not valid JSON/);
});

it('lists a directory, or says that it cannot', async () => {
  for (const name of ['b', 'a', '.hidden']) await writeFile(join(directory, name), '');
  expect(await listDirectory(directory)).toEqual(['a', 'b']);
  await expectError(() => listDirectory(join(directory, 'a')), FILE_NOT_FOUND);
});
