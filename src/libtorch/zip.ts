/**
 * Reads zip archives (Python wheels, LibTorch's official zips), so that unpacking needs neither `unzip` nor Python.
 * Only what those use: stored and deflated entries, no encryption, no zip64, regular files and directories.
 */
import { createWriteStream } from 'node:fs';
import { mkdir, writeFile, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { crc32, createInflateRaw, inflateRaw } from 'node:zlib';

const inflate = promisify(inflateRaw);

const END_SIGNATURE = 0x06054b50;
const CENTRAL_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;
const END_SIZE = 22;
const CENTRAL_SIZE = 46;
const LOCAL_SIZE = 30;
const MAX_COMMENT = 0xffff;
const STORED = 0;
const DEFLATED = 8;
/** Entries up to this size are inflated in one piece, larger ones are streamed. */
const SMALL_ENTRY = 1 << 20;
/** The largest directory of a pinned archive has 1 MB. */
const MAX_DIRECTORY = 64 << 20;
const FILE_TYPE = 0o170000;
const REGULAR_FILE = 0o100000;

export interface ZipEntry {
  /** Path inside the archive, always relative and without `..`. */
  name: string;
  size: number;
  compressedSize: number;
  /** It may be executed. */
  executable: boolean;
  /** @internal */ method: number;
  /** @internal */ crc: number;
  /** @internal */ headerOffset: number;
}

/**
 * An archive in an open file, which stays the caller's: what was verified through the handle is what is read. Errors are
 * plain `Error`s that say what is wrong with the archive.
 */
export class ZipFile {
  private constructor(
    private readonly file: FileHandle,
    /** The files of the archive, in directory order; directories are left out. */
    readonly entries: readonly ZipEntry[],
  ) {}

  static async read(file: FileHandle): Promise<ZipFile> {
    return new ZipFile(file, await readDirectory(file));
  }

  /**
   * Writes one entry to `target`, creating its directories, and checks its size and CRC. The file must not be there yet,
   * not even as a link: that is how a name shows that comes twice, or twice where case does not count. Everyone may read
   * it and its owner write it, as far as the process's umask says so.
   */
  async extract(entry: ZipEntry, target: string, signal?: AbortSignal): Promise<void> {
    await mkdir(dirname(target), { recursive: true, mode: 0o755 });
    const header = await readExactly(this.file, entry.headerOffset, LOCAL_SIZE);
    if (header.readUInt32LE(0) !== LOCAL_SIGNATURE)
      throw new Error(`no entry at the offset of ${entry.name}`);
    const start = entry.headerOffset + LOCAL_SIZE + header.readUInt16LE(26) + header.readUInt16LE(28);
    const mode = entry.executable ? 0o755 : 0o644;
    if (entry.compressedSize <= SMALL_ENTRY && entry.size <= SMALL_ENTRY) {
      const packed = await readExactly(this.file, start, entry.compressedSize);
      const data =
        entry.method === STORED
          ? packed
          : await inflate(packed, { maxOutputLength: Math.max(entry.size, 1) });
      check(entry, data.length, crc32(data));
      await writeFile(target, data, { flag: 'wx', mode, signal });
      return;
    }
    let size = 0;
    let crc = 0;
    const checksum = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        size += chunk.length;
        crc = crc32(chunk, crc);
        if (size > entry.size) done(new Error(`${entry.name} is larger than the archive says`));
        else done(null, chunk);
      },
    });
    const source = chunksOf(this.file, start, entry.compressedSize);
    // The libraries are among these: after a power failure they are there in whole, or their folder is not.
    const sink = createWriteStream(target, { flags: 'wx', mode, highWaterMark: SMALL_ENTRY, flush: true });
    const options = signal ? { signal } : {};
    if (entry.method === STORED) await pipeline(source, checksum, sink, options);
    else await pipeline(source, createInflateRaw({ chunkSize: 1 << 18 }), checksum, sink, options);
    check(entry, size, crc);
  }
}

/** Joins an entry's path, which {@link ZipFile} has checked, to a directory. */
export function entryTarget(directory: string, relativeName: string): string {
  assertSafeName(relativeName);
  return join(directory, ...relativeName.split('/'));
}

function check(entry: ZipEntry, size: number, crc: number): void {
  if (size !== entry.size || crc !== entry.crc) throw new Error(`${entry.name} is damaged`);
}

