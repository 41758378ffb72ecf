/**
 * Provisioning of LibTorch: fetches a variant's pinned archives (one for the CPU, PyTorch's and NVIDIA's wheels for
 * CUDA), verifies them and unpacks them into the cache. Only ever run by an explicit command (`npx jit-flux setup`, or the build in a source checkout), never by the installation of the package.
 */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ERROR_CODES, JitFluxError, abortedError, invalidArgument, throwIfAborted } from '../errors.js';
import { acquireLock } from '../files/lock.js';
import { download } from './download.js';
import {
  SETUP_COMMAND,
  cacheDirectory,
  findLibTorch,
  libTorchDirectory,
  readManifest,
  variantCacheDirectory,
  type LibTorchArchive,
  type LibTorchManifest,
  type LibTorchVariant,
} from './libtorch.js';
import { AUTO_VARIANT, chooseVariant } from './variant.js';
import { ZipFile, entryTarget, type ZipEntry } from './zip.js';

export interface SetupProgress {
  /** `'wait'`: another process is at it. */
  phase: 'wait' | 'download' | 'verify' | 'unpack';
  /** Bytes, of all archives together; 0 of 0 while waiting. */
  done: number;
  total: number;
  /** How many archives there are. */
  archives: number;
  /** Where the bytes come from: a URL, a file, or `pip`. */
  source?: string;
}

export interface SetupOptions {
  /** `'cpu'`, `'cu130'`, or `'auto'`: cu130 where an NVIDIA device can make use of it. Default `'cpu'`. */
  variant?: string;
  /**
   * A local copy of the pinned archive, or a directory that holds all archives under their names: for machines without
   * network access.
   */
  from?: string;
  /** Default: `JIT_FLUX_CACHE`, else `$XDG_CACHE_HOME/jit-flux`, else `~/.cache/jit-flux`. */
  cacheDir?: string;
  /** Replace what is in the cache. Default false. */
  force?: boolean;
  onProgress?: (progress: SetupProgress) => void;
  signal?: AbortSignal;
  /** @internal for tests */ manifest?: LibTorchManifest;
  /** @internal for tests */ env?: NodeJS.ProcessEnv;
}

export interface SetupResult {
  /** The LibTorch directory. */
  path: string;
  version: string;
  variant: string;
  /** True if there was nothing to do. */
  alreadyPresent: boolean;
}

/** How a source failed; one line of the final error. */
interface Attempt {
  source: string;
  reason: string;
}

interface Context {
  variant: string;
  pinned: LibTorchVariant;
  cacheDir: string;
  env: NodeJS.ProcessEnv;
  signal: AbortSignal | undefined;
  report: (progress: Omit<SetupProgress, 'archives'>) => void;
  /** Bytes of the archives before the one at hand. */
  obtained: number;
}

/** A verified archive on disk. */
interface Obtained {
  archive: LibTorchArchive;
  file: string;
  source: string;
  /** It was fetched and is to be deleted once unpacked. */
  fetched: boolean;
}

/**
 * Makes the pinned LibTorch available in the cache. Sources, in order: `from`; else what an interrupted run has left,
 * `JIT_FLUX_LIBTORCH_MIRROR` (a URL or a directory), the official URL, `python3 -m pip download`. Whatever the source,
 * size and SHA-256 must match. Several processes may call this at the same time; one works, the others wait.
 *
 * @throws ERR_JITFLUX_SETUP_FAILED naming what was tried and the remedy; the cache is left as it was
 */
