/** Models in the cache of Hugging Face's tools. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';

import { userCacheDirectory } from '../files/user-directories.js';
import { listDirectory, readSmallFile } from '../files/small-file.js';

/** `organisation/name`, as the hub names models. */
const REPOSITORY = /^[\w.-]+\/[\w.-]+$/;
/** A commit, or what a tool calls one. */
const REVISION = /^[\w-]{1,100}$/;
const MAX_REFERENCE_BYTES = 1000;

/** Whether a text has the form of a model's name on the hub. */
export function isRepository(name: string): boolean {
  return REPOSITORY.test(name);
}

/** Where the hub's tools keep downloads: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in `~/.cache/huggingface`. */
export function hubCache(env: NodeJS.ProcessEnv = process.env): string | undefined {
  if (env.HF_HUB_CACHE) return env.HF_HUB_CACHE;
  const cache = userCacheDirectory(env);
  const home = env.HF_HOME || (cache && join(cache, 'huggingface'));
  return home && join(home, 'hub');
}

/** The folder of a model in the cache, whether it is there or not; undefined if this user has no cache. */
export function repositoryFolder(name: string, env?: NodeJS.ProcessEnv): string | undefined {
  const cache = hubCache(env);
  return cache && join(cache, `models--${name.replace('/', '--')}`);
}

/**
 * The snapshot that a folder of the cache (`models--organisation--name`) means: that of `refs/main`, else the only one.
 * @returns undefined for another folder, and for one without such a snapshot
 */
export async function currentSnapshot(
  folder: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<string | undefined> {
  const snapshots = join(folder, 'snapshots');
  if (!(await isDirectory(snapshots))) return undefined;
  const reference = await readSmallFile(join(folder, 'refs', 'main'), {
    maxBytes: MAX_REFERENCE_BYTES,
    ...o,
  }).catch(() => undefined);
  const revision = reference?.toString('utf8').trim();
  const names = revision === undefined ? await listDirectory(snapshots) : [revision];
  const [name] = names;
  if (names.length !== 1 || name === undefined || !REVISION.test(name)) return undefined;
  const snapshot = join(snapshots, name);
  return (await isDirectory(snapshot)) ? snapshot : undefined;
}

async function isDirectory(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}
