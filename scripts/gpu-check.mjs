// The stages of scripts/gpu-check, which runs this: build, test, bench, report. Results go to one JSON file per stage,
// rewritten after every step, so that a call that is cut short leaves what it has and another call goes on.
import { spawn } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { delimiter, dirname, join, relative, resolve } from 'node:path';
import { clearTimeout } from 'node:timers';
import { kernelRows } from '../bench/gpu/figures.mjs';
import { StageRecord, readDocument } from '../bench/gpu/record.mjs';
import {
  lastLines,
  parseBackend,
  parseSanitizer,
  parseVitest,
  planStages,
  torchLibraryPath,
} from './lib/gpu-check.mjs';
import { ROOT, UserError, capture, main, takeFlag, takeOption } from './lib/tools.mjs';

/** Seconds that a step needs at least; with less left it is not begun. Estimates. */
const NEEDS = {
  build: 60,
  target: 20,
  kernels: 15,
  memcheck: 30,
  racecheck: 30,
  backend: 15,
  vitest: 30,
  bench: 60,
};
/** The sanitizers slow kernels down a hundredfold: a reduced set of shapes, and an end. */
const SANITIZER_SECONDS = 90;
/** Kept for the report. */
const RESERVE = 10;
/** What comes back is 16 MiB a file. */
const LOG_LIMIT = 8 * 2 ** 20;
const BUILD = join(ROOT, 'build', 'Cuda');
const EXECUTABLES = join(ROOT, '.cmake-build', 'cuda-Release', 'out');
const KERNEL_TESTS = 'jit_flux_cuda_kernel_tests';
const BACKEND_TESTS = 'jit_flux_cuda_backend_tests';

class GpuCheck {
  constructor(options, commandLine) {
    this.options = options;
    this.out = options.out;
    this.log = join(options.out, 'log.txt');
    mkdirSync(options.out, { recursive: true });
    const started = Number(process.env.GPU_CHECK_STARTED ?? Date.now() / 1000);
    this.deadline = started + options.budget;
    this.unpackSeconds = Date.now() / 1000 - started;
    this.commandLine = commandLine;
    this.failed = 0;
    this.only = options.only?.split(',');
  }

  left() {
    return this.deadline - RESERVE - Date.now() / 1000;
  }

  async run(stages) {
    this.describe();
    process.env.JIT_FLUX_GPU_RUN = JSON.stringify(this.machine);
    for (const stage of stages) {
      if (stage === 'report') continue;
      const record = new StageRecord(join(this.out, `${stage}.json`), stage, this.machine);
      await this[stage](record);
      record.finish();
      this.failed += record.failed;
    }
    // Always: it is what people read, and costs nothing.
    await this.report();
    if (this.failed > 0) process.exitCode = 1;
  }

  // ---- machine

