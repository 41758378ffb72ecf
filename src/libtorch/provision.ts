/**
 * Provisioning of LibTorch: fetches a variant's pinned archives (one for the CPU, PyTorch's and NVIDIA's wheels for
 * CUDA), verifies them and unpacks them into the cache. Only ever run by an explicit command (`npx jit-flux setup`, or the build in a source checkout), never by the installation of the package.
 */
import { createHash } from 'node:crypto';
import { constants, existsSync } from 'node:fs';
import {
  access,
  mkdir,
  mkdtemp,
  open,
  readdir,
  rename,
  rm,
  stat,
  statfs,
  writeFile,
  type FileHandle,
} from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { checkBoolean, checkCallback, checkPath, type Names, readOptions } from '../arguments.js';
import { whenRejected } from '../callbacks.js';
import {
  ERROR_CODES,
  JitFluxError,
  abortedError,
  invalidArgument,
  isJitFluxError,
  systemErrorOf,
  throwIfAborted,
} from '../errors.js';
import { acquireLock, type Lock, type LockHolder, type LockOptions } from '../files/lock.js';
import { exposed, findExposure } from '../files/ownership.js';
import { openPrivate, writeAll } from '../files/private-file.js';
import { download } from './download.js';
import {
  EXPOSURE_REMEDY,
  SETUP_COMMAND,
  assertUnexposed,
  cacheDirectory,
  findLibTorch,
  isCacheTrusted,
  libTorchDirectory,
  readManifest,
  variantCacheDirectory,
  type LibTorch,
  type LibTorchArchive,
  type LibTorchManifest,
  type LibTorchVariant,
} from './libtorch.js';
import { runPip } from './python.js';
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
  /** Where the bytes come from: a URL, a file, or `pip`. While waiting, the lock. */
  source?: string;
  /** While waiting: the process that is at it, and its machine or container. */
  holder?: { pid: number; host: string };
}

export interface SetupOptions {
  /** `'cpu'`, `'cu130'`, or `'auto'`: cu130 where an NVIDIA device can make use of it. Default `'cpu'`. */
  variant?: string | undefined;
  /**
   * A local copy of the pinned archive, or a directory that holds all archives under their names: for machines without
   * network access.
   */
  from?: string | undefined;
  /** Default: `JIT_FLUX_CACHE`, else `$XDG_CACHE_HOME/jit-flux`, else `~/.cache/jit-flux`. */
  cacheDir?: string | undefined;
  /** Replace what is in the cache. Default false. */
  force?: boolean | undefined;
  onProgress?: ((progress: SetupProgress) => void) | undefined;
  signal?: AbortSignal | undefined;
  /** @internal for tests */ manifest?: LibTorchManifest | undefined;
  /** @internal for tests */ env?: NodeJS.ProcessEnv | undefined;
  /** @internal for tests */ lockTimes?: Pick<LockOptions, 'staleAfter' | 'beat' | 'poll'> | undefined;
}

export interface SetupResult {
  /** The LibTorch directory. */
  path: string;
  version: string;
  variant: string;
  /** True if there was nothing to do. */
  alreadyPresent: boolean;
}

const SETUP_OPTIONS: Names<SetupOptions> = {
  variant: true,
  from: true,
  cacheDir: true,
  force: true,
  onProgress: true,
  signal: true,
  manifest: true,
  env: true,
  lockTimes: true,
};

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

/** A verified archive in a file that no other user can change. It is unpacked through the handle that was verified. */
interface Obtained {
  archive: LibTorchArchive;
  file: FileHandle;
  source: string;
  /** Where it was downloaded to, to be deleted once unpacked. */
  kept?: string;
}

/** Nobody else may write what `setup` makes, whatever the umask. */
const DIRECTORY_MODE = 0o755;
const PRIVATE_DIRECTORY_MODE = 0o700;

