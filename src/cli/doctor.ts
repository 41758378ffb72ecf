/** `jit-flux doctor`: is everything there that is needed, and does it work? */
import { execFile, type ExecFileException } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';
import type { NativeLibraries } from '../libtorch/native-libraries.js';
import {
  LEAST_REQUIREMENTS,
  PREBUILT_REQUIREMENTS,
  SUITABLE_SYSTEMS,
  compareVersions,
  systemLibraries,
} from '../libtorch/requirements.js';
import { VERSION } from '../files/package-files.js';
import { defineCommand, EXIT } from './command.js';
import { formatBytes, formatDuration, wrapText } from './format.js';
import { checkCuda, cudaFacts, type Check } from './cuda-check.js';
import type { CudaReport, SelfTestReport } from './self-test.js';

/** Of what follows the mark of a check. */
const INDENT = 6;
const SELF_TEST_TIMEOUT = 120_000;
const REPORT_IT =
  'Please report this with the output of `npx jit-flux doctor --json`. Rebuilding (`npm run build:native`) or ' +
  'another LibTorch (`npx jit-flux setup --force`) may help.';
/** What its user can repair. */
const SELF_TEST_REMEDIES: Record<string, string> = {
  [ERROR_CODES.INVALID_ARGUMENT]: 'Correct or unset the variable that the message names.',
  [ERROR_CODES.OUT_OF_MEMORY]:
    'Free memory, or raise the limit of the container or of JIT_FLUX_MEMORY_LIMIT.',
  [ERROR_CODES.NATIVE_LOAD]:
    'Correct the variable if the message names one; else reinstall jit-flux, run `npx jit-flux setup --force`, or ' +
    '`npm run build:native` in a source checkout.',
};

export const doctorCommand = defineCommand({
  command: 'doctor',
  describe: 'Check this machine and this installation; exit code 2 if something is broken',
  builder: (yargs) =>
    yargs.option('self-test', {
      type: 'boolean',
      default: true,
      describe: 'load the native code in a child process and run a tiny picture through it',
    }),
  async run(args, context) {
    const checks: Check[] = [];
    const show = (check: Check) => {
      checks.push(check);
      const mark = { ok: 'ok', warning: 'warn', failed: 'FAIL', skipped: 'skip' }[check.status];
      const lines = `${mark.padEnd(5)} ${check.name}: ${check.detail.replaceAll('\n', '\n      ')}`;
      context.print(wrapText(lines, context.stdout.columns, INDENT));
      if (check.remedy) context.print(wrapText(`      -> ${check.remedy}`, context.stdout.columns, INDENT));
    };
    context.print(`jit-flux ${VERSION}`);
    show(checkNode());
    const libraries = await checkLibraries();
    show(checkPlatform(libraries.found));
    show(await checkCpu());
    show(checkMemory());
    show(libraries.check);
    show(await checkLibTorch(libraries.found));
    show(await checkModel());
    const broken = checks.some(({ status }) => status === 'failed');
    let report: CudaReport | undefined;
    if (!args['self-test']) show({ name: 'self-test', status: 'skipped', detail: 'not asked for' });
    else if (broken) show({ name: 'self-test', status: 'skipped', detail: 'repair the above first' });
    else {
      const tested = await selfTest(context.signal);
      report = tested.cuda;
      show(tested.check);
    }
    // After the self-test, which knows the devices.
    show(checkCuda(await cudaFacts(report)));

    const ok = checks.every(({ status }) => status !== 'failed');
    context.printJson({ ok, version: VERSION, checks });
    context.print(ok ? 'Everything works.' : 'Something is broken; see the lines marked FAIL.');
    return ok ? EXIT.ok : EXIT.badInput;
  },
});

function checkNode(): Check {
  const { node, napi } = process.versions;
  const [major = 0, minor = 0] = node.split('.').map(Number);
  const facts = { node, napi };
  const detail = `${node} (Node-API ${napi})`;
  if (major > 20 || (major === 20 && minor >= 19)) return { name: 'Node', status: 'ok', detail, facts };
  return { name: 'Node', status: 'failed', detail, remedy: 'Install Node 20.19 or newer.', facts };
}