  describe() {
    const pack = this.pack();
    const { python } = this.options;
    const torch = this.torch();
    const nvidia = capture('nvidia-smi', [
      '--query-gpu=name,compute_cap,memory.total,driver_version',
      '--format=csv,noheader',
    ]);
    const [device, computeCapability, deviceMemory, driver] = (nvidia?.split('\n')[0] ?? '')
      .split(',')
      .map((text) => text.trim());
    const git = (...args) => capture('git', args)?.trim();
    const changes = git('status', '--porcelain', '--untracked-files=no');
    this.hasDevice = !this.options.withoutGpu && Boolean(device);
    this.architecture =
      this.options.architectures ??
      (computeCapability ? `${computeCapability.replace('.', '')}-real` : '90-real');
    this.machine = {
      id: randomUUID(),
      date: new Date().toISOString(),
      command: this.commandLine,
      budgetSeconds: this.options.budget,
      device: this.hasDevice ? device : undefined,
      ...(this.hasDevice && { computeCapability, deviceMemory, driver }),
      cuda: /release ([^\n,]*)/.exec(capture('nvcc', ['--version']) ?? '')?.[1],
      torch: torch && versionOf(torch),
      torchPath: torch,
      python: capture(python, ['--version'])?.trim().split(' ')[1],
      node: process.versions.node,
      // Only files travel to the device. If it has a repository, then one of an earlier commit.
      ...(pack && existsSync(join(ROOT, 'dist', '.from-pack'))
        ? { commit: pack.commit.slice(0, 10), modified: pack.modified }
        : {
            commit: git('rev-parse', '--short=10', 'HEAD') ?? 'unknown',
            modified: changes === undefined ? undefined : changes !== '',
          }),
      jitFlux: JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).version,
      pack: pack && {
        commit: pack.commit,
        parts: pack.parts.map(({ name, contents }) => `${name} ${contents.slice(0, 12)}`),
      },
      cpu: cpus()[0]?.model,
      cores: cpus().length,
      memoryGiB: Number((totalmem() / 2 ** 30).toFixed(1)),
      kernel: release(),
      compiler: capture(process.env.CXX || 'g++', ['--version'])?.split('\n')[0],
      cmake: capture('cmake', ['--version'])?.split('\n')[0]?.replace('cmake version ', ''),
      architecture: this.architecture,
      tiny: this.options.tiny,
    };
    this.say(
      `${this.machine.device ?? 'no device'}; torch ${this.machine.torch ?? 'not found'}; commit ${this.machine.commit}; ` +
        `${Math.round(this.left())} s left`,
    );
  }

  pack() {
    try {
      return JSON.parse(
        readFileSync(join(process.env.GPU_CHECK_PACK ?? join(ROOT, '.gpu'), 'pack.json'), 'utf8'),
      );
    } catch {
      return undefined;
    }
  }

  /** LibTorch: the one that was named, else that of Python. */
  torch() {
    const { libtorch, python } = this.options;
    if (libtorch) return resolve(libtorch);
    const script =
      'import importlib.util as u; s = u.find_spec("torch"); print(list(s.submodule_search_locations)[0] if s else "")';
    return capture(python, ['-c', script])?.trim() || undefined;
  }

  // ---- stages

  async unpack(record) {
    await record.step('unpack', () => {
      const pack = this.pack();
      if (pack === undefined) return { pack: false, seconds: this.unpackSeconds };
      const empty = pack.packedFiles.filter(
        ({ path, size }) => !existsSync(join(ROOT, path)) || statSync(join(ROOT, path)).size !== size,
      );
      if (empty.length > 0 && !existsSync(join(ROOT, '.git')))
        throw new Error(`Not as in the pack: ${empty.map(({ path }) => path).join(', ')}`);
      if (existsSync(join(ROOT, 'dist', '.from-pack')) && sourceDigest() !== pack.sources)
        throw new Error('src/ has changed since the pack was made: run gpu-check-pack again');
      return {
        pack: true,
        seconds: this.unpackSeconds,
        node: process.version,
        packages: Object.keys(pack.packages).length,
      };
    });
  }

  async build(record) {
    const { torchPath } = this.machine;
    if (torchPath === undefined) return record.skip('build', 'there is no LibTorch: name one by --libtorch');
    if (!existsSync(join(torchPath, 'lib', 'libtorch_cuda.so')))
      return record.skip('build', `${torchPath} has no CUDA`);
    if (this.left() < NEEDS.build) return record.skip('build', this.tooLittle('build'));
    const headers = process.env.GPU_CHECK_HEADERS;
    const args = [
      'scripts/build-native.mjs',
      '--cuda',
      '--libtorch',
      torchPath,
      ...(headers ? readdirSync(headers).flatMap((name) => ['--node-headers', join(headers, name)]) : []),
      '--define',
      `CMAKE_CUDA_ARCHITECTURES=${this.architecture}`,
      // Another compiler than that of our own machines finds other things to warn of.
      '--define',
      'JIT_FLUX_WERROR=OFF',
      // The emulation of the kernels is for machines without a GPU.
      '--define',
      'JIT_FLUX_CUDA_EMULATION=OFF',
    ];
    await record.step(
      'build',
      async () => {
        // They would be older than the sources that were just sent, and compiled anew, for which there is no compiler.
        if (existsSync(join(ROOT, 'dist', '.from-pack'))) touchAll(join(ROOT, 'dist'));
        await this.command('build', process.execPath, args, { seconds: this.left() });
        return {
          libraries: sizes(BUILD),
          executables: sizes(EXECUTABLES, (name) => !/\.(so|node)$/.test(name)),
          record: JSON.parse(readFileSync(join(BUILD, 'jit_flux.build.json'), 'utf8')),
        };
      },
      { command: `node ${args.map((arg) => relativeTo(arg)).join(' ')}` },
    );
    if (record.document.steps.build?.status === 'ok') await this.optionalTargets(record);
    await record.step('load', () => this.engine());
  }

  /** The tests' executables, by themselves: one that does not compile leaves everything else as it is. */
  async optionalTargets(record) {
    const directory = dirname(EXECUTABLES);
    const configure = (onOff) =>
      this.command('configure', 'cmake', ['-S', ROOT, '-B', directory, `-DJIT_FLUX_CUDA_TESTS=${onOff}`], {
        seconds: 60,
        allowFailure: true,
      });
    await configure('ON');
    const { stdout } = await this.command('targets', 'cmake', ['--build', directory, '--target', 'help'], {
      seconds: 60,
      allowFailure: true,
    });
    const wanted = [KERNEL_TESTS, BACKEND_TESTS];
    const known = wanted.filter((name) => stdout.includes(`${name}:`));
    for (const name of wanted) {
      if (!known.includes(name)) record.skip(name, 'the sources have no such target');
      else if (this.left() < NEEDS.target) record.skip(name, this.tooLittle('target'));
    }
    if (known.length > 0 && this.left() >= NEEDS.target) {
      // Both at once, because their sources are few and large; an error in one does not stop the other.
      const targets = known.flatMap((name) => ['--target', name]);
      const parallel = ['--parallel', String(cpus().length)];
      const all = ['--build', directory, ...targets, ...parallel, '--', '-k', '0'];
      await record.step("tests' executables", async () => {
        await this.command('executables', 'cmake', all, { seconds: this.left(), allowFailure: true });
      });
      for (const name of known) {
        const args = ['--build', directory, '--target', name, ...parallel];
        await record.step(name, async () => {
          await this.command(name, 'cmake', args, { seconds: this.left() });
          return { bytes: statSync(join(EXECUTABLES, name)).size };
        });
      }
    }
    // CMake's cache would remember it, and the next build would make them as well.
    await configure('OFF');
  }

  /** That the libraries open, with this LibTorch and this Node. */
  async engine() {
    const script =
      "import('jit-flux').then(async (j) => console.log(JSON.stringify({ ...j.engineInfo(), devices: await j.devices() })))";
    const { stdout } = await this.command('load', process.execPath, ['-e', script], { seconds: 120 });
    const info = JSON.parse(lastLines(stdout, 1));
    if (this.hasDevice && info.devices.length === 0) throw new Error('the engine sees no device');
    return info;
  }

  async test(record) {
    const out = (name) => join(this.out, name);
    const kernels = this.executable(KERNEL_TESTS);
    const backend = this.executable(BACKEND_TESTS);
    const scratch = out('.kernels.json');

    await this.optional(record, 'kernels', { file: kernels }, async () => {
      const document = await this.kernelTests(['--json', scratch], scratch, this.left());
      if (document.passed === false) throw withResult(new Error(failuresOf(document)), document);
      return document;
    });
    await this.optional(record, 'backend', { file: backend }, async () => {
      const seconds = Math.min(150, this.left());
      const { code, stdout, timedOut } = await this.command('backend', backend, [], {
        seconds,
        allowFailure: true,
      });
      const found = parseBackend(jsonIn(stdout));
      if (timedOut) throw withResult(new Error(`ended after ${Math.round(seconds)} s`), found);
      if (code !== 0 || found.failures.length > 0)
        throw withResult(new Error(`exit code ${code}; ${found.summary || lastLines(stdout, 5)}`), found);
      return found;
    });
    const vitest = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');
    const hasSuites =
      existsSync(join(ROOT, 'test', 'cuda')) && tsTests(join(ROOT, 'test', 'cuda')).length > 0;
    const suites = hasSuites ? vitest : undefined;
    // Without a device as well: the suites see for themselves, and what they need has to be in the pack.
    await this.optional(record, 'vitest', { file: suites, needsDevice: false }, async () => {
      const json = out('.vitest.json');
      const args = [
        vitest,
        'run',
        '--project=cuda',
        '--project=golden-cuda',
        '--reporter=default',
        '--reporter=json',
        `--outputFile.json=${json}`,
      ];
      const environment = { JIT_FLUX_VARIANT: 'cuda', CI: '1', NO_COLOR: '1' };
      const { code } = await this.command('vitest', process.execPath, args, {
        seconds: this.left(),
        environment,
        allowFailure: true,
      });
      const found = parseVitest(takeJson(json), ROOT);
      if (code !== 0 || found.failed > 0)
        throw withResult(new Error(`${found.failed} tests failed, exit code ${code}`), found);
      if (this.hasDevice && found.passed === 0) throw withResult(new Error('every test was skipped'), found);
      return found;
    });
    const sanitizer = which('compute-sanitizer');
    for (const tool of ['memcheck', 'racecheck']) {
      await this.optional(record, tool, { file: sanitizer && kernels }, async () => {
        const seconds = Math.min(SANITIZER_SECONDS, this.left());
        // Fewer shapes, if the executable offers that; else as far as it gets in the time.
        const usage = await this.command(tool, kernels, ['--help'], { seconds: 30, allowFailure: true });
        const fewer = usage.stdout.includes('--quick') ? ['--quick'] : [];
        const args = ['--tool', tool, '--error-exitcode', '9', kernels, ...fewer];
        const { code, stdout, timedOut } = await this.command(tool, sanitizer, args, {
          seconds,
          allowFailure: true,
        });
        const found = { ...parseSanitizer(stdout), timedOut, code };
        if (found.errors > 0 || (code !== 0 && !timedOut))
          throw withResult(new Error(found.summary || lastLines(stdout, 5)), found);
        if (timedOut) found.summary = `ended after ${Math.round(seconds)} s, no error until then`;
        return found;
      });
    }
  }

  async bench(record) {
    const kernels = this.executable(KERNEL_TESTS);
    await this.optional(record, 'kernels', { file: kernels }, async () => {
      const scratch = join(this.out, '.bench.json');
      const document = await this.kernelTests(['--bench', scratch], scratch, Math.min(90, this.left()));
      if (kernelRows(document).length === 0) throw withResult(new Error('no times'), document);
      return document;
    });
    const only = this.only?.filter((name) => name !== 'kernels');
    if (only?.length === 0) return;
    const device = this.hasDevice ? 'cuda' : 'cpu';
    if (!this.hasDevice && !this.options.tiny) return record.skip('flux', 'no device');
    if (this.left() < NEEDS.bench && !this.options.tiny) return record.skip('flux', this.tooLittle('bench'));
    record.finish();
    const args = [
      'bench/gpu/run.mjs',
      ...['--device', device],
      ...['--json', record.path],
      ...['--python', this.options.python],
      ...['--budget', String(Math.floor(this.left()))],
      // The machine goes back with everything on it; a later call may find it warm.
      ...(this.options.tiny ? ['--tiny'] : ['--keep']),
      ...(only ? ['--only', only.join(',')] : []),
    ];
    const { code } = await this.command('bench', process.execPath, args, {
      seconds: this.left() + RESERVE / 2,
      show: /^bench: /,
      allowFailure: true,
    });
    // It has written its steps into the same file.
    Object.assign(record.document, readDocument(record.path));
    if (code !== 0) record.skip('flux', `bench/gpu/run.mjs ended with code ${code}; see log.txt`);
    record.failed += Object.values(record.document.steps).filter(({ status }) => status === 'failed').length;
  }

  async report() {
    const { mergeDocuments, renderReport, reportDocument } = await import('../bench/gpu/report.mjs');
    const documents = findDocuments(this.out);
    if (documents.length === 0) throw new UserError(`There are no results in ${this.out}`);
    const merged = mergeDocuments(documents);
    const text = renderReport(merged);
    writeFileSync(join(this.out, 'report.md'), text);
    writeFileSync(join(this.out, 'report.json'), `${JSON.stringify(reportDocument(merged), null, 1)}\n`);
    console.log(`\n${text.slice(0, 9000)}`);
    this.say(`report: ${join(this.out, 'report.md')}; ${Math.round(this.left() + RESERVE)} s left`);
  }

  // ---- helpers

  /** A step that needs a device and a file; left out with the reason where one is missing, or the time. */
  async optional(record, name, { file, needsDevice = true }, work) {
    if (this.only && !this.only.includes(name)) return undefined;
    if (needsDevice && !this.hasDevice) return record.skip(name, 'no device');
    if (file === undefined) return record.skip(name, 'this build or this machine has none');
    if (this.left() < NEEDS[name]) return record.skip(name, this.tooLittle(name));
    return record.step(name, work);
  }

  tooLittle(name) {
    return `${Math.max(0, this.left()).toFixed(0)} s were left, ${NEEDS[name]} s are needed`;
  }

  executable(name) {
    const path = join(EXECUTABLES, name);
    return existsSync(path) ? path : undefined;
  }

  /** Runs the kernels' executable; its document is in the file that was asked for, or in its output. */
  async kernelTests(args, file, seconds) {
    const command = this.executable(KERNEL_TESTS);
    const { code, stdout } = await this.command('kernels', command, args, { seconds, allowFailure: true });
    const document = takeJson(file) ?? jsonIn(stdout);
    if (document === undefined)
      throw new Error(`exit code ${code}, no JSON document: ${lastLines(stdout, 5)}`);
    if (code !== 0) throw withResult(new Error(`exit code ${code}: ${failuresOf(document)}`), document);
    return document;
  }

  /** Runs a command; its output goes to the log, and is returned. */
  async command(label, command, args, { seconds, environment = {}, show, allowFailure = false }) {
    this.say(`$ ${[command, ...args].map(relativeTo).join(' ')}`);
    const { torchPath } = this.machine;
    const env = {
      ...process.env,
      ...(torchPath && { JIT_FLUX_LIBTORCH: torchPath }),
      // For the tests' executables, which nobody opens LibTorch for. Not for compilers, which bring libraries of their own.
      ...(torchPath &&
        [command, ...args].some((text) => text.startsWith(EXECUTABLES)) && {
          LD_LIBRARY_PATH: torchLibraryPath(torchPath, process.env.LD_LIBRARY_PATH),
        }),
      ...(existsSync(join(BUILD, 'jit_flux.node')) &&
        !process.env.JIT_FLUX_BUILD_DIR && { JIT_FLUX_VARIANT: 'cuda' }),
      JIT_FLUX_PYTHON: this.options.python,
      ...environment,
    };
    const child = spawn(command, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    let stdout = '';
    let pending = '';
    const take = (text) => {
      stdout = (stdout + text).slice(-(4 * 2 ** 20));
      this.write(text);
      pending += text;
      const lines = pending.split('\n');
      pending = lines.pop();
      for (const line of lines) if (show?.test(line)) console.log(line);
    };
    child.stdout.setEncoding('utf8').on('data', take);
    child.stderr.setEncoding('utf8').on('data', take);
    let timedOut = false;
    const timer = setTimeout(
      () => {
        timedOut = true;
        // The whole group: what it started would hold the device.
        process.kill(-child.pid, 'SIGKILL');
      },
      Math.max(1, seconds) * 1000,
    );
    let code;
    let signal;
    try {
      [code, signal] = await once(child, 'close');
    } finally {
      clearTimeout(timer);
    }
    if (code !== 0 && !allowFailure) {
      const how = timedOut
        ? `was ended after ${Math.round(seconds)} s`
        : `ended with ${signal ?? `code ${code}`}`;
      throw new Error(`${label} ${how}:\n${lastLines(stdout, 25)}`);
    }
    return { code: code ?? -1, stdout, timedOut };
  }

  say(text) {
    const line = `[gpu-check] ${text}`;
    console.log(line);
    this.write(`${line}\n`);
  }

  write(text) {
    if (existsSync(this.log) && statSync(this.log).size > LOG_LIMIT) return;
    appendFileSync(this.log, text);
  }
}

