// The report of a GPU check: merges the stages' JSON documents, of one call or of several, and writes Markdown. Pure.
import { duration, number } from '../lib/table.mjs';
import {
  atShare,
  elementwiseSeconds,
  floorOf,
  kernelRows,
  operatorShare,
  runOf,
  speedup,
} from './figures.mjs';
import { GPU_MODELS } from './models.mjs';
import { evaluateGpuTargets } from './targets.mjs';

const STAGES = ['unpack', 'build', 'test', 'bench'];
/** What a step of an earlier call is worth against the same step of a later one. */
const WORTH = { ok: 2, failed: 1, skipped: 0 };

/**
 * @typedef {object} Merged
 * @property {Record<string, any>[]} runs the calls, oldest first
 * @property {Record<string, Record<string, import('./record.mjs').Step & { call: number }>>} stages
 * @property {string[]} warnings
 */

/**
 * Merges documents of several calls: of a step that is in more than one, a result beats a failure and a failure beats
 * its absence; between equals the later counts.
 * @param {readonly import('./record.mjs').StageDocument[]} documents
 * @returns {Merged}
 */
export function mergeDocuments(documents) {
  const byId = new Map(documents.flatMap((document) => document.runs).map((run) => [run.id, run]));
  const runs = [...byId.values()].sort((a, b) => order(a.date, b.date));
  const stages = {};
  for (const { stage, steps } of documents) {
    stages[stage] ??= {};
    for (const [name, step] of Object.entries(steps)) {
      const known = stages[stage][name];
      const isBetter =
        known === undefined ||
        WORTH[step.status] > WORTH[known.status] ||
        (WORTH[step.status] === WORTH[known.status] && order(step.at, known.at) >= 0);
      if (isBetter) stages[stage][name] = { ...step, call: runs.findIndex(({ id }) => id === step.run) };
    }
  }
  const warnings = [];
  for (const [name, label] of Object.entries({ commit: 'commits', device: 'devices', torch: 'LibTorches' })) {
    const different = [...new Set(runs.map((run) => run[name]).filter(Boolean))];
    if (different.length > 1)
      warnings.push(`The calls had different ${label}: ${different.join(', ')}. Do not compare their times.`);
  }
  if (runs.some((run) => run.modified)) warnings.push('The sources had changes that are in no commit.');
  if (runs.some((run) => run.tiny))
    warnings.push('A toy model was run, to try the scripts out: the times mean nothing.');
  return { runs, stages, warnings };
}

const order = (a, b) => ((a ?? '') < (b ?? '') ? -1 : (a ?? '') > (b ?? '') ? 1 : 0);

/**
 * The report as one JSON document. A toy model meets no target.
 * @param {Merged} merged
 * @returns {Merged & { targets: (import('../targets.mjs').Outcome & { toy?: boolean })[] }}
 */
export function reportDocument(merged) {
  const targets = evaluateGpuTargets((stage, step) => merged.stages[stage]?.[step]);
  const isToy = merged.runs.some((run) => run.tiny);
  return {
    ...merged,
    targets: isToy ? targets.map((target) => ({ ...target, met: false, toy: true })) : targets,
  };
}

/**
 * @param {Merged} merged
 * @returns {string} Markdown
 */
export function renderReport(merged) {
  const { runs, stages, warnings } = merged;
  const step = (stage, name) => stages[stage]?.[name];
  const result = (stage, name) => (step(stage, name)?.status === 'ok' ? step(stage, name).result : undefined);
  const last = runs.at(-1) ?? {};
  const date = (last.date ?? '').slice(0, 10);
  const parts = [
    `# GPU check: ${last.device ?? 'no device'}${date && `, ${date}`}`,
    'Made by `scripts/gpu-check`; [README.md](README.md) says how, and what is measured.',
    ...warnings.map((text) => `**${text}**`),
    machineTable(runs),
    '## Targets',
    targetTable(
      evaluateGpuTargets(step),
      runs.some((run) => run.tiny),
    ),
    '## Build and tests',
    stepTable(stages),
    testDetails(result, step),
    ...benchSections(result),
    '## Left out',
    leftOut(stages),
    '## Calls',
    runs.map((run, i) => `${i + 1}. \`${run.command ?? 'unknown'}\` (${run.date ?? 'no date'})`).join('\n'),
  ];
  return `${parts.filter(Boolean).join('\n\n')}\n`;
}

