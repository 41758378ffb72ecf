import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { checkBoolean, OURS, readOptions, readList } from '../arguments.js';
import {
  ERROR_CODES,
  invalidArgument,
  JitFluxError,
  type JitFluxErrorCode,
  throwIfAborted,
} from '../errors.js';
import { type FileProblem, readSmallFile } from '../files/small-file.js';
import type { ScriptModuleHandle } from './binding.js';
import { runNative } from './call.js';
import { Tensor, tensorOf } from './tensor.js';
import { TRUSTED_ARCHIVES } from './trusted-archives.js';
import { NativeModel } from './native-model.js';
import { handleOf } from './native-object.js';

/** Most that Node reads at once; an archive is held in memory twice while it is compiled. */
const MAX_ARCHIVE_BYTES = 2 ** 31 - 1;
/** Far more than any `forward` takes. */
const MOST_INPUTS = 1000;

/**
 * A TorchScript module whose code runs: somebody's exported text encoder or VAE. Weights never take this path. It runs
 * on the CPU, whatever device the rest is on: where its code makes tensors was decided when it was exported.
 */
export class TorchScriptModule extends NativeModel<ScriptModuleHandle> {
  private constructor(key: typeof OURS, handle: ScriptModuleHandle) {
    super(key, handle, 'TorchScript module');
  }

  /**
   * Reads the archive into memory, checks that it may run, and compiles it.
   * @param given.allowTorchScriptCode run code that is not pinned by this package; default false
   * @throws ERR_JITFLUX_CODE_NOT_ALLOWED unless the file's SHA-256 is pinned or the option is set,
   *   ERR_JITFLUX_FILE_NOT_FOUND (also for what is no regular file), ERR_JITFLUX_UNSUPPORTED_FORMAT (larger than 2 GiB),
   *   ERR_JITFLUX_CORRUPT_FILE (changed while it was read), ERR_JITFLUX_ABORTED
   */
  static async load(
    path: string,
    given: { allowTorchScriptCode?: boolean | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<TorchScriptModule> {
    const o = readOptions(given, { allowTorchScriptCode: true, signal: true });
    // A string that names no file is not found, as any other name of none.
    if (typeof path !== 'string') throw invalidArgument('path', 'a path', path);
    if (o.allowTorchScriptCode !== undefined) checkBoolean('allowTorchScriptCode', o.allowTorchScriptCode);
    throwIfAborted(o.signal);
    const bytes = await readArchive(path, o.signal);
    // The bytes that were hashed are the bytes that run: the file is not opened again.
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    if (o.allowTorchScriptCode !== true && !TRUSTED_ARCHIVES.has(sha256)) {
      throw new JitFluxError(
        ERROR_CODES.CODE_NOT_ALLOWED,
        `${path} is a program (TorchScript) that jit-flux does not know. ` +
          'Pass allowTorchScriptCode: true (--allow-torchscript-code) only if you trust where it comes from.',
        { path, sha256 },
      );
    }
    const handle = await runNative((binding, job) => binding.loadScriptModule(bytes, basename(path), job), {
      signal: o.signal,
    });
    return new TorchScriptModule(OURS, handle);
  }

  /** Calls `forward`; its result must be a tensor or a tuple of tensors. */
  async run(inputs: readonly Tensor[], o: { signal?: AbortSignal | undefined } = {}): Promise<Tensor[]> {
    const { signal } = readOptions(o, { signal: true });
    const module = this.handle;
    const list = readList(inputs, 'inputs', `a list of at most ${MOST_INPUTS} tensors`, [0, MOST_INPUTS]);
    const handles = list.map((input, i) => handleOf(input, `inputs[${i}]`));
    const outputs = await this.runJob((binding, job) => binding.runScriptModule(module, handles, job), {
      signal,
    });
    return outputs.map((handle) => tensorOf(handle));
  }
}

const CODE_OF: Record<FileProblem, JitFluxErrorCode> = {
  irregular: ERROR_CODES.FILE_NOT_FOUND,
  large: ERROR_CODES.UNSUPPORTED_FORMAT,
  changed: ERROR_CODES.CORRUPT_FILE,
  unreadable: ERROR_CODES.FILE_NOT_FOUND,
};

function readArchive(path: string, signal: AbortSignal | undefined): Promise<Buffer> {
  return readSmallFile(path, {
    maxBytes: MAX_ARCHIVE_BYTES,
    signal,
    invalid: (problem, why, cause) =>
      new JitFluxError(CODE_OF[problem], `Cannot read ${path}: it ${why}`, { path }, { cause }),
  });
}
