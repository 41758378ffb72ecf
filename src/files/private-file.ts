/** Files under predictable names in directories where others may write. */
import { constants } from 'node:fs';
import { open, rm, type FileHandle } from 'node:fs/promises';

const WRITABLE_BY_OTHERS = 0o022;

/**
 * Opens a file for reading and writing that no other user can have written or can write, and that is nothing else's
 * name: neither a symbolic nor a hard link. What is there and is not so is removed; then, and where there is none, an
 * empty file of mode 0600 is made.
 */
export async function openPrivate(path: string): Promise<FileHandle> {
  const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK } = constants;
  for (let attempts = 0; ; attempts++) {
    // Without O_NONBLOCK a pipe in its place would wait for a reader.
    const existing = await open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK).catch(() => undefined);
    if (existing !== undefined) {
      try {
        const info = await existing.stat();
        const isOwn = info.uid === process.geteuid?.();
        if (info.isFile() && isOwn && info.nlink === 1 && !(info.mode & WRITABLE_BY_OTHERS)) return existing;
      } catch (error) {
        await existing.close();
        throw error;
      }
      await existing.close();
    }
    await rm(path, { force: true, recursive: true });
    try {
      return await open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || attempts === 3) throw error;
    }
  }
}

/** Writes all of `data` at a position of the file. */
export async function writeAll(file: FileHandle, data: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < data.length;) {
    const { bytesWritten } = await file.write(data, at, data.length - at, position + at);
    at += bytesWritten;
  }
}