/** A Markdown table; cells that are undefined stay empty. */
export function markdownTable(header, rows) {
  if (rows.length === 0) return '';
  const line = (cells) =>
    `| ${cells
      .map((cell) =>
        String(cell ?? '')
          .replaceAll('|', '\\|')
          .replaceAll('\n', ' '),
      )
      .join(' | ')} |`;
  const full = rows.map((row) => header.map((_, i) => row[i]));
  return [line(header), `|${header.map(() => '---|').join('')}`, ...full.map(line)].join('\n');
}

const MACHINE = {
  device: 'device',
  computeCapability: 'compute capability',
  deviceMemory: 'device memory',
  driver: 'driver',
  cuda: 'nvcc',
  torch: 'LibTorch',
  python: 'Python',
  node: 'Node',
  jitFlux: 'jit-flux',
  commit: 'commit',
  cpu: 'CPU',
  cores: 'cores',
  memoryGiB: 'memory, GiB',
  kernel: 'kernel',
  compiler: 'C++ compiler',
  cmake: 'CMake',
  architecture: 'built for',
};

function machineTable(runs) {
  const rows = Object.entries(MACHINE)
    .map(([name, label]) => [label, [...new Set(runs.map((run) => run[name]).filter(defined))].join('; ')])
    .filter(([, text]) => text !== '');
  return markdownTable(['', ''], rows);
}

function targetTable(targets, isToy) {
  return markdownTable(
    ['target', 'value', 'wanted', 'met', ''],
    targets.map((t) => [
      t.name,
      t.value === null ? '-' : `${number(t.value)} ${t.unit}`,
      `${t.direction} ${t.target} ${t.unit}`,
      t.value === null ? 'no figure' : isToy ? 'not judged' : t.met ? 'yes' : '**no**',
      t.reason ?? t.detail,
    ]),
  );
}

function stepTable(stages) {
  const rows = STAGES.flatMap((stage) =>
    Object.entries(stages[stage] ?? {}).map(([name, { status, seconds, reason, call }]) => [
      `${stage}: ${name}`,
      status,
      seconds === undefined ? '' : `${seconds.toFixed(1)} s`,
      call + 1,
      (reason ?? '').slice(0, 300),
    ]),
  );
  return markdownTable(['step', '', 'time', 'call', 'reason'], rows);
}

function testDetails(result, step) {
  const lines = [];
  const kernels = step('test', 'kernels')?.result;
  if (kernels?.kernels) {
    lines.push(
      markdownTable(
        ['kernel', 'failures', 'worst'],
        kernels.kernels.map(({ name, failures, results }) => [
          name,
          failures?.length ?? 0,
          (results ?? [])
            .map(({ group, worst, bound, unit }) => `${group} ${number(worst)} of ${number(bound)} ${unit}`)
            .join(', '),
        ]),
      ),
    );
  }
  for (const [stage, name] of [
    ['test', 'memcheck'],
    ['test', 'racecheck'],
    ['test', 'backend'],
  ]) {
    const summary = step(stage, name)?.result?.summary;
    if (summary) lines.push(`${name}: ${summary}`);
  }
  const vitest = step('test', 'vitest')?.result;
  if (vitest) {
    lines.push(
      `vitest, test/cuda: ${vitest.passed} passed, ${vitest.failed} failed, ${vitest.skipped} skipped` +
        (vitest.failures?.length
          ? `\n\n${vitest.failures.map(({ name, message }) => `- ${name}: ${(message ?? '').split('\n')[0]}`).join('\n')}`
          : ''),
    );
  }
  return lines.join('\n\n');
}