export async function setupLibTorch(options: SetupOptions = {}): Promise<SetupResult> {
  const { signal } = options;
  const env = options.env ?? process.env;
  const manifest = options.manifest ?? readManifest();
  const named = options.variant ?? manifest.defaultVariant;
  const variant = named === AUTO_VARIANT ? chooseVariant(manifest).variant : named;
  const pinned = Object.hasOwn(manifest.variants, variant) ? manifest.variants[variant] : undefined;
  if (pinned === undefined)
    throw invalidArgument(
      'variant',
      `one of ${[...Object.keys(manifest.variants), AUTO_VARIANT].join(', ')}`,
      options.variant,
    );
  if (!pinned.available) {
    throw new JitFluxError(
      ERROR_CODES.SETUP_FAILED,
      `The LibTorch variant "${variant}" is not available yet: ${pinned.unavailableReason ?? 'not pinned'}. ` +
        `Use \`${SETUP_COMMAND} --variant ${manifest.defaultVariant}\`.`,
      { variant },
    );
  }
  throwIfAborted(signal);

  const { version } = pinned;
  const cacheDir = options.cacheDir === undefined ? cacheDirectory(env) : resolve(options.cacheDir);
  const target = variantCacheDirectory(cacheDir, version, variant);
  const path = libTorchDirectory(target, pinned);
  const context: Context = {
    variant,
    pinned,
    cacheDir,
    env,
    signal,
    report: (progress) => options.onProgress?.({ ...progress, archives: pinned.archives.length }),
    obtained: 0,
  };
  const done = (alreadyPresent: boolean): SetupResult => ({ path, version, variant, alreadyPresent });
  const isPresent = (): boolean => isComplete(path, pinned, manifest);
  if (!options.force && isPresent()) return done(true);

  try {
    await mkdir(dirname(target), { recursive: true });
    const release = await acquireLock(`${target}.lock`, {
      signal: context.signal,
      onWait: () => context.report({ phase: 'wait', done: 0, total: 0, source: `${target}.lock` }),
    });
    try {
      // Another process may have finished while this one waited.
      if (!options.force && isPresent()) return done(true);
      await install(target, options.from, context);
      return done(false);
    } finally {
      await release();
    }
  } catch (error) {
    if (signal?.aborted) throw abortedError(signal);
    if (error instanceof JitFluxError) throw error;
    throw new JitFluxError(
      ERROR_CODES.SETUP_FAILED,
      `LibTorch ${version} (${variant}) could not be installed in ${cacheDir}: ${messageOf(error)}`,
      { variant, version, cacheDir },
      { cause: error },
    );
  }
}

/** A directory appears by one rename, so its presence means that it is complete. */
function isComplete(path: string, pinned: LibTorchVariant, manifest: LibTorchManifest): boolean {
  const { version, cuda } = pinned;
  try {
    return findLibTorch({ libtorch: path, builtFor: version, cuda, manifest, env: {} }).path === path;
  } catch {
    return false;
  }
}

