/** Where the command line puts pictures: files, standard output, one sheet of all, the terminal. */
import { extname } from 'node:path';

import { invalidArgument } from '../errors.js';
import type { PngMetadata, RgbImage } from '../image/index.js';
import { checkQuality, DEFAULT_QUALITY, QUALITY_RANGE } from '../image/quality.js';
import { type Context, WARNING } from './command.js';
import { numberFlag } from './number-flag.js';
import { terminalPicture } from './show.js';

/** Stands for standard output where a file is expected. */
export const STDOUT = '-';

/** What is chosen about pictures that are written. */
export const PICTURE_FLAGS = {
  quality: numberFlag('quality', {
    describe: `of JPEG and WebP files, ${QUALITY_RANGE.join(' to ')} (default: ${DEFAULT_QUALITY})`,
  }),
  metadata: {
    type: 'boolean',
    default: true,
    describe: 'write into the file how it was made (--no-metadata: leave that out)',
  },
  show: { type: 'boolean', default: false, describe: 'show pictures in the terminal, too' },
} as const;

/** Parsed {@link PICTURE_FLAGS}. */
export interface PictureArgs {
  quality: number | undefined;
  metadata: boolean;
  show: boolean;
}

/** Most pictures of a sheet: all of them are in memory. */
const MOST_ON_SHEET = 256;

/** A picture on its way into a file. */
export interface Output {
  path: string;
  /** Whether a file of this name gives way; else the next free name is taken. */
  replace: boolean;
}

/**
 * Looks at everything that can go wrong with a file later: its name, what its format needs, whether it can be written there.
 * @param option the flag that named it
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_WRITE_FAILED
 */
export async function checkOutput(
  { path, replace }: Output,
  option: string,
  context: Context,
): Promise<void> {
  if (path === STDOUT) return checkStdout(option, context);
  const { assertWritable, formatForPath, freePath } = await import('../image/index.js');
  await formatForPath(path, option);
  // A name that nobody has chosen must not cost anybody a picture.
  await assertWritable(replace ? path : await freePath(path));
}

function checkStdout(option: string, { json, stdout }: Context): void {
  if (json) throw invalidArgument(option, 'a file beside --json, which has standard output', STDOUT);
  if (stdout.isTTY === true) {
    throw invalidArgument(option, 'a file, or standard output that is no terminal', STDOUT);
  }
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT for a quality that is none, or without a file that has one */
export async function checkLosses(quality: number | undefined, paths: readonly string[]): Promise<void> {
  if (quality === undefined) return;
  checkQuality(quality);
  const { formatForPath } = await import('../image/index.js');
  const isLossy = async (path: string) => path !== STDOUT && (await formatForPath(path, 'out')) !== 'png';
  for (const path of paths) if (await isLossy(path)) return;
  throw invalidArgument('quality', 'a JPEG or WebP file (--out picture.jpg); PNG loses nothing', quality);
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT for more pictures than a sheet takes */
export function checkSheet(option: string, pictures: number): void {
  if (pictures > MOST_ON_SHEET) {
    throw invalidArgument(option, `at most ${MOST_ON_SHEET} pictures`, pictures);
  }
}

/**
 * Writes a picture.
 * @returns where it is, and why, if it is not where it was wanted
 */
export async function writePicture(
  image: RgbImage & { metadata?: PngMetadata },
  { path: wanted, replace }: Output,
  { metadata, quality }: Pick<PictureArgs, 'metadata' | 'quality'>,
  context: Context,
): Promise<{ path: string; elsewhere: string | undefined }> {
  const { signal } = context;
  const { encodeImage, formatForPath, writeFileOrElsewhere } = await import('../image/index.js');
  const format = wanted === STDOUT ? 'png' : await formatForPath(wanted, 'out');
  const facts = metadata ? (image.metadata ?? {}) : {};
  const file = await encodeImage(image, {
    ...{ format, metadata: facts, signal },
    ...(format !== 'png' && { quality }),
  });
  if (wanted === STDOUT) {
    context.stdout.write(file);
    return { path: STDOUT, elsewhere: undefined };
  }
  const { path, failed } = await writeFileOrElsewhere(wanted, file, { signal, replace });
  if (failed) context.note(`${WARNING} ${failed.message}; the picture is in ${path}`);
  return { path, elsewhere: failed?.message };
}

/** Shows a picture on stderr, or says why not. */
export function showPicture(image: RgbImage, { stderr, note }: Context): void {
  const text = stderr.isTTY === true ? terminalPicture(image, stderr) : undefined;
  if (text !== undefined) stderr.write(`${text}\n`);
  else note(`${WARNING} --show needs a terminal with at least 256 colours`);
}

/** `out.png`, or `out-1.png`, `out-2.png`, ... if there are several. */
export function outputFiles(out: string, count: number): string[] {
  if (count === 1) return [out];
  if (out === STDOUT) throw invalidArgument('out', 'a file for several pictures', STDOUT);
  const extension = extname(out);
  const stem = extension === '' ? out : out.slice(0, -extension.length);
  const digits = String(count).length;
  return Array.from({ length: count }, (_, i) => {
    return `${stem}-${String(i + 1).padStart(digits, '0')}${extension}`;
  });
}
