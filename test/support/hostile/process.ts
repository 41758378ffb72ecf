/** Runs a family of hostile calls in a process of its own, so that a crash is a failed test. */
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

import type { Failure } from './family.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '');

/** Seed of the short form; `JIT_FLUX_PROPERTY_SEED` gives another one, `random` one drawn at random. */
export const FIXED_SEED = 20260321;

/** The seeds of a run: the fixed one and, for what that does not find, a random one. */
export function seeds(): number[] {
  const given = process.env['JIT_FLUX_PROPERTY_SEED'];
  if (given !== undefined) return [Number(given)];
  return [FIXED_SEED, randomInt(2 ** 31)];
}

/** Cases per family and seed. `JIT_FLUX_PROPERTY_RUNS` gives another number. */
export function runs(usual: number): number {
  const given = process.env['JIT_FLUX_PROPERTY_RUNS'];
  return given === undefined ? usual : Number(given);
}

let compiled: string | undefined;

/**
 * The test's own modules as JavaScript, in a folder where `src` is the built package: the process imports what users do.
 */
function compile(): string {
  if (compiled !== undefined) return compiled;
  const folder = mkdtempSync(join(tmpdir(), 'jit-flux-property-build-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  symlinkSync(join(ROOT, 'dist'), join(folder, 'src'));
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  for (const file of sources('test/support', 'test/property')) {
    const target = join(folder, file.replace(/\.ts$/, '.js'));
    mkdirSync(dirname(target), { recursive: true });
    const { outputText } = ts.transpileModule(readFileSync(join(ROOT, file), 'utf8'), {
      fileName: file,
      compilerOptions: {
        module: ts.ModuleKind.ESNext,
        target: ts.ScriptTarget.ES2022,
        verbatimModuleSyntax: true,
        inlineSourceMap: true,
      },
    });
    writeFileSync(target, outputText);
  }
  return (compiled = folder);
}

function sources(...folders: string[]): string[] {
  return folders.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .map((name) => relative(ROOT, join(ROOT, folder, name)))
      .filter(
        (name) => name.endsWith('.ts') && !name.endsWith('.test.ts') && statSync(join(ROOT, name)).isFile(),
      ),
  );
}

export interface Report {
  cases: number;
  refused: number;
  failures: Failure[];
}

/**
 * @param o.program what runs it. Default: hostile calls
 * @param o.seconds after which the process counts as hanging
 * @throws Error with the case that it was at, if the process crashes or hangs
 */
export async function runInProcess(
  family: string,
  o: { seed: number; runs: number; seconds: number; flags?: readonly string[]; program?: string },
): Promise<Report> {
  const child = spawn(
    process.execPath,
    [
      ...(o.flags ?? []),
      '--enable-source-maps',
      join(compile(), o.program ?? 'test/property/child.js'),
      family,
      String(o.seed),
      String(o.runs),
      ...[process.env['JIT_FLUX_PROPERTY_TARGET'], process.env['JIT_FLUX_PROPERTY_CASE']].filter(
        (part) => part !== undefined,
      ),
    ],
    {
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
      env: { ...process.env, JIT_FLUX_PROPERTY_ROOT: ROOT, JIT_FLUX_LOG_LEVEL: 'silent' },
    },
  );
  let output = '';
  let errors = '';
  let last = '';
  child.stdout!.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (errors = (errors + text).slice(-4000)));
  (child.stdio[3] as NodeJS.ReadableStream).on('data', (text: Buffer) => {
    last = (last + text.toString('utf8')).slice(-4000);
  });
  let hung = false;
  const timer = setTimeout(() => {
    hung = true;
    child.kill('SIGKILL');
  }, o.seconds * 1000);
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) =>
    child.on('close', (code, signal) => resolve([code, signal])),
  );
  clearTimeout(timer);
  const at = last.trimEnd().split('\n').at(-1);
  const where = `family ${family}, JIT_FLUX_PROPERTY_SEED=${o.seed} JIT_FLUX_PROPERTY_RUNS=${o.runs}\nat ${at}\n${errors}`;
  if (hung) throw new Error(`hung for ${o.seconds} s: ${where}`);
  if (code !== 0 || signal !== null) throw new Error(`ended with ${signal ?? code}: ${where}`);
  return JSON.parse(output) as Report;
}

/** What a failed test prints: every failure and how to have it again. */
export function describeFailures(family: string, o: { seed: number; runs: number }, report: Report): string {
  return report.failures
    .map(({ target, what, changes }) => `${target}: ${what}\n  ${changes}`)
    .concat(`JIT_FLUX_PROPERTY_SEED=${o.seed} JIT_FLUX_PROPERTY_RUNS=${o.runs} (family ${family})`)
    .join('\n');
}