async function readDirectory(file: FileHandle): Promise<ZipEntry[]> {
  const { size } = await file.stat();
  if (size < END_SIZE) throw new Error('not a zip archive');
  const tailSize = Math.min(size, END_SIZE + MAX_COMMENT);
  const tail = await readExactly(file, size - tailSize, tailSize);
  let end = tail.length - END_SIZE;
  while (end >= 0 && tail.readUInt32LE(end) !== END_SIGNATURE) end--;
  if (end < 0) throw new Error('not a zip archive, or cut short');

  const count = tail.readUInt16LE(end + 10);
  const directorySize = tail.readUInt32LE(end + 12);
  const directoryOffset = tail.readUInt32LE(end + 16);
  if (count === 0xffff || directorySize === 0xffffffff || directoryOffset === 0xffffffff)
    throw new Error('zip64 archives are not supported');
  if (directoryOffset + directorySize > size) throw new Error('the directory lies outside the archive');
  if (directorySize > MAX_DIRECTORY) throw new Error(`the directory has ${directorySize} bytes`);

  const directory = await readExactly(file, directoryOffset, directorySize);
  const entries: ZipEntry[] = [];
  const names = new Set<string>();
  let packed = 0;
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + CENTRAL_SIZE > directory.length || directory.readUInt32LE(at) !== CENTRAL_SIGNATURE)
      throw new Error('the directory is damaged');
    const flags = directory.readUInt16LE(at + 8);
    const nameEnd = at + CENTRAL_SIZE + directory.readUInt16LE(at + 28);
    const next = nameEnd + directory.readUInt16LE(at + 30) + directory.readUInt16LE(at + 32);
    if (next > directory.length) throw new Error('the directory is damaged');
    const unixMode = directory.readUInt32LE(at + 38) >>> 16;
    const entry: ZipEntry = {
      name: directory.toString('utf8', at + CENTRAL_SIZE, nameEnd),
      method: directory.readUInt16LE(at + 10),
      crc: directory.readUInt32LE(at + 16),
      compressedSize: directory.readUInt32LE(at + 20),
      size: directory.readUInt32LE(at + 24),
      executable: (unixMode & 0o111) !== 0,
      headerOffset: directory.readUInt32LE(at + 42),
    };
    at = next;
    assertSafeName(entry.name);
    if (names.has(entry.name)) throw new Error(`${entry.name} is in the archive twice`);
    names.add(entry.name);
    if (entry.name.endsWith('/')) continue;
    if (flags & 1) throw new Error(`${entry.name} is encrypted`);
    if (entry.method !== STORED && entry.method !== DEFLATED)
      throw new Error(`${entry.name} is packed with the unsupported method ${entry.method}`);
    const type = unixMode & FILE_TYPE;
    if (type === 0o120000) throw new Error(`${entry.name} is a symbolic link`);
    if (type !== 0 && type !== REGULAR_FILE) throw new Error(`${entry.name} is not a regular file`);
    if (entry.method === STORED && entry.compressedSize !== entry.size)
      throw new Error(`${entry.name} is stored with ${entry.compressedSize} instead of ${entry.size} bytes`);
    if (entry.headerOffset + LOCAL_SIZE + entry.compressedSize > size)
      throw new Error(`${entry.name} lies outside the archive`);
    // Entries that share their bytes turn a small archive into an enormous one.
    packed += LOCAL_SIZE + entry.compressedSize;
    if (packed > size) throw new Error('entries of the archive overlap');
    entries.push(entry);
  }
  return entries;
}

/** An archive must not write outside the directory it is unpacked into. */
function assertSafeName(name: string): void {
  const parts = name.replace(/\/$/, '').split('/');
  if (name.includes('\\') || name.includes('\0') || parts.some((part) => ['', '.', '..'].includes(part)))
    throw new Error(`unsafe path in the archive: ${JSON.stringify(name)}`);
}

/** `length` bytes of the file from `position` on, in pieces. */
async function* chunksOf(file: FileHandle, position: number, length: number): AsyncGenerator<Buffer> {
  const end = position + length;
  for (let at = position; at < end; at += SMALL_ENTRY)
    yield await readExactly(file, at, Math.min(SMALL_ENTRY, end - at));
}

async function readExactly(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await file.read(buffer, filled, length - filled, position + filled);
    if (bytesRead === 0) throw new Error('the archive is cut short');
    filled += bytesRead;
  }
  return buffer;
}
