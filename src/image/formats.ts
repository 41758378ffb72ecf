/** Pictures in other formats than PNG, by sharp, which users install if they want them. */
import { extname } from 'node:path';
import type { default as Sharp, Metadata } from 'sharp';

import { type Names, readOptions } from '../arguments.js';
import { ERROR_CODES, invalidArgument, JitFluxError, throwIfAborted } from '../errors.js';
import { checkImage, checkMetadata, type PngMetadata, readPngText, type RgbImage } from './png.js';
import { encodePngAsync } from './png-thread.js';
import { checkQuality, DEFAULT_QUALITY } from './quality.js';

/** What pictures are written as. PNG is lossless and needs nothing; the others need the package `sharp`. */
export type ImageFormat = 'png' | 'jpeg' | 'webp';

const FORMATS: readonly ImageFormat[] = ['png', 'jpeg', 'webp'];
const EXTENSIONS: Readonly<Record<string, ImageFormat>> = {
  '.png': 'png',
  '.jpg': 'jpeg',
  '.jpeg': 'jpeg',
  '.webp': 'webp',
};

/** Options of {@link encodeImage}. */
export interface EncodeImageOptions {
  /** Default `'png'`. */
  format?: ImageFormat | undefined;
  /** Of JPEG and WebP, 1 to 100. Default 92: no difference is to be seen at 1:1. */
  quality?: number | undefined;
  /** What the file says of the picture: text chunks of a PNG, XMP of the others. Default: nothing. */
  metadata?: PngMetadata | undefined;
  signal?: AbortSignal | undefined;
}

const OPTIONS: Names<EncodeImageOptions> = { format: true, quality: true, metadata: true, signal: true };

/**
 * A picture as a file, encoded on another thread. PNG is that of `toPNG`; JPEG keeps the full resolution of colours (4:4:4).
 * Metadata that a JPEG has no room for (64 kB) are left out.
 * @throws (rejects) ERR_JITFLUX_INVALID_ARGUMENT, also for a format that needs sharp where there is none; ERR_JITFLUX_ABORTED
 */
export async function encodeImage(given: RgbImage, o: EncodeImageOptions = {}): Promise<Uint8Array> {
  const { format = 'png', quality, metadata = {}, signal } = readOptions(o, OPTIONS);
  if (!FORMATS.includes(format)) throw invalidArgument('format', FORMATS.join(', '), format);
  const level = quality === undefined ? DEFAULT_QUALITY : checkQuality(quality);
  if (format === 'png') return encodePngAsync(given, metadata, { signal });
  const { width, height, data } = checkImage(given);
  const facts = checkMetadata(metadata);
  const sharp = await loadSharp(format, 'format');
  throwIfAborted(signal);
  // Equal pictures give equal bytes on every machine with the same sharp.
  let image = sharp(Buffer.from(data), { raw: { width, height, channels: 3 } });
  image =
    format === 'jpeg'
      ? image.jpeg({ quality: level, chromaSubsampling: '4:4:4' })
      : image.webp({ quality: level });
  const xmp = xmpOf(facts);
  if (xmp !== undefined) image = image.withXmp(xmp);
  const file = await image.toBuffer();
  throwIfAborted(signal);
  return file;
}

/**
 * What a file's name says that is to be written, checked before any work: that there is such a format, and what it needs.
 * @param option for messages
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export async function formatForPath(path: string, option: string): Promise<ImageFormat> {
  const extension = extname(path).toLowerCase();
  const format = Object.hasOwn(EXTENSIONS, extension) ? EXTENSIONS[extension] : undefined;
  if (format === undefined) {
    throw invalidArgument(option, 'a file name that ends in .png, .jpg or .webp', path);
  }
  if (format !== 'png') await loadSharp(format, option);
  return format;
}

/** A picture's size, and what it says of itself. */
export interface ImageFacts {
  format: ImageFormat;
  width: number;
  height: number;
  /** Text chunks of a PNG; of other formats nothing. */
  text: Record<string, string>;
  /** What jit-flux wrote. */
  metadata?: PngMetadata;
}

