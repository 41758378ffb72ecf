// Loading a 2 GB TorchScript archive, against torch.jit.load; and what memory the first forward pass has taken.
import { execFileSync } from 'node:child_process';
import { createReadStream, statSync } from 'node:fs';
import { join } from 'node:path';
import { FluxTransformer } from 'jit-flux';
import { interleave, timed } from '../lib/interleave.mjs';
import { ARITHMETIC } from '../lib/models.mjs';
import { ROOT } from '../lib/paths.mjs';
import { Peer } from '../lib/peer.mjs';
import { ratio, spread } from '../lib/statistics.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';
import { torchScriptArchive, weightsFile } from '../lib/weights.mjs';

const TEXT_TOKENS = 64;
const MEMORY_GRID = [16, 16];

/** @param {import('../lib/section-process.mjs').Context} context */
export default async function load(context) {
  context.log('archive');
  const archive = await torchScriptArchive('flux-slice', context.work);
  const memory = memoryRows(archive, context);
  const time = await loadTimes(archive, context);
  return { archive: { bytes: statSync(archive).size }, time, memory };
}

async function loadTimes(archive, context) {
  context.log('time');
  const torch = await Peer.start(context);
  try {
    await intoPageCache(archive);
    const ours = async () => {
      let model;
      const options = { dtype: 'float32', threads: context.threads };
      const seconds = await timed(async () => (model = await FluxTransformer.load(archive, options)));
      model.dispose();
      return seconds;
    };
    const theirs = async () => (await torch.ask({ op: 'jit_load', path: archive })).seconds;
    const samples = await interleave({ ours, theirs }, { rounds: context.quick ? 3 : 8 });
    return {
      ours: spread(samples.ours),
      reference: spread(samples.theirs),
      ratio: ratio(samples.theirs, samples.ours),
    };
  } finally {
    torch.close();
  }
}

/** Reads the file once, so that neither side pays for the disk. */
async function intoPageCache(path) {
  const stream = createReadStream(path, { highWaterMark: 1 << 22 });
  for await (const chunk of stream) void chunk;
}

function memoryRows(archive, { work, threads, quick, log }) {
  log('memory');
  const cases = [{ kind: 'float32', path: archive, target: true }];
  if (!quick) {
    const snapshot = weightsFile('flux-slice', work);
    cases.push({ kind: 'bfloat16', path: snapshot }, { kind: 'int8', path: snapshot });
  }
  const script = join(ROOT, 'bench', 'lib', 'first-forward-memory.mjs');
  return cases.map(({ kind, path, target }) => {
    const fileBytes = statSync(path).size;
    const options = JSON.stringify({ ...ARITHMETIC[kind], threads });
    const args = [script, path, options, String(TEXT_TOKENS), JSON.stringify(MEMORY_GRID)];
    try {
      const found = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8', stdio: 'pipe' }));
      return { kind, fileBytes, ...found, ofFile: found.peak / fileBytes, ...(target && { target }) };
    } catch (error) {
      if (kind !== 'int8') throw error;
      return { kind, fileBytes, unavailable: /JitFluxError[^\n]*/.exec(error.stderr)?.[0] ?? error.message };
    }
  });
}

export function print({ archive, time, memory }) {
  const gb = (bytes) => `${number(bytes / 1e9)} GB`;
  return [
    table(
      [`load ${gb(archive.bytes)}`, 'ours', 'torch.jit.load', 'ratio'],
      [
        [
          'warm page cache',
          duration(time.ours.median),
          duration(time.reference.median),
          ratioText(time.ratio),
        ],
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
      ],
      memory.map((r) =>
        r.unavailable
          ? [r.kind, 'unavailable']
          : [
              r.kind,
              gb(r.fileBytes),
              gb(r.afterLoad),
              gb(r.peak),
              gb(r.resident),
              number(r.ofFile),
              duration(r.prepareSeconds),
            ],
      ),
    ),
  ].join('\n');
}