async function install(target: string, from: string | undefined, context: Context): Promise<void> {
  const { pinned } = context;
  const parent = dirname(target);
  const prefix = `.tmp-${basename(target)}-`;
  // Under the lock, whatever carries this prefix was left behind by a process that died.
  for (const name of await readdir(parent))
    if (name.startsWith(prefix)) await rm(join(parent, name), { recursive: true, force: true });

  const given = from === undefined ? undefined : await givenFiles(from, context);
  await assertSpace(parent, given === undefined, context);
  const work = join(parent, prefix + randomBytes(6).toString('hex'));
  const staged = join(work, 'libtorch');
  await mkdir(staged, { recursive: true });
  try {
    const obtained: Obtained[] = [];
    for (const [index, archive] of pinned.archives.entries()) {
      obtained.push(
        given === undefined
          ? await obtain(archive, work, context)
          : await verifyGiven(given[index]!, archive, context),
      );
      context.obtained += archive.size;
    }
    await unpack(obtained, staged, context);
    const archives = obtained.map(({ archive, source }) => ({
      file: archive.file,
      sha256: archive.sha256,
      source,
    }));
    const record = { version: pinned.version, variant: context.variant, archives };
    await writeFile(join(staged, 'jit-flux-setup.json'), `${JSON.stringify(record, undefined, 2)}\n`);
    throwIfAborted(context.signal);
    if (existsSync(target)) await rename(target, join(work, 'replaced'));
    await rename(staged, target);
    for (const { file, fetched } of obtained) if (fetched) await rm(file, { force: true });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Better now than after gigabytes of downloads. */
async function assertSpace(directory: string, fetches: boolean, context: Context): Promise<void> {
  const { archives, unpackedSize, version } = context.pinned;
  let toFetch = 0;
  if (fetches)
    for (const archive of archives) toFetch += archive.size - (await sizeOf(downloadPath(archive, context)));
  const { bavail, bsize } = await statfs(directory);
  const free = bavail * bsize;
  const needed = toFetch + unpackedSize;
  if (free >= needed) return;
  throw new JitFluxError(
    ERROR_CODES.SETUP_FAILED,
    `LibTorch ${version} (${context.variant}) needs ${gigabytes(needed)} in ${context.cacheDir} ` +
      `(${gigabytes(unpackedSize)} of them for good), but only ${gigabytes(free)} are free. ` +
      'Make room, or name another place with --cache-dir or JIT_FLUX_CACHE.',
    { variant: context.variant, cacheDir: context.cacheDir, needed, free },
  );
}

// ---- sources ----

/** The file of every archive, in their order. */
async function givenFiles(from: string, context: Context): Promise<string[]> {
  const { archives } = context.pinned;
  const path = resolve(from);
  const isDirectory = await stat(path).then(
    (info) => info.isDirectory(),
    () => false,
  );
  if (!isDirectory && archives.length === 1) return [path];
  const files = archives.map(({ file }) => join(path, file));
  const missing = archives.filter((_, index) => !existsSync(files[index]!));
  if (missing.length === 0) return files;
  const count =
    archives.length === 1 ? 'the archive' : `${missing.length} of the ${archives.length} archives`;
  const problem = isDirectory
    ? `lacks ${count}`
    : `is not a directory that holds the ${archives.length} archives`;
  throw new JitFluxError(
    ERROR_CODES.SETUP_FAILED,
    `${path} ${problem} of LibTorch ${context.pinned.version} (${context.variant}). Missing:\n` +
      missing.map(({ file, url }) => `  - ${file} from ${url}`).join('\n'),
    { path, variant: context.variant, missing: missing.map(({ file }) => file) },
  );
}

async function verifyGiven(file: string, archive: LibTorchArchive, context: Context): Promise<Obtained> {
  const problem = await whyNotPinned(file, archive, context);
  if (problem === undefined) return { archive, file, source: file, fetched: false };
  throw new JitFluxError(
    ERROR_CODES.SETUP_FAILED,
    `${file} is not the pinned LibTorch archive: ${problem}. ` +
      `Expected ${archive.file} (SHA-256 ${archive.sha256}) from ${archive.url}`,
    { file, expected: { file: archive.file, size: archive.size, sha256: archive.sha256 }, url: archive.url },
  );
}

/** Fetches an archive from the first source that delivers the pinned bytes. */
async function obtain(archive: LibTorchArchive, work: string, context: Context): Promise<Obtained> {
  const kept = downloadPath(archive, context);
  const attempts: Attempt[] = [];
  // What a run leaves that failed or was stopped later on, at another archive.
  if ((await sizeOf(kept)) === archive.size) {
    if ((await whyNotPinned(kept, archive, context, 'download')) === undefined)
      return { archive, file: kept, source: kept, fetched: true };
    await rm(kept, { force: true });
  }
  await mkdir(dirname(kept), { recursive: true });
  const sources: { name: string; fetch: () => Promise<string>; local?: boolean }[] = [];
  const mirror = context.env.JIT_FLUX_LIBTORCH_MIRROR;
  if (mirror) {
    if (/^https?:\/\//.test(mirror)) {
      const url = `${mirror.replace(/\/+$/, '')}/${encodeURIComponent(archive.file)}`;
      sources.push({ name: url, fetch: () => fetchUrl(url, kept, archive, context) });
    } else {
      const directory = mirror.startsWith('file:') ? fileURLToPath(mirror) : resolve(mirror);
      const file = join(directory, archive.file);
      sources.push({ name: file, fetch: () => Promise.resolve(file), local: true });
    }
  }
  sources.push({ name: archive.url, fetch: () => fetchUrl(archive.url, kept, archive, context) });
  if (archive.pip) {
    const { pip } = archive;
    for (const requirement of pip.requirements) {
      sources.push({
        name: `pip download ${requirement}`,
        fetch: () => fetchWithPip(requirement, pip, archive, work, kept, context),
      });
    }
  }

  for (const { name, fetch, local = false } of sources) {
    throwIfAborted(context.signal);
    try {
      const file = await fetch();
      // With many archives, checking each is a part of fetching it.
      const phase = context.pinned.archives.length > 1 ? 'download' : 'verify';
      const problem = await whyNotPinned(file, archive, context, phase);
      if (problem === undefined) return { archive, file, source: name, fetched: !local };
      if (!local) await rm(file, { force: true });
      attempts.push({ source: name, reason: problem });
    } catch (error) {
      if (context.signal?.aborted) throw abortedError(context.signal);
      attempts.push({ source: name, reason: messageOf(error) });
    }
  }
  const tried = attempts.map(({ source, reason }) => `${source}: ${reason}`);
  const { version, archives } = context.pinned;
  const several = archives.length > 1;
  throw new JitFluxError(
    ERROR_CODES.SETUP_FAILED,
    `LibTorch ${version} (${context.variant}) could not be downloaded. ` +
      `Tried${several ? ` for ${archive.file}` : ''}:\n${tried.map((line) => `  - ${line}`).join('\n')}\n` +
      'Behind a proxy, set HTTPS_PROXY. Without network access, fetch ' +
      (several
        ? `the ${archives.length} archives that libtorch.json lists elsewhere and run ` +
          `\`${SETUP_COMMAND} --variant ${context.variant} --from <directory>\``
        : `${archive.url} elsewhere and run \`${SETUP_COMMAND} --from <file>\``) +
      ', or set JIT_FLUX_LIBTORCH_MIRROR to a URL or directory with that. ' +
      'What has been downloaded is kept for the next attempt.',
    { variant: context.variant, version, tried, url: archive.url },
  );
}

/** Where an archive is downloaded to: a place that survives a failed attempt, so that the next one resumes. */
function downloadPath(archive: LibTorchArchive, context: Context): string {
  return join(context.cacheDir, 'downloads', `${archive.sha256.slice(0, 16)}-${archive.file}.part`);
}

/** Reports bytes of the archive at hand as a part of all archives. */
function archiveReport(
  phase: SetupProgress['phase'],
  source: string,
  archive: LibTorchArchive,
  context: Context,
): (done: number) => void {
  const total = context.pinned.archives.reduce((sum, { size }) => sum + size, 0);
  const before = context.obtained;
  return throttle(archive.size, (done) =>
    context.report({ phase, done: before + Math.min(done, archive.size), total, source }),
  );
}

async function fetchUrl(
  url: string,
  target: string,
  archive: LibTorchArchive,
  context: Context,
): Promise<string> {
  await download(url, target, {
    size: archive.size,
    signal: context.signal,
    env: context.env,
    onProgress: archiveReport('download', url, archive, context),
  });
  return target;
}

/**
 * Lets pip find the wheel through whatever index or proxy the user has configured for it. The hash in the requirement
 * keeps pip from downloading another build of the same version (PyPI's torch is a CUDA one).
 */
async function fetchWithPip(
  requirement: string,
  pip: NonNullable<LibTorchArchive['pip']>,
  archive: LibTorchArchive,
  work: string,
  kept: string,
  context: Context,
): Promise<string> {
  const target = join(work, 'pip');
  const temporary = join(work, 'pip-tmp');
  await rm(target, { recursive: true, force: true });
  await mkdir(target, { recursive: true });
  await mkdir(temporary, { recursive: true });
  const requirements = join(work, 'requirements.txt');
  await writeFile(requirements, `${requirement} --hash=sha256:${archive.sha256}\n`);
  const python = context.env.JIT_FLUX_PYTHON || 'python3';
  const args = ['-m', 'pip', 'download', '--requirement', requirements, '--dest', target];
  args.push(
    '--no-deps',
    '--require-hashes',
    '--only-binary=:all:',
    '--no-cache-dir',
    '--progress-bar',
    'off',
  );
  // Unreachable indexes must fail at once, not after minutes of retries.
  args.push('--retries', '0', '--timeout', '15', '--no-input', '--disable-pip-version-check');
  args.push('--python-version', pip.pythonVersion, '--implementation', pip.implementation);
  args.push('--abi', pip.abi, '--platform', pip.platform);

  const report = archiveReport('download', 'pip', archive, context);
  report(0);
  const timer = setInterval(() => {
    Promise.all([sizeOfTree(temporary), sizeOfTree(target)])
      .then(([a, b]) => report(Math.max(a, b)))
      .catch(() => undefined); // files come and go while they are counted
  }, 500);
  try {
    await runQuietly(python, args, { ...context.env, TMPDIR: temporary }, context.signal);
  } finally {
    clearInterval(timer);
    await rm(temporary, { recursive: true, force: true });
  }
  const wheel = (await readdir(target)).find((name) => name.endsWith('.whl'));
  if (wheel === undefined) throw new Error('pip delivered no wheel');
  await rename(join(target, wheel), kept);
  return kept;
}

/** Runs a command; on failure throws the last error line of its output. */
function runQuietly(
  command: string,
  args: string[],
  env: NodeJS.ProcessEnv,
  signal: AbortSignal | undefined,
): Promise<void> {
  return new Promise((resolvePromise, reject) => {
    const child = spawn(command, args, {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(signal ? { signal } : {}),
    });
    let output = '';
    const collect = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-16_384);
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.once('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'ENOENT' ? new Error(`${command} is not installed`) : error),
    );
    child.once('close', (code, killedBy) => {
      if (code === 0) return resolvePromise();
      const lines = output.split('\n').filter((line) => line.trim() !== '');
      const line = lines.filter((text) => text.startsWith('ERROR:')).at(-1) ?? lines.at(-1);
      reject(
        new Error(line?.replace(/^ERROR:\s*/, '').trim() ?? `${command} ended with ${code ?? killedBy}`),
      );
    });
  });
}

// ---- verification and unpacking ----

/** Undefined if the file has the pinned size and SHA-256. */
async function whyNotPinned(
  file: string,
  archive: LibTorchArchive,
  context: Context,
  phase: SetupProgress['phase'] = 'verify',
): Promise<string | undefined> {
  let size: number;
  try {
    const info = await stat(file);
    if (!info.isFile()) return 'it is not a file';
    size = info.size;
  } catch (error) {
    return messageOf(error);
  }
  if (size !== archive.size) return `size is ${size} bytes instead of ${archive.size}`;
  const hash = createHash('sha256');
  const report = archiveReport(phase, file, archive, context);
  let done = 0;
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) {
    throwIfAborted(context.signal);
    hash.update(chunk as Buffer);
    done += (chunk as Buffer).length;
    // As a part of the download it has been counted already.
    if (phase === 'verify') report(done);
  }
  const actual = hash.digest('hex');
  return actual === archive.sha256.toLowerCase()
    ? undefined
    : `SHA-256 is ${actual} instead of ${archive.sha256}`;
}