/**
 * Reads what a file of one of our formats says, without decoding its pixels.
 * @throws ERR_JITFLUX_UNSUPPORTED_FORMAT, ERR_JITFLUX_CORRUPT_FILE; ERR_JITFLUX_INVALID_ARGUMENT where sharp is needed and
 *   missing
 */
export async function readImageFacts(file: Buffer): Promise<ImageFacts> {
  const format = formatOfContent(file);
  if (format === 'png') {
    const { text, metadata } = readPngText(file);
    const size =
      file.length >= 24 ? { width: file.readUInt32BE(16), height: file.readUInt32BE(20) } : undefined;
    if (!size) throw new JitFluxError(ERROR_CODES.CORRUPT_FILE, 'The PNG has no header');
    return { format, ...size, text, ...(metadata && { metadata }) };
  }
  if (format === undefined) {
    throw new JitFluxError(ERROR_CODES.UNSUPPORTED_FORMAT, 'This is no PNG, JPEG or WebP file');
  }
  const sharp = await loadSharp(format, 'file');
  let found: Metadata;
  try {
    found = await sharp(file).metadata();
  } catch (cause) {
    const message = `The ${format.toUpperCase()} file is damaged: ${(cause as Error).message}`;
    throw new JitFluxError(ERROR_CODES.CORRUPT_FILE, message, {}, { cause });
  }
  const metadata = metadataOf(found.xmpAsString ?? '');
  return { format, width: found.width, height: found.height, text: {}, ...(metadata && { metadata }) };
}

/** Bytes of a file that say of which format it is. */
export const SIGNATURE_BYTES = 12;

/** @param head the first {@link SIGNATURE_BYTES} of a file, or more */
export function formatOfContent(head: Buffer): ImageFormat | undefined {
  const begins = (at: number, text: string) => head.toString('latin1', at, at + text.length) === text;
  if (begins(0, '\x89PNG\r\n\x1a\n')) return 'png';
  if (begins(0, '\xff\xd8\xff')) return 'jpeg';
  return begins(0, 'RIFF') && begins(8, 'WEBP') ? 'webp' : undefined;
}

async function loadSharp(format: ImageFormat, option: string): Promise<typeof Sharp> {
  try {
    return (await import('sharp')).default;
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    const why =
      code === 'ERR_MODULE_NOT_FOUND' ? 'is not installed' : `does not work: ${(cause as Error).message}`;
    throw new JitFluxError(
      ERROR_CODES.INVALID_ARGUMENT,
      `${format === 'jpeg' ? 'JPEG' : 'WebP'} files need the package "sharp", which ${why} (npm install sharp; PNG needs nothing)`,
      { option, format },
      { cause },
    );
  }
}

/** In XML, and in no JSON. */
const ELEMENT = 'jitflux:metadata';
/** A JPEG's segment of 65,535 bytes, without its length and the name of XMP. */
const MOST_XMP_BYTES = 65_000;

/** Undefined where there is nothing to say, or no room for it. */
function xmpOf(metadata: PngMetadata): string | undefined {
  if (Object.keys(metadata).length === 0) return undefined;
  const json = JSON.stringify(metadata).replace(/[&<>]/g, (c) => ENTITIES[c as keyof typeof ENTITIES]);
  const xmp =
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>' +
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">' +
    `<rdf:Description rdf:about="" xmlns:jitflux="urn:jit-flux:metadata"><${ELEMENT}>${json}</${ELEMENT}>` +
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>';
  return Buffer.byteLength(xmp) > MOST_XMP_BYTES ? undefined : xmp;
}

const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;' } as const;

function metadataOf(xmp: string): PngMetadata | undefined {
  const begin = xmp.indexOf(`<${ELEMENT}>`);
  const end = xmp.indexOf(`</${ELEMENT}>`, begin);
  if (begin < 0 || end < 0) return undefined;
  const json = xmp
    .slice(begin + ELEMENT.length + 2, end)
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&amp;', '&');
  try {
    return checkMetadata(JSON.parse(json) as PngMetadata);
  } catch {
    return undefined; // another program's
  }
}
