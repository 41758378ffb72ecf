// Loading a TorchScript archive (2 GB unless in a smoke run) against torch::jit::load; and what memory the first forward
// pass has taken.
import { execFileSync } from 'node:child_process';
import { closeSync, createReadStream, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { FluxTransformer } from 'jit-flux';
import { interleave } from '../lib/interleave.mjs';
import { ARITHMETIC, SUBJECTS } from '../lib/models.mjs';
import { ROOT } from '../lib/paths.mjs';
import { closePeers, startPeers } from '../lib/peer.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { ratio, spread } from '../lib/statistics.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';
import { torchScriptArchive, weightsFile } from '../lib/weights.mjs';

/** @typedef {import('../lib/section-process.mjs').Context} Context */

const TEXT_TOKENS = 64;
const MEMORY_GRID = [16, 16];
const PROGRAM = join(ROOT, 'bench', 'programs', 'first-forward-memory.mjs');

/** @param {Context} context */
export default async function load(context) {
  const { wide } = SUBJECTS[context.mode];
  context.log('archive');
  const archive = await torchScriptArchive(wide, context.work);
  const kinds = /** @type {import('../lib/models.mjs').Arithmetic[]} */ (
    context.mode === 'quick' ? ['float32'] : ['float32', 'bfloat16', 'int8']
  );
  const memory = [];
  for (const kind of kinds) {
    // The archive is what the target is about.
    const path = kind === 'float32' ? archive : await weightsFile(wide, context.work);
    memory.push({
      kind,
      ...(await part(`memory ${kind}`, context, () => firstForward(kind, path, context))),
    });
  }
  const time = await part('time', context, () => loadTimes(archive, context));
  return { archive: { bytes: statSync(archive).size }, time, memory };
}

/**
 * @param {string} archive
 * @param {Context} context
 */
async function loadTimes(archive, context) {
  const peers = await startPeers(context);
  try {
    await intoPageCache(archive);
    const samples = await interleave(
      {
        ours: async () => {
          const started = performance.now();
          const model = await FluxTransformer.load(archive, { dtype: 'float32', threads: context.threads });
          const seconds = (performance.now() - started) / 1000;
          model.dispose();
          return seconds;
        },
        ...Object.fromEntries(
          [...peers.running].map(([name, peer]) => [
            name,
            async () => /** @type {number} */ ((await peer.ask({ op: 'jit_load', path: archive })).seconds),
          ]),
        ),
      },
      { rounds: context.mode === 'full' ? 8 : 3 },
    );
    return {
      peers: peers.info,
      notes: peers.notes,
      ours: spread(samples.ours),
      references: [...peers.running.keys()].map((implementation) => {
        const theirs = /** @type {Record<string, number[]>} */ (samples)[implementation] ?? [];
        return { implementation, seconds: spread(theirs), ratio: ratio(theirs, samples.ours) };
      }),
    };
  } finally {
    closePeers(peers);
  }
}

/**
 * Reads the file once, so that neither side pays for the disk.
 * @param {string} path
 */
async function intoPageCache(path) {
  const stream = createReadStream(path, { highWaterMark: 1 << 22 });
  for await (const chunk of stream) void chunk;
}

/**
 * @param {import('../lib/models.mjs').Arithmetic} kind
 * @param {string} path
 * @param {Context} context
 */
function firstForward(kind, path, { threads }) {
  const fileBytes = statSync(path).size;
  const options = JSON.stringify({ ...ARITHMETIC[kind], threads });
  const args = [PROGRAM, path, options, String(TEXT_TOKENS), JSON.stringify(MEMORY_GRID)];
  try {
    /** @type {import('../programs/first-forward-memory.mjs').FirstForward} */
    const found = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8', stdio: 'pipe' }));
    return { fileBytes, ...found, ofFile: found.peak / fileBytes, readSeconds: readIntoMemory(path) };
  } catch (error) {
    const { stderr, message } = /** @type {Error & { stderr?: string }} */ (error);
    const reason = /JitFluxError[^\n]*/.exec(stderr ?? '')?.[0] ?? message;
    // Not every build has it.
    if (kind === 'int8') return { fileBytes, unavailable: reason };
    throw new Error(reason, { cause: error });
  }
}

/**
 * Seconds of reading a file once into fresh memory of its size: what preparing its weights is held against.
 * @param {string} path
 */
function readIntoMemory(path) {
  const size = statSync(path).size;
  const started = performance.now();
  const bytes = Buffer.allocUnsafeSlow(size);
  const file = openSync(path, 'r');
  for (let at = 0; at < size;) at += readSync(file, bytes, at, Math.min(size - at, 1 << 24), at);
  closeSync(file);
  return (performance.now() - started) / 1000;
}

/** @param {Awaited<ReturnType<typeof load>>} result */
export function print({ archive, time, memory }) {
  /** @type {(bytes: number) => string} */
  const gb = (bytes) => `${number(bytes / 1e9)} GB`;
  return [
    table(
      [`load ${gb(archive.bytes)}, warm page cache`, 'ours', 'torch::jit::load', 'ratio'],
      hasFailed(time)
        ? [['failed', time.error]]
        : [
            ...time.references.map((r) => [
              r.implementation,
              duration(time.ours.median),
              duration(r.seconds.median),
              ratioText(r.ratio),
            ]),
            ...Object.entries(time.peers).flatMap(([name, found]) =>
              hasFailed(found) ? [[name, `failed: ${found.error}`]] : [],
            ),
          ],
    ),
    '',
    table(
      [
        'memory, less the engine’s',
        'file',
        'after load',
        'peak',
        'after forward',
        'peak / file',
        'weights prepared in',
        'the file read in',
      ],
      memory.map((r) =>
        'peak' in r
          ? [
              r.kind,
              gb(r.fileBytes),
              gb(r.afterLoad),
              gb(r.peak),
              gb(r.resident),
              number(r.ofFile),
              duration(r.prepareSeconds),
              duration(r.readSeconds),
            ]
          : [r.kind, hasFailed(r) ? `failed: ${r.error}` : 'unavailable' in r ? r.unavailable : ''],
      ),
    ),
    ...(hasFailed(time) ? [] : time.notes),
  ].join('\n');
}