/**
 * Makes the pinned LibTorch available in the cache. Sources, in order: `from`; else what an interrupted run has left,
 * `JIT_FLUX_LIBTORCH_MIRROR` (a URL or a directory), the official URL, `python3 -m pip download`. Whatever the source,
 * size and SHA-256 must match. Several processes, on one machine or on several that share the cache, may call this at
 * the same time; one works, the others wait.
 *
 * @throws ERR_JITFLUX_SETUP_FAILED naming what was tried and the remedy; the cache is left as it was
 * @throws ERR_JITFLUX_UNSAFE_FILE if another user could change what is in the cache
 * @throws ERR_JITFLUX_ABORTED
 */
export async function setupLibTorch(given: SetupOptions = {}): Promise<SetupResult> {
  const options = readOptions(given, SETUP_OPTIONS);
  const { signal, force = false, onProgress } = options;
  for (const option of ['from', 'cacheDir'] as const) {
    if (options[option] !== undefined) checkPath(option, options[option]);
  }
  checkBoolean('force', force);
  checkCallback('onProgress', onProgress);
  const env = options.env ?? process.env;
  const manifest = options.manifest ?? readManifest();
  const named = options.variant ?? manifest.defaultVariant;
  const variant = named === AUTO_VARIANT ? chooseVariant(manifest).variant : named;
  const isNamed = typeof variant === 'string' && Object.hasOwn(manifest.variants, variant);
  const pinned = isNamed ? manifest.variants[variant] : undefined;
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
  // A callback that rejects ends it like one that throws.
  const refused = new AbortController();
  const ending = signal === undefined ? refused.signal : AbortSignal.any([signal, refused.signal]);
  const context: Context = {
    variant,
    pinned,
    cacheDir,
    env,
    signal: ending,
    report: (progress) => {
      const returned: unknown = onProgress?.({ ...progress, archives: pinned.archives.length });
      whenRejected(returned, (error) => refused.abort(error));
    },
    obtained: 0,
  };
  const done = (alreadyPresent: boolean): SetupResult => ({ path, version, variant, alreadyPresent });
  /** The refusals of {@link findLibTorch} would otherwise come as a surprise, after this has said that all is well. */
  const isPresent = (): boolean => {
    const found = findComplete(path, pinned, manifest);
    if (found) assertUnexposed(found, 'The LibTorch in the cache', { env, within: cacheDir });
    return found !== undefined;
  };
  if (!force && isPresent()) {
    await tidy(target, context, options.lockTimes);
    return done(true);
  }

  let lock: Lock | undefined;
  try {
    await prepareDirectory(cacheDir, context);
    await prepareDirectory(dirname(target), context);
    lock = await acquireLock(`${target}.lock`, {
      ...options.lockTimes,
      signal: ending,
      onWait: (holder) => context.report(waiting(`${target}.lock`, holder)),
    });
    // Another process may have finished while this one waited.
    if (!force && isPresent()) {
      await removeLeftovers(target, context);
      return done(true);
    }
    const stop = AbortSignal.any([ending, lock.lost]);
    await install(target, options.from, { ...context, signal: stop }, lock);
    return done(false);
  } catch (error) {
    if (signal?.aborted) throw abortedError(signal);
    const ended = [refused.signal, lock?.lost].find((each) => each?.aborted);
    const cause: unknown = ended ? ended.reason : error;
    if (isJitFluxError(cause)) throw cause;
    const remedy = remedyFor(cause);
    throw new JitFluxError(
      ERROR_CODES.SETUP_FAILED,
      `LibTorch ${version} (${variant}) could not be installed in ${cacheDir}: ${messageOf(cause)}` +
        (remedy === undefined ? '' : `\n${remedy}`),
      { variant, version, cacheDir },
      { cause },
    );
  } finally {
    await lock?.release();
  }
}

function waiting(lock: string, holder: LockHolder | undefined): Omit<SetupProgress, 'archives'> {
  const known = holder && { holder: { pid: holder.pid, host: holder.host } };
  return { phase: 'wait', done: 0, total: 0, source: lock, ...known };
}