/**
 * @param libraries undefined if there are none, which another check says
 * @internal exported for tests
 */
export function checkPlatform(libraries: NativeLibraries | undefined, system = systemLibraries()): Check {
  const name = 'platform';
  const { platform, arch } = process;
  const needs = libraries?.prebuilt === undefined ? LEAST_REQUIREMENTS : PREBUILT_REQUIREMENTS;
  const facts = { platform, arch, ...system, needs };
  const failed = (detail: string, remedy: string): Check => ({
    name,
    status: 'failed',
    detail,
    remedy,
    facts,
  });
  if (platform !== 'linux' || arch !== 'x64') {
    const remedy = 'jit-flux runs on Linux x64; elsewhere use a container or a virtual machine.';
    return failed(`${platform} ${arch}`, remedy);
  }
  const { glibc, glibcxx } = system;
  if (glibc === undefined) {
    const remedy =
      'LibTorch needs glibc. Use a Debian-based image such as node:22-bookworm-slim instead of Alpine.';
    return failed('Linux x64 without glibc (musl?)', remedy);
  }
  const detail = `Linux x64, glibc ${glibc}, libstdc++ with ${glibcxx === undefined ? 'unknown symbols' : `GLIBCXX_${glibcxx}`}`;
  const isOld = compareVersions(glibc, needs.glibc) < 0;
  if (!isOld && (glibcxx === undefined || compareVersions(glibcxx, needs.glibcxx) >= 0))
    return { name, status: 'ok', detail, facts };
  const remedy =
    `glibc ${needs.glibc} and GLIBCXX_${needs.glibcxx} are needed: use ${SUITABLE_SYSTEMS}, or newer` +
    (libraries?.prebuilt && compareVersions(glibc, LEAST_REQUIREMENTS.glibc) >= 0
      ? ', or build from source on this system.'
      : '.');
  return failed(detail, remedy);
}