function benchSections(result) {
  const [resident, graphs, peer, streaming, modulation, large, encoders, weights, kernels] = [
    'resident',
    'graphs',
    'peer',
    'streaming',
    'modulation',
    'large',
    'encoders',
    'weights',
    'kernels',
  ].map((name) => result('bench', name));
  return [
    resident && '## Steps',
    resident && stepsTable({ resident, graphs, peer, streaming }),
    peer && differences(peer),
    resident && '## Runs',
    resident && runsTable({ resident, graphs, modulation }),
    resident && hostNotes(resident, graphs),
    resident && '## JiT operators',
    resident && operatorsTable(resident),
    resident && '## Where a dense step goes',
    resident && compositionTable({ resident, peer, kernels }),
    '## Loading and memory',
    loadTable({ resident, modulation, graphs, streaming, large, weights }),
    streaming && '## Weights streamed from host memory',
    streaming && streamingTable(streaming),
    large && '## Batches and large pictures',
    large && largeTable(large),
    encoders && '## Autoencoder and text encoders',
    encoders && encodersTable(encoders),
    kernelRows(kernels).length > 0 && '## Kernels',
    kernelTable(kernels),
  ].filter(Boolean);
}

function stepsTable({ resident, graphs, peer, streaming }) {
  return [
    'Step: gather, pass, lift and Euler update in one native call, until the device is done. Pass: the velocity alone,',
    "which is what PyTorch's side does; it computes the modulation in every step, we once per picture.",
    '',
    markdownTable(
      ['tokens', 'step', 'with CUDA graphs', 'streamed', 'pass', 'eager PyTorch', 'ratio'],
      resident.steps.map(({ share, tokens, seconds }) => {
        const pass = atShare(resident.passes, share)?.seconds.median;
        const theirs = peer?.cases.find(({ name }) => name === String(share))?.host.median;
        return [
          `${tokens} (${Math.round(100 * share)} %)`,
          spreadText(seconds),
          duration(atShare(graphs?.steps, share)?.seconds.median),
          duration(atShare(streaming?.steps, share)?.seconds.median),
          duration(pass),
          duration(theirs),
          pass && theirs ? `${(theirs / pass).toFixed(2)}x` : '-',
        ];
      }),
    ),
  ].join('\n');
}

function differences(peer) {
  const known = peer.differences?.filter(({ difference }) => difference !== null) ?? [];
  if (known.length === 0) return undefined;
  const text = known
    .map(({ share, difference }) => `${Math.round(100 * share)} % ${number(difference)}`)
    .join(', ');
  const infinite = peer.cases.filter(({ finite }) => !finite).map(({ name }) => name);
  return (
    `Relative L2 difference of the velocities to PyTorch's, both in bfloat16: ${text}.` +
    (infinite.length ? ` **PyTorch's velocity is not finite at ${infinite.join(', ')}.**` : '')
  );
}

function runsTable({ resident, graphs, modulation }) {
  return markdownTable(
    [
      'run',
      'loop',
      'against dense-50',
      'with CUDA graphs',
      'modulation kept',
      'condition',
      'step by stage',
      'finite',
    ],
    resident.runs.map((run) => [
      run.name,
      spreadText(run.seconds),
      times(speedup(resident, run.name)),
      withRatio(runOf(graphs, run.name), speedup(graphs, run.name)),
      duration(runOf(modulation, run.name)?.seconds.median),
      duration(run.conditionSeconds.median),
      run.stages
        .map(
          ({ steps, activeTokens, stepSeconds }) =>
            `${steps} x ${activeTokens}: ${duration(stepSeconds.median)}`,
        )
        .join('; '),
      run.finite ? 'yes' : '**no**',
    ]),
  );
}

function hostNotes(resident, graphs) {
  const between = resident.runs.map((run) => `${run.name} ${duration(run.betweenSteps)}`).join(', ');
  const step = atShare(resident.steps, 1)?.seconds.median;
  const sums = resident.runs.map((run) => {
    const inSteps = run.stages.reduce((sum, { steps, stepSeconds }) => sum + steps * stepSeconds.median, 0);
    return `${run.name} ${duration(run.seconds.median - inSteps)}`;
  });
  const calls = Object.entries(resident.callsPerStep ?? {}).map(([name, count]) => `${name} ${count}`);
  return [
    `On the host, between two steps of a loop: ${between}. A native call that does next to nothing on the device takes ` +
      `${duration(resident.roundTrip.median)}: so long the device waits for the next step. Loop less the medians of its ` +
      `steps: ${sums.join(', ')}. First dense step of a process: ${duration(resident.firstStep)}, later ones ` +
      `${duration(step)}.`,
    calls.length ? `Calls in a dense step: ${calls.join(', ')}.` : undefined,
    graphs && `Graph launches in the runs with CUDA graphs: ${graphs.graphLaunches}.`,
  ]
    .filter(Boolean)
    .join('\n\n');
}

