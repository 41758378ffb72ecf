/** Output files that are either complete or not there. */
import { createHash, randomBytes } from 'node:crypto';
import { fsync } from 'node:fs';
import {
  link,
  lstat,
  open,
  opendir,
  realpath,
  rename,
  stat,
  unlink,
  type FileHandle,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, parse, resolve } from 'node:path';
import { promisify } from 'node:util';

import { ERROR_CODES, JitFluxError, systemErrorOf, throwIfAborted } from '../errors.js';
import { livenessOf, ownIdentity } from './process-identity.js';

/**
 * Writes a file through a temporary one in the same directory and a rename: other processes see the old content or
 * the new one, never half of it. If writing fails or is aborted, the temporary file is removed and an existing file
 * is left as it was; a new one has its permissions. What killed processes of this machine have left in the directory is
 * removed. A symbolic link is followed, unless another user has put it into a directory that everyone may write.
 *
 * @param o.replace false: a file that is there, or comes meanwhile, is left alone; the cause of the error is an EEXIST
 * @throws ERR_JITFLUX_WRITE_FAILED with the system's error as cause, ERR_JITFLUX_OUT_OF_MEMORY, or ERR_JITFLUX_ABORTED
 */
export async function writeFileAtomic(
  path: string,
  data: Uint8Array | string,
  o: { signal?: AbortSignal | undefined; replace?: boolean } = {},
): Promise<void> {
  throwIfAborted(o.signal);
  const target = await targetOf(path);
  await throughTemporary(path, target, async (temporary, file) => {
    await file.writeFile(data);
    await flush(file.fd);
    await file.close();
    throwIfAborted(o.signal);
    if (o.replace === false) await renameToNew(temporary, target);
    else await rename(temporary, target);
  });
}

/** `FileHandle.sync`, which Yarn's Plug'n'Play does not have. */
const flush = promisify(fsync);

/** `rename`, which fails with EEXIST if the target is there. Node has no RENAME_NOREPLACE. */
async function renameToNew(temporary: string, target: string): Promise<void> {
  try {
    await link(temporary, target);
  } catch (error) {
    if (systemErrorOf(error).code === 'EEXIST') throw error;
    // A file system without hard links: an empty file keeps the name for a moment.
    await (await open(target, 'wx')).close();
    await rename(temporary, target);
  }
}

/** The path itself if nothing is there, else the first of `name_2.ext`, `name_3.ext` and so on. */
export async function freePath(path: string): Promise<string> {
  const { dir, name, ext } = parse(path);
  for (let n = 1; ; n++) {
    const candidate = n === 1 ? path : join(dir, `${name}_${n}${ext}`);
    const isTaken = await lstat(candidate).then(
      () => true,
      // Whatever is wrong with the path is told by whoever writes it.
      () => false,
    );
    if (!isTaken) return candidate;
  }
}

/**
 * Tries what {@link writeFileAtomic} will do, but for the data and the rename, for finding a bad path before the work and
 * not after it; what killed processes have left goes here too. The path is free or a regular file, and stays as it is.
 *
 * @returns the absolute path that would be written, symbolic links resolved
 * @throws ERR_JITFLUX_WRITE_FAILED
 */
export async function assertWritable(path: string): Promise<string> {
  const target = await targetOf(path);
  await throughTemporary(path, target, () => Promise.resolve());
  return target;
}

/**
 * {@link writeFileAtomic} for what took long to make: where it cannot be written after all (a full disk, a directory that is
 * gone), it goes to the system's directory for temporary files.
 * @param o.replace false: if something is at `path`, the next free name is taken, see {@link freePath}
 * @returns where it went, and, if that is elsewhere, why
 * @throws what {@link writeFileAtomic} throws where neither can be written, and ERR_JITFLUX_ABORTED
 */
export async function writeFileOrElsewhere(
  path: string,
  data: Uint8Array | string,
  o: { signal?: AbortSignal | undefined; replace?: boolean } = {},
): Promise<{ path: string; failed?: JitFluxError }> {
  try {
    if (o.replace === false) return { path: await writeFreeFile(path, data, o.signal) };
    await writeFileAtomic(path, data, o);
    return { path };
  } catch (error) {
    if (!(error instanceof JitFluxError) || error.code === ERROR_CODES.ABORTED) throw error;
    const { name, ext } = parse(path);
    const elsewhere = join(tmpdir(), `${name.slice(0, 100)}-${randomBytes(4).toString('hex')}${ext}`);
    try {
      await writeFileAtomic(elsewhere, data, { signal: o.signal });
    } catch {
      throw error;
    }
    return { path: elsewhere, failed: error };
  }
}

/** Writes to the first free name, also if others take such names at the same time. @returns the path */
async function writeFreeFile(
  path: string,
  data: Uint8Array | string,
  signal: AbortSignal | undefined,
): Promise<string> {
  for (;;) {
    const free = await freePath(path);
    try {
      await writeFileAtomic(free, data, { signal, replace: false });
      return free;
    } catch (error) {
      if (!(error instanceof JitFluxError) || systemErrorOf(error.cause).code !== 'EEXIST') throw error;
    }
  }
}