async function checkCpu(): Promise<Check> {
  const name = 'CPU';
  const info = await readFile('/proc/cpuinfo', 'utf8').catch(() => '');
  const model = /^model name\s*:\s*(.+)$/m.exec(info)?.[1] ?? 'unknown';
  const flags = new Set(/^flags\s*:\s*(.+)$/m.exec(info)?.[1]?.split(/\s+/));
  const wanted = ['avx2', 'fma', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16'];
  const features = wanted.filter((flag) => flags.has(flag));
  const threads = availableParallelism();
  const facts = { model, threads, features };
  const detail = `${model}, ${threads} threads, ${features.join(' ') || 'no AVX2'}`;
  if (flags.size === 0 || flags.has('avx2')) return { name, status: 'ok', detail, facts };
  return { name, status: 'warning', detail, remedy: 'It will work, but slowly: the CPU lacks AVX2.', facts };
}

function checkMemory(): Check {
  const total = totalmem();
  const limit = process.constrainedMemory?.() ?? 0;
  const usable = limit > 0 && limit < total ? limit : total;
  return { name: 'memory', status: 'ok', detail: formatBytes(usable), facts: { total, usable } };
}

async function checkLibraries(): Promise<{ check: Check; found?: NativeLibraries }> {
  const name = 'native libraries';
  try {
    const { locateNativeLibraries } = await import('../libtorch/native-libraries.js');
    const found = locateNativeLibraries();
    const detail = `${found.core}, built for LibTorch ${found.builtFor}`;
    return { found, check: { name, status: 'ok', detail, facts: { ...found } } };
  } catch (error) {
    const remedy = 'Reinstall jit-flux, or run `npm run build:native` in a source checkout.';
    return { check: failure(name, error, remedy) };
  }
}

/** @param libraries any LibTorch will do for none */
async function checkLibTorch(libraries: NativeLibraries | undefined): Promise<Check> {
  const name = 'LibTorch';
  const [{ SETUP_COMMAND, findLibTorch }, { findLibTorchFor }] = await Promise.all([
    import('../libtorch/libtorch.js'),
    import('../libtorch/native-libraries.js'),
  ]);
  try {
    const found = libraries === undefined ? findLibTorch() : findLibTorchFor(libraries);
    const detail = `${found.version} in ${found.path} (from ${found.source})`;
    return { name, status: 'ok', detail, facts: { ...found } };
  } catch (error) {
    const { command, source, required } = (error instanceof JitFluxError ? error.details : undefined) ?? {};
    const install = typeof command === 'string' ? command : SETUP_COMMAND;
    // What is named by the user is never passed over: installing another one would not help.
    const remedy =
      typeof source === 'string'
        ? `Unset ${source} and run \`${install}\`, or let it name a LibTorch ${String(required)}.`
        : `Run \`${install}\`.`;
    return failure(name, error, remedy);
  }
}

async function checkModel(): Promise<Check> {
  const name = 'bundled model';
  try {
    // Its files alone: what is in them, native code would have to tell, which is a check of its own.
    const { checkModelIndex, findModelFiles } = await import('../model/model-directory.js');
    const { BUNDLED_MODEL, MODEL_INDEX } = await import('../model/bundled-model.js');
    const { readJsonFile } = await import('../files/json.js');
    const index = checkModelIndex(await readJsonFile(join(BUNDLED_MODEL, MODEL_INDEX)));
    const { path } = await findModelFiles(BUNDLED_MODEL, index);
    return { name, status: 'ok', detail: `${index.name} in ${path}`, facts: { path } };
  } catch (error) {
    return failure(name, error, 'Reinstall jit-flux.');
  }
}

/** In a child process, because broken native code can take its process down. */
async function selfTest(signal: AbortSignal): Promise<{ check: Check; cuda?: CudaReport | undefined }> {
  const name = 'self-test';
  const script = fileURLToPath(new URL('./self-test.js', import.meta.url));
  if (!existsSync(script)) {
    const remedy = 'Run `npm run build:ts`.';
    return { check: { name, status: 'skipped', detail: 'this is not a build', remedy } };
  }
  const outcome = await new Promise<{ error: ExecFileException | null; stdout: string; stderr: string }>(
    (resolve) => {
      execFile(
        process.execPath,
        [script],
        { timeout: SELF_TEST_TIMEOUT, killSignal: 'SIGKILL', signal },
        (error, stdout, stderr) => resolve({ error, stdout, stderr }),
      );
    },
  );
  throwIfAborted(signal);
  let report: SelfTestReport | undefined;
  try {
    report = JSON.parse(outcome.stdout) as SelfTestReport;
  } catch {
    // it did not get that far
  }
  if (report?.ok && !outcome.error) {
    const detail = `loaded in ${formatDuration(report.loadMilliseconds)}, picture in ${formatDuration(report.milliseconds)}`;
    return { check: { name, status: 'ok', detail, facts: { ...report } }, cuda: report.cuda };
  }
  if (report?.ok === false) {
    const { code, message } = report;
    const remedy = SELF_TEST_REMEDIES[code] ?? REPORT_IT;
    const detail = `${message} [${code}]`;
    return { check: { name, status: 'failed', detail, remedy, facts: { ...report } } };
  }
  const { error } = outcome;
  const how = error?.killed
    ? `it took longer than ${formatDuration(SELF_TEST_TIMEOUT)}`
    : error?.signal
      ? `the process was ended by ${error.signal}`
      : `the process ended with code ${error?.code ?? 0}`;
  const last = outcome.stderr.trim().split('\n').slice(-5).join('\n');
  const detail = last ? `${how}\n${last}` : how;
  return { check: { name, status: 'failed', detail, remedy: REPORT_IT, facts: { stderr: last } } };
}

function failure(name: string, error: unknown, remedy: string): Check {
  const detail = error instanceof Error ? error.message : String(error);
  const facts = error instanceof JitFluxError ? { code: error.code, ...error.details } : undefined;
  return { name, status: 'failed', detail, remedy, ...(facts && { facts }) };
}