/** Unpacks the libraries, headers, CMake files and licences; a wheel's Python code stays behind. */
async function unpack(obtained: Obtained[], target: string, context: Context): Promise<void> {
  const opened: { zip: ZipFile; file: string; wanted: [ZipEntry, string][] }[] = [];
  try {
    let total = 0;
    for (const { archive, file } of obtained) {
      const zip = await ZipFile.open(file);
      const wanted: [ZipEntry, string][] = [];
      opened.push({ zip, file, wanted });
      for (const entry of zip.entries) {
        const name = unpackedName(entry.name, archive, context.pinned);
        if (name === undefined) continue;
        wanted.push([entry, entryTarget(target, name)]);
        total += entry.size;
      }
      if (wanted.length === 0) throw new Error(`${archive.file} holds nothing of ${archive.root}/`);
    }
    let done = 0;
    for (const { zip, file, wanted } of opened) {
      const report = throttle(total, (bytes) =>
        context.report({ phase: 'unpack', done: bytes, total, source: file }),
      );
      for (const [entry, path] of wanted) {
        throwIfAborted(context.signal);
        await zip.extract(entry, path, context.signal);
        done += entry.size;
        report(done);
      }
    }
  } finally {
    for (const { zip } of opened) await zip.close();
  }
}

/** Where an entry goes inside the variant's folder; undefined if it is not needed. */
function unpackedName(
  name: string,
  { root }: LibTorchArchive,
  { directory }: LibTorchVariant,
): string | undefined {
  const asInstalled = directory !== undefined;
  if (name.startsWith(`${root}/`)) {
    const inside = name.slice(root.length + 1);
    const wanted =
      root === 'nvidia'
        ? !inside.endsWith('.py')
        : /^(lib|include|share)\/|^(version\.py|build-version|build-hash)$/.test(inside);
    if (!wanted) return undefined;
    return asInstalled ? name : inside;
  }
  const [, distribution, licence] = /^([^/]+)\.dist-info\/licenses\/(.+)$/.exec(name) ?? [];
  if (licence === undefined) return undefined;
  return asInstalled ? `licenses/${distribution}/${licence}` : `licenses/${licence}`;
}

// ---- small helpers ----

/** At most ten reports a second, and always the first and the last. */
function throttle(total: number, report: (done: number) => void): (done: number) => void {
  let last = -Infinity;
  return (done) => {
    const now = performance.now();
    if (now - last < 100 && done < total) return;
    last = now;
    report(done);
  };
}

/** Size of a file, 0 if there is none. */
async function sizeOf(file: string): Promise<number> {
  return await stat(file).then(
    (info) => info.size,
    () => 0,
  );
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

async function sizeOfTree(directory: string): Promise<number> {
  let total = 0;
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) total += (await stat(join(entry.parentPath, entry.name))).size;
  return total;
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // Node groups the failed addresses of one host in an AggregateError without a message of its own.
  if (error instanceof AggregateError && error.message === '') return error.errors.map(messageOf).join('; ');
  return error.message;
}