/** Stage documents in a folder and the folders in it: several calls' results lie side by side. */
function findDocuments(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return findDocuments(path);
    if (!entry.name.endsWith('.json') || entry.name.startsWith('.')) return [];
    return readDocument(path) ?? [];
  });
}

function versionOf(torch) {
  try {
    return /^__version__\s*=\s*['"]([^'"]+)/m.exec(readFileSync(join(torch, 'version.py'), 'utf8'))?.[1];
  } catch {
    return undefined;
  }
}

/** As scripts/gpu-check-pack.mjs computes it, from the files that are there. */
function sourceDigest() {
  const hash = createHash('sha256');
  const paths = readdirSync(join(ROOT, 'src'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));
  for (const path of paths.sort()) hash.update(`${path}\0`).update(readFileSync(join(ROOT, path)));
  return hash.digest('hex');
}

function touchAll(folder) {
  const now = new Date();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) utimesSync(join(entry.parentPath, entry.name), now, now);
  }
}

function sizes(folder, keep = () => true) {
  if (!existsSync(folder)) return {};
  return Object.fromEntries(
    readdirSync(folder)
      .filter(keep)
      .map((name) => [name, statSync(join(folder, name)).size]),
  );
}

function tsTests(folder) {
  return readdirSync(folder, { recursive: true }).filter((name) => /\.test\.ts$/.test(name));
}