/**
 * Makes a temporary file beside the target, with the target's permissions, hands it over and, unless it has been renamed,
 * removes it.
 */
async function throughTemporary(
  path: string,
  target: string,
  use: (temporary: string, file: FileHandle) => Promise<void>,
): Promise<void> {
  await sweep(dirname(target));
  // The target's name cut short: any name that the file system takes leaves room for this.
  const name = `.${shortened(basename(target))}.${machine()}-${process.pid}-${randomBytes(6).toString('hex')}.tmp`;
  const temporary = join(dirname(target), name);
  try {
    const mode = await stat(target).then(
      (info) => info.mode & 0o777,
      () => undefined,
    );
    const file = await open(temporary, 'wx', mode ?? 0o666);
    try {
      if (mode !== undefined) await file.chmod(mode); // whatever the umask
      await use(temporary, file);
    } finally {
      await file.close().catch(() => undefined); // closed already, unless something failed
    }
  } catch (cause) {
    throw cause instanceof JitFluxError ? cause : writeFailed(path, cause);
  } finally {
    await unlink(temporary).catch(() => undefined);
  }
}

/** A name's first 40 characters, of four bytes at most each. */
function shortened(name: string): string {
  return Array.from(name).slice(0, 40).join('');
}

async function targetOf(path: string): Promise<string> {
  try {
    await assertOwnLink(path);
    const target = await realpath(path).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
      const absolute = resolve(path);
      return join(await realpath(dirname(absolute)), basename(absolute));
    });
    const existing = await stat(target).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
      return undefined;
    });
    if (existing !== undefined && !existing.isFile()) {
      throw writeFailed(
        path,
        undefined,
        existing.isDirectory() ? 'it is a directory' : 'it is not a regular file',
      );
    }
    if (Buffer.byteLength(basename(target)) > MAX_NAME_BYTES) {
      throw writeFailed(path, undefined, REASONS.ENAMETOOLONG);
    }
    return target;
  } catch (cause) {
    throw cause instanceof JitFluxError ? cause : writeFailed(path, cause);
  }
}

/**
 * The kernel refuses to follow another user's link in a directory such as /tmp (protected_symlinks), but not to tell where
 * it leads, which is how it is followed here.
 */
async function assertOwnLink(path: string): Promise<void> {
  const link = await lstat(path).catch(() => undefined);
  if (!link?.isSymbolicLink() || link.uid === process.geteuid?.()) return;
  const directory = await stat(dirname(resolve(path)));
  if (directory.mode & 0o002 && link.uid !== directory.uid)
    throw writeFailed(path, undefined, 'it is a symbolic link of another user');
}

/** Names the machine, or container, whose process ids the names of temporary files hold. */
function machine(): string {
  const { host, boot, namespace } = ownIdentity();
  return createHash('sha256').update(`${boot}\n${namespace}\n${host}`).digest('hex').slice(0, 12);
}

/** NAME_MAX of every file system that Linux has; the rename at the end would be the first to meet it. */
const MAX_NAME_BYTES = 255;

const MAX_SWEPT = 64;
const swept = new Set<string>();

/** Once per directory: removes the temporary files of processes of this machine that are dead. */
async function sweep(directory: string): Promise<void> {
  if (swept.has(directory)) return;
  if (swept.size >= MAX_SWEPT) swept.clear();
  swept.add(directory);
  const own = ownIdentity();
  const { host, boot, namespace } = own;
  const here = { host, ...(boot && { boot }), ...(namespace && { namespace }) };
  const pattern = new RegExp(`^\\..+\\.${machine()}-(\\d+)-[0-9a-f]{12}\\.tmp$`);
  try {
    for await (const { name } of await opendir(directory)) {
      const pid = Number(pattern.exec(name)?.[1]);
      if (pid > 0 && livenessOf({ pid, ...here }, own) === 'dead')
        await unlink(join(directory, name)).catch(() => undefined);
    }
  } catch {
    // It cannot be listed: whether it can be written shows in a moment.
  }
}

const REASONS: Record<string, string> = {
  ENOENT: 'the directory does not exist',
  ENOTDIR: 'a part of the path is not a directory',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is used up',
  ENAMETOOLONG: 'the name is too long',
  EEXIST: 'a file of this name is there already',
};

function writeFailed(path: string, cause: unknown, reason?: string): JitFluxError {
  const code = systemErrorOf(cause).code;
  const why =
    reason ??
    (code !== undefined ? REASONS[code] : undefined) ??
    (cause instanceof Error ? cause.message : String(cause));
  return new JitFluxError(
    code === 'ENOMEM' ? ERROR_CODES.OUT_OF_MEMORY : ERROR_CODES.WRITE_FAILED,
    `Cannot write ${path}: ${why}`,
    { path, reason: why },
    { cause },
  );
}
