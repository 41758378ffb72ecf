/**
 * Memory that runs out at any point: the address space of a process is limited to what it takes and some more, in steps,
 * and one operation follows. It must succeed, or fail with ERR_JITFLUX_OUT_OF_MEMORY.
 *
 * Where V8 itself finds no memory for its heap it ends the process; nobody can catch that. Those ends are told by what V8
 * writes, and do not count. JIT_FLUX_TEST_MEMORY_STEPS=1 walks many steps and prints a table.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ProgramEnd, runProgram, runSource } from '../support/program.js';

const WIDE = process.env.JIT_FLUX_TEST_MEMORY_STEPS !== undefined;
const STEPS = WIDE
  ? [
      1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 144, 160, 192, 224, 256,
      320, 400,
    ]
  : [6, 32, 128];
const OPERATIONS = [
  'first load',
  'load',
  'load, not mapped',
  'first step',
  'step',
  'step, int8',
  'encode',
  'decode',
  'load a TorchScript module',
  'run a TorchScript module',
  'inspect',
  'convert',
];

const folder = mkdtempSync(join(tmpdir(), 'jit-flux-steps-'));
const program = (name: string) => new URL(`programs/${name}`, import.meta.url);
const failures: string[] = [];

beforeAll(() => {
  const write = runSource(`
    const models = await import(${JSON.stringify(program('models.mjs').href)});
    models.writeTransformer(${JSON.stringify(join(folder, 'flux.safetensors'))});
    models.writeT5(${JSON.stringify(join(folder, 't5.safetensors'))});
    models.writeAutoencoder(${JSON.stringify(join(folder, 'vae.safetensors'))});
  `);
  expect(write.status, write.stderr).toBe(0);
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** 'ok', the code of an error, 'V8' for an end by V8, or all that is known. */
function judge({ status, signal, stdout, stderr }: ProgramEnd): string {
  if (status === 0 && signal === null && /^(ok|ERR_JITFLUX_)/.test(stdout)) return stdout;
  if (/^(#\s*)?(FATAL ERROR:|Fatal (process|JavaScript) out of memory)/m.test(stderr)) return 'V8';
  return `${status} ${signal} ${stdout} ${stderr}`;
}

describe.each(OPERATIONS)('%s', (operation) => {
  it(
    'succeeds, or says that memory is out',
    () => {
      const outcomes = STEPS.map((megabytes) => {
        const args = [program('memory-steps.mjs').pathname, folder, operation, `${megabytes * 1e6}`];
        return [megabytes, judge(runProgram(args))] as const;
      });
      if (WIDE) {
        const short = (outcome: string) => (/^ERR_JITFLUX_\w+/.exec(outcome)?.[0] ?? outcome).slice(0, 60);
        console.log(operation, outcomes.map(([step, outcome]) => `+${step}: ${short(outcome)}`).join(', '));
      }
      for (const [step, outcome] of outcomes) {
        expect(outcome, `+${step} MB`).toMatch(/^(ok$|V8$|ERR_JITFLUX_OUT_OF_MEMORY )/);
        if (outcome.startsWith('ERR_')) failures.push(outcome);
      }
    },
    WIDE ? 600_000 : 120_000,
  );
});

it('has seen memory run out', () => {
  expect(failures.length).toBeGreaterThan(0);
});