function which(name) {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));
}

/** A scratch file's document; the file goes, because few files come back from the device. */
function takeJson(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  } finally {
    rmSync(path, { force: true });
  }
}

function jsonIn(text) {
  const start = text.search(/^\{/m);
  try {
    return start < 0 ? undefined : JSON.parse(text.slice(start, text.lastIndexOf('}') + 1));
  } catch {
    return undefined;
  }
}

function failuresOf(document) {
  const failed = (document.kernels ?? []).filter(({ failures }) => failures?.length > 0);
  return (
    failed.map(({ name, failures }) => `${name}: ${failures[0]}`).join('; ') || 'the kernels do not pass'
  );
}

function withResult(error, result) {
  return Object.assign(error, { result });
}

function relativeTo(path) {
  return path.startsWith(ROOT) ? relative(ROOT, path) || '.' : path;
}

// Last: classes exist from their definition on.
await main(async () => {
  const args = process.argv.slice(2);
  const commandLine = `bash scripts/gpu-check ${args.join(' ')}`.trim();
  const options = {
    budget: Number(takeOption(args, 'budget', '540')),
    out: resolve(takeOption(args, 'out', process.env.OUT || join(ROOT, 'gpu-report'))),
    libtorch: takeOption(args, 'libtorch', process.env.JIT_FLUX_LIBTORCH),
    python: takeOption(args, 'python', process.env.JIT_FLUX_PYTHON || 'python3'),
    only: takeOption(args, 'only'),
    architectures: takeOption(args, 'architectures'),
    withoutGpu: takeFlag(args, 'without-gpu'),
    tiny: takeFlag(args, 'tiny'),
  };
  if (!(options.budget > 0)) throw new UserError('Expected a positive number of seconds for --budget');
  const stages = planStages(args);
  await new GpuCheck(options, commandLine).run(stages);
});