function operatorsTable(resident) {
  const shares = ['jit-4x', 'jit-7x']
    .map((preset) => [preset, operatorShare(resident, preset)])
    .filter(([, found]) => found)
    .map(([preset, { seconds, share }]) => `${preset} ${duration(seconds)}, ${(100 * share).toFixed(2)} %`);
  return [
    'Each by itself, host included; a step does gather and lift within its one native call.',
    '',
    markdownTable(
      [
        'preset',
        'tokens',
        'join',
        'gather',
        'lift',
        'lift + step',
        'importance',
        'choice',
        'clean',
        'target',
        'flow',
        'transition',
      ],
      resident.operators.map(({ preset, tokens, newTokens, seconds: s, transitionSeconds }) => [
        preset,
        tokens,
        newTokens,
        ...['gather', 'lift', 'step', 'importance', 'activation', 'clean', 'target', 'flow'].map((name) =>
          duration(s[name]),
        ),
        duration(transitionSeconds),
      ]),
    ),
    '',
    `Of a whole run: ${shares.join('; ') || '-'}.`,
  ].join('\n');
}

function compositionTable({ resident, peer, kernels }) {
  const step = atShare(resident.steps, 1)?.seconds.median;
  const floor = floorOf(peer);
  const small = elementwiseSeconds(kernels, GPU_MODELS.flux, resident.callsPerStep);
  const rate = ({ flops, seconds }) => `${(flops / seconds / 1e12).toFixed(0)} TFLOP/s`;
  const rows = [
    ...(floor
      ? [
          ['matrix products, by PyTorch alone at our shapes', floor.products.seconds, rate(floor.products)],
          ['attention (SDPA), likewise', floor.attention.seconds, rate(floor.attention)],
        ]
      : []),
    ...(small?.parts ?? []).map(({ kernel, shape, calls, seconds }) => [
      `${kernel}, ${shape}`,
      seconds,
      `${calls} calls`,
    ]),
  ];
  const sum = rows.reduce((total, [, seconds]) => total + seconds, 0);
  if (rows.length === 0) return 'Neither the parts in PyTorch nor the kernels were measured.';
  return [
    'Parts were measured alone: the sum shows what is left for launches, waiting and slower caches.',
    '',
    markdownTable(
      ['part', 'time', 'of the step', ''],
      [
        ...rows.map(([name, seconds, note]) => [name, duration(seconds), percent(seconds / step), note]),
        ['the rest', duration(step - sum), percent((step - sum) / step)],
        ['dense step', duration(step), '100 %'],
      ],
    ),
  ].join('\n');
}

function loadTable({ resident, modulation, graphs, streaming, large, weights }) {
  const rows = Object.entries({
    'modulation dropped': resident,
    'modulation kept': modulation,
    'CUDA graphs, modulation dropped': graphs,
    'weights streamed': streaming,
    'batches, modulation dropped': large,
  })
    .filter(([, part]) => part)
    .map(([name, { load, memory }]) => [
      name,
      duration(load.seconds),
      `${(load.fileBytes / load.seconds / 1e9).toFixed(2)} GB/s`,
      gigabytes(load.memory.allocatedBytes),
      gigabytes(load.memory.usedOnDeviceBytes),
      gigabytes(memory.peakBytes),
      Object.entries(memory.phases)
        .map(([phase, { peakBytes }]) => `${phase} ${gigabytes(peakBytes)}`)
        .join(', '),
    ]);
  return [
    weights &&
      !weights.isReused &&
      `Random weights: ${(weights.bytes / 1e9).toFixed(2)} GB, ${(weights.parameters / 1e9).toFixed(2)} billion parameters, ` +
        `written to ${weights.work} in ${duration(weights.seconds)} (${(weights.bytesPerSecond / 1e9).toFixed(2)} GB/s).`,
    markdownTable(
      [
        '',
        'load',
        'of the file',
        'in tensors after load',
        'on the device after load',
        'peak',
        'peak by phase',
      ],
      rows,
    ),
  ]
    .filter(Boolean)
    .join('\n\n');
}