/** A directory appears by one rename, so its presence means that it is complete. */
function findComplete(
  path: string,
  pinned: LibTorchVariant,
  manifest: LibTorchManifest,
): LibTorch | undefined {
  const { version, cuda } = pinned;
  try {
    const found = findLibTorch({ libtorch: path, builtFor: version, cuda, manifest, env: {} });
    return found.path === path ? found : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Makes a directory of the cache, or checks that nobody else could change what will be in it.
 *
 * @throws ERR_JITFLUX_UNSAFE_FILE
 */
async function prepareDirectory(
  directory: string,
  { cacheDir, env }: Context,
  mode = DIRECTORY_MODE,
): Promise<void> {
  try {
    await mkdir(directory, { recursive: true, mode });
  } catch (error) {
    // Node reports a read-only file system as ENOENT here.
    let existing = directory;
    while (!existsSync(existing)) existing = dirname(existing);
    await access(existing, constants.W_OK | constants.X_OK);
    throw error;
  }
  if (isCacheTrusted(env)) return;
  const exposure = findExposure(directory, [], { within: cacheDir });
  if (exposure) throw exposed(`The cache ${cacheDir}`, exposure, EXPOSURE_REMEDY);
}

const ELSEWHERE = 'or name another place with --cache-dir or JIT_FLUX_CACHE.';

/** What to do about an error of the file system. */
function remedyFor(error: unknown): string | undefined {
  switch (systemErrorOf(error).code) {
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return `There is no space left: make room, ${ELSEWHERE}`;
    case 'EACCES':
    case 'EPERM':
      return `User ${process.geteuid?.()} may not write there: let the cache's owner run \`${SETUP_COMMAND}\`, ${ELSEWHERE}`;
    case 'EROFS':
      return `The file system is read-only: mount it for writing, ${ELSEWHERE}`;
    default:
      return undefined;
  }
}

/** Of this machine's disk: no other source would fare better. */
function isLocal(error: unknown): boolean {
  const { code = '', syscall } = systemErrorOf(error);
  if (['ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS'].includes(code)) return true;
  return code === 'EIO' && syscall === 'write';
}

async function install(
  target: string,
  from: string | undefined,
  context: Context,
  lock: Lock,
): Promise<void> {
  const { pinned } = context;
  const parent = dirname(target);
  for (const path of await workDirectories(target)) await rm(path, { recursive: true, force: true });

  const given = from === undefined ? undefined : await givenFiles(from, context);
  await assertSpace(parent, given === undefined, context);
  const work = await mkdtemp(join(parent, workPrefix(target))); // of mode 0700
  const obtained: Obtained[] = [];
  try {
    const staged = join(work, 'libtorch');
    await mkdir(staged, { mode: DIRECTORY_MODE });
    for (const [index, archive] of pinned.archives.entries()) {
      obtained.push(
        given === undefined
          ? await obtain(archive, work, context)
          : await copyGiven(given[index]!, work, archive, context),
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
    const text = `${JSON.stringify(record, undefined, 2)}\n`;
    await writeFile(join(staged, 'jit-flux-setup.json'), text, { mode: 0o644, flush: true });
    throwIfAborted(context.signal);
    await lock.assertHeld();
    await replaceDirectory(staged, target, join(work, 'replaced'));
    for (const { kept } of obtained) if (kept !== undefined) await rm(kept, { force: true });
  } finally {
    for (const { file } of obtained) await file.close();
    await rm(work, { recursive: true, force: true }).catch(() => undefined); // the next run removes it
  }
}

function workPrefix(target: string): string {
  return `.tmp-${basename(target)}-`;
}

/** Under the lock, these were left behind by processes that died. */
async function workDirectories(target: string): Promise<string[]> {
  const names = await readdir(dirname(target));
  return names
    .filter((name) => name.startsWith(workPrefix(target)))
    .map((name) => join(dirname(target), name));
}

/** What an installation needs no more. */
async function leftoversOf(target: string, context: Context): Promise<string[]> {
  const downloads = context.pinned.archives.map((archive) => downloadPath(archive, context));
  return [...(await workDirectories(target)), ...downloads.filter((path) => existsSync(path))];
}

/** For the holder of the lock, once the installation is complete. */
async function removeLeftovers(target: string, context: Context): Promise<void> {
  for (const path of await leftoversOf(target, context)) await rm(path, { recursive: true, force: true });
}

/** How long the tidying waits for a lock, in ms: whether a dead process of this machine has it shows sooner. */
const TIDY_TIMEOUT = 3000;

/**
 * Removes what a process has left that was killed just after it had installed all. A courtesy: not while another process
 * is at work, nor where this user may not write.
 */
async function tidy(target: string, context: Context, times: SetupOptions['lockTimes']): Promise<void> {
  try {
    const path = `${target}.lock`;
    if ((await leftoversOf(target, context)).length === 0 && !existsSync(path)) return;
    const timeout = AbortSignal.timeout(TIDY_TIMEOUT);
    const signal = context.signal ? AbortSignal.any([context.signal, timeout]) : timeout;
    const lock = await acquireLock(path, { ...times, signal });
    try {
      await removeLeftovers(target, context);
    } finally {
      await lock.release();
    }
  } catch {
    // It stays, and does no harm.
  }
  throwIfAborted(context.signal);
}

/** @param aside where the old one goes */
async function replaceDirectory(from: string, to: string, aside: string): Promise<void> {
  const isThere = existsSync(to);
  if (isThere) await rename(to, aside);
  try {
    await rename(from, to);
  } catch (error) {
    if (isThere) await rename(aside, to).catch(() => undefined);
    throw error;
  }
}

/** Better now than after gigabytes of downloads. */
async function assertSpace(directory: string, fetches: boolean, context: Context): Promise<void> {
  const { archives, unpackedSize, version } = context.pinned;
  let toStore = 0;
  for (const archive of archives)
    toStore += archive.size - (fetches ? await sizeOf(downloadPath(archive, context)) : 0);
  const { bavail, bsize } = await statfs(directory);
  const free = bavail * bsize;
  const needed = toStore + unpackedSize;
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

/** What lies elsewhere could be exchanged between being verified and being unpacked: a copy cannot. */
async function copyGiven(
  from: string,
  work: string,
  archive: LibTorchArchive,
  context: Context,
): Promise<Obtained> {
  const file = await openPrivate(join(work, archive.file));
  try {
    await copyInto(from, file, archive, context, 'verify');
    return { archive, file, source: from };
  } catch (error) {
    await file.close();
    if (context.signal?.aborted || isLocal(error)) throw error;
    throw new JitFluxError(
      ERROR_CODES.SETUP_FAILED,
      `${from} is not the pinned LibTorch archive: ${messageOf(error)}. ` +
        `Expected ${archive.file} (SHA-256 ${archive.sha256}) from ${archive.url}`,
      {
        file: from,
        expected: { file: archive.file, size: archive.size, sha256: archive.sha256 },
        url: archive.url,
      },
      { cause: error },
    );
  }
}

/** How an archive can be had: by filling `file`. */
interface Source {
  name: string;
  fetch: (file: FileHandle) => Promise<void>;
}

/** Fetches an archive from the first source that delivers the pinned bytes. */
async function obtain(archive: LibTorchArchive, work: string, context: Context): Promise<Obtained> {
  const kept = downloadPath(archive, context);
  await prepareDirectory(dirname(kept), context, PRIVATE_DIRECTORY_MODE);
  const file = await openPrivate(kept);
  try {
    // What a run leaves that failed or was stopped later on, at another archive.
    if ((await file.stat()).size === archive.size) {
      if ((await whyNotPinned(file, kept, archive, context, 'download')) === undefined)
        return { archive, file, source: kept, kept };
      await file.truncate(0);
    }
    const source = await fetchFromAny(sourcesOf(archive, work, context), file, archive, context);
    return { archive, file, source, kept };
  } catch (error) {
    const isEmpty = await file.stat().then(({ size }) => size === 0);
    await file.close();
    if (isEmpty) await rm(kept, { force: true });
    throw error;
  }
}

function sourcesOf(archive: LibTorchArchive, work: string, context: Context): Source[] {
  const sources: Source[] = [];
  const mirror = context.env.JIT_FLUX_LIBTORCH_MIRROR;
  const fromUrl = (url: string): Source => ({
    name: url,
    fetch: (file) => fetchUrl(url, file, archive, context),
  });
  if (mirror && /^https?:\/\//.test(mirror)) {
    sources.push(fromUrl(`${mirror.replace(/\/+$/, '')}/${encodeURIComponent(archive.file)}`));
  } else if (mirror) {
    const directory = mirror.startsWith('file:') ? fileURLToPath(mirror) : resolve(mirror);
    const path = join(directory, archive.file);
    sources.push({ name: path, fetch: (file) => copyInto(path, file, archive, context, phaseOf(context)) });
  }
  sources.push(fromUrl(archive.url));
  const { pip } = archive;
  for (const requirement of pip?.requirements ?? [])
    sources.push({
      name: `pip download ${requirement}`,
      fetch: (file) => fetchWithPip(requirement, pip!, archive, work, file, context),
    });
  return sources;
}

/** With many archives, checking each is a part of fetching it. */
function phaseOf({ pinned }: Context): 'download' | 'verify' {
  return pinned.archives.length > 1 ? 'download' : 'verify';
}

/** @returns the name of the source */
async function fetchFromAny(
  sources: readonly Source[],
  file: FileHandle,
  archive: LibTorchArchive,
  context: Context,
): Promise<string> {
  const attempts: Attempt[] = [];
  for (const { name, fetch } of sources) {
    throwIfAborted(context.signal);
    try {
      await fetch(file);
      const problem = await whyNotPinned(file, name, archive, context, phaseOf(context));
      if (problem === undefined) return name;
      await file.truncate(0);
      attempts.push({ source: name, reason: problem });
    } catch (error) {
      if (context.signal?.aborted) throw abortedError(context.signal);
      if (isLocal(error)) throw error;
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
  file: FileHandle,
  archive: LibTorchArchive,
  context: Context,
): Promise<void> {
  await download(url, file, {
    size: archive.size,
    signal: context.signal,
    env: context.env,
    onProgress: archiveReport('download', url, archive, context),
  });
}

/**
 * Copies a local file of the pinned size and SHA-256, each byte read once.
 *
 * @throws an Error that says in what the file differs; the target is empty then
 */
async function copyInto(
  from: string,
  target: FileHandle,
  archive: LibTorchArchive,
  context: Context,
  phase: SetupProgress['phase'],
): Promise<void> {
  await target.truncate(0);
  // Opening a pipe without a writer would wait for one.
  const source = await open(from, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const info = await source.stat();
    if (!info.isFile()) throw new Error('it is not a file');
    const problem = wrongSize(info.size, archive);
    if (problem !== undefined) throw new Error(problem);
    const report = archiveReport(phase, from, archive, context);
    const hash = createHash('sha256');
    let done = 0;
    for await (const chunk of chunksOf(source, archive.size, context.signal)) {
      hash.update(chunk);
      await writeAll(target, chunk, done);
      done += chunk.length;
      report(done);
    }
    const difference = wrongSize(done, archive) ?? wrongHash(hash.digest('hex'), archive);
    if (difference === undefined) return;
    await target.truncate(0);
    throw new Error(difference);
  } finally {
    await source.close();
  }
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
  file: FileHandle,
  context: Context,
): Promise<void> {
  const target = join(work, 'pip');
  const temporary = join(work, 'pip-tmp');
  await rm(target, { recursive: true, force: true });
  await mkdir(target, { recursive: true });
  await mkdir(temporary, { recursive: true });
  const requirements = join(work, 'requirements.txt');
  await writeFile(requirements, `${requirement} --hash=sha256:${archive.sha256}\n`);
  const args = ['download', '--requirement', requirements, '--dest', target];
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
    await runPip(args, { env: context.env, temporary, signal: context.signal });
  } finally {
    clearInterval(timer);
    await rm(temporary, { recursive: true, force: true });
  }
  const wheel = (await readdir(target)).find((name) => name.endsWith('.whl'));
  if (wheel === undefined) throw new Error('pip delivered no wheel');
  await copyInto(join(target, wheel), file, archive, context, phaseOf(context));
  await rm(target, { recursive: true });
}

// ---- verification and unpacking ----

/** Undefined if the file has the pinned size and SHA-256. @param name of the file, for progress */
async function whyNotPinned(
  file: FileHandle,
  name: string,
  archive: LibTorchArchive,
  context: Context,
  phase: SetupProgress['phase'],
): Promise<string | undefined> {
  const { size } = await file.stat();
  const problem = wrongSize(size, archive);
  if (problem !== undefined) return problem;
  const hash = createHash('sha256');
  const report = archiveReport(phase, name, archive, context);
  let done = 0;
  for await (const chunk of chunksOf(file, size, context.signal)) {
    hash.update(chunk);
    done += chunk.length;
    // As a part of the download it has been counted already.
    if (phase === 'verify') report(done);
  }
  return wrongHash(hash.digest('hex'), archive);
}

function wrongSize(size: number, archive: LibTorchArchive): string | undefined {
  return size === archive.size ? undefined : `size is ${size} bytes instead of ${archive.size}`;
}

function wrongHash(hash: string, archive: LibTorchArchive): string | undefined {
  return hash === archive.sha256.toLowerCase()
    ? undefined
    : `SHA-256 is ${hash} instead of ${archive.sha256}`;
}

/** At most `length` bytes from the beginning of a file, in pieces that are overwritten by the next. */
async function* chunksOf(
  file: FileHandle,
  length: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer> {
  const buffer = Buffer.allocUnsafe(1 << 20);
  for (let at = 0; at < length;) {
    throwIfAborted(signal);
    const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, length - at), at);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}

/** Unpacks the libraries, headers, CMake files and licences; a wheel's Python code stays behind. */
async function unpack(obtained: Obtained[], target: string, context: Context): Promise<void> {
  const opened: { zip: ZipFile; source: string; wanted: [ZipEntry, string][] }[] = [];
  let total = 0;
  for (const { archive, file, source } of obtained) {
    const zip = await ZipFile.read(file);
    const wanted: [ZipEntry, string][] = [];
    opened.push({ zip, source, wanted });
    for (const entry of zip.entries) {
      const name = unpackedName(entry.name, archive, context.pinned);
      if (name === undefined) continue;
      wanted.push([entry, entryTarget(target, name)]);
      total += entry.size;
    }
    if (wanted.length === 0) throw new Error(`${archive.file} holds nothing of ${archive.root}/`);
  }
  let done = 0;
  for (const { zip, source, wanted } of opened) {
    const report = throttle(total, (bytes) =>
      context.report({ phase: 'unpack', done: bytes, total, source }),
    );
    for (const [entry, path] of wanted) {
      throwIfAborted(context.signal);
      await zip.extract(entry, path, context.signal);
      done += entry.size;
      report(done);
    }
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
  try {
    if (!(error instanceof Error)) return String(error);
    // Node groups the failed addresses of one host in an AggregateError without a message of its own.
    if (error instanceof AggregateError && error.message === '')
      return error.errors.map(messageOf).join('; ');
    return error.message;
  } catch {
    // A caller's callback may throw anything, a revoked Proxy for one.
    return 'an error that cannot be read';
  }
}
