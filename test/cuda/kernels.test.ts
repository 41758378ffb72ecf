/**
 * The CUDA kernels, compiled for the CPU by test/cuda/emulation, against the CPU's kernels and double precision. The
 * same program runs on a GPU as jit_flux_cuda_kernel_tests.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PROGRAMS } from '../support/programs.js';

interface KernelReport {
  readonly name: string;
  readonly failures: readonly string[];
  readonly results: readonly {
    readonly group: string;
    readonly worst: number | null;
    readonly bound: number;
    readonly values: number;
  }[];
}

const PROGRAM = join(PROGRAMS, 'jit_flux_kernel_tests');
const TIMEOUT = 300_000;

const ROW_KERNELS = [
  'layer_norm_modulate',
  'gated_residual',
  'rms_norm',
  'qk_norm_rope',
  'gelu_tanh',
  'gather_embed',
];
const FLOAT32_KERNELS = ['group_norm', 'lift_step', 'local_variance', 'micro_flow_target'];
const EXACT_KERNELS = [
  'emulation',
  'anchor_positions',
  'nearest_anchor_map',
  'gather_rows',
  'top_k',
  'blend_rows',
];

const isBuilt = existsSync(PROGRAM);
const notBuilt = isBuilt ? '' : ` (skipped: ${PROGRAM} was not built; JIT_FLUX_CUDA_EMULATION=ON builds it)`;

describe.skipIf(!isBuilt)(`CUDA kernels, emulated${notBuilt}`, () => {
  const directory = mkdtempSync(join(tmpdir(), 'jit-flux-kernels-'));
  let kernels = new Map<string, KernelReport>();

  beforeAll(async () => {
    const json = join(directory, 'report.json');
    // Exit code 1 stands for failures that the report describes; a crash leaves no report.
    const crash = await promisify(execFile)(PROGRAM, ['--json', json]).catch((error: unknown) => error);
    if (!existsSync(json)) throw new Error('The kernel tests did not finish', { cause: crash });
    const report = JSON.parse(readFileSync(json, 'utf8')) as { kernels: KernelReport[] };
    kernels = new Map(report.kernels.map((kernel) => [kernel.name, kernel]));
  }, TIMEOUT);

  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it.each([
    ...ROW_KERNELS.map((name) => [name, ['bfloat16', 'float16', 'float32']] as const),
    ['scale_shift_silu', ['bfloat16', 'float16', 'float32']] as const,
    ...FLOAT32_KERNELS.map((name) => [name, ['float32']] as const),
    ...EXACT_KERNELS.map((name) => [name, ['exact']] as const),
  ])('%s', (name, groups) => {
    const kernel = kernels.get(name);
    expect(kernel?.failures).toEqual([]);
    for (const group of groups) {
      const result = kernel?.results.find((candidate) => candidate.group === group);
      expect(result?.values).toBeGreaterThan(0);
      expect(result?.worst).toBeLessThanOrEqual(result?.bound ?? NaN);
    }
  });
});