function streamingTable({ steps }) {
  return markdownTable(
    ['tokens', 'step', 'copied', 'copies take', 'rate', 'waited for', 'hidden'],
    steps.map((row) => [
      `${Math.round(100 * row.share)} %`,
      spreadText(row.seconds),
      gigabytes(row.bytesPerStep),
      duration(row.copySeconds),
      row.bytesPerSecond ? `${(row.bytesPerSecond / 1e9).toFixed(1)} GB/s` : '-',
      duration(row.stallSeconds),
      percent(row.overlap),
    ]),
  );
}

function largeTable({ steps }) {
  const single = steps.find(({ name }) => name === 'one picture')?.seconds?.median;
  return markdownTable(
    ['', 'tokens', 'step', 'per picture', 'against one picture', 'peak'],
    steps.map((row) =>
      row.error
        ? [row.name, `${row.grid.join(' x ')} at ${Math.round(100 * row.share)} %`, row.error]
        : [
            row.name,
            `${row.grid.join(' x ')} at ${Math.round(100 * row.share)} %`,
            spreadText(row.seconds),
            duration(row.seconds.median / row.images),
            row.share === 1 && single ? `${(row.seconds.median / row.images / single).toFixed(2)}x` : '',
            gigabytes(row.peakBytes),
          ],
    ),
  );
}

function encodersTable({ decode, t5, clip, writeSeconds }) {
  const row = (name, part) =>
    part &&
    (part.error
      ? [name, part.error]
      : [
          name,
          spreadText(part.seconds),
          duration(part.first),
          duration(part.loadSeconds),
          gigabytes(part.peakBytes),
        ]);
  return [
    `Random weights, written in ${duration(writeSeconds)}.`,
    '',
    markdownTable(
      ['', 'time', 'first', 'load', 'peak'],
      [
        row(`decode, ${decode?.cells} x ${decode?.cells} latent cells`, decode),
        row(`T5, ${t5?.layers} layers, ${t5?.tokens} tokens`, t5),
        row(`CLIP, ${clip?.layers} layers, ${clip?.tokens} tokens`, clip),
      ].filter(Boolean),
    ),
  ].join('\n');
}

function kernelTable(kernels) {
  return markdownTable(
    ['kernel', 'type', 'shape', 'time', 'GB/s'],
    kernelRows(kernels).map((row) => [
      row.kernel,
      row.type,
      row.shape,
      `${number(row.seconds * 1e6)} us`,
      number(row.gigabytesPerSecond),
    ]),
  );
}

function leftOut(stages) {
  const rows = STAGES.flatMap((stage) =>
    Object.entries(stages[stage] ?? {})
      .filter(([, { status }]) => status === 'skipped')
      .map(([name, { reason }]) => `- ${stage}: ${name}: ${reason}`),
  );
  const absent = ['build', 'test', 'bench'].filter((stage) => stages[stage] === undefined);
  return (
    [...rows, ...absent.map((stage) => `- the whole stage ${stage}: no call ran it`)].join('\n') || 'Nothing.'
  );
}

const defined = (value) => value !== undefined && value !== null && value !== '';
const gigabytes = (bytes) => (bytes === undefined || bytes === null ? '-' : `${(bytes / 1e9).toFixed(2)} GB`);
const percent = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : '-');
const times = (ratio) => (ratio ? `${ratio.toFixed(2)}x` : '-');
const withRatio = (run, ratio) =>
  run ? `${duration(run.seconds.median)}${ratio ? `, ${times(ratio)}` : ''}` : '-';
const spreadText = ({ median, low, high, samples }) =>
  `${duration(median)} (${duration(low)}..${duration(high)}, ${samples})`;
