// The archives that `jit-flux setup` unpacks: the directory of any bytes, and the entries in a folder of their own.
import { readdirSync, rmSync, statSync } from 'node:fs';
import { join, sep } from 'node:path';
import { memoryFolder } from './support/folder.mjs';
import { built, expect, refusedOrAsync } from './support/outcome.mjs';

/** Plain errors that say what is wrong with the archive, and zlib's. @param {Error & { code?: unknown }} error */
const promised = (error) =>
  error.constructor === Error
    ? error.code === undefined || String(error.code).startsWith('Z_') || isFolderConflict(String(error.code))
    : String(error.code) === 'ERR_BUFFER_TOO_LARGE';
/** One entry is a file and another a folder, a name is too long, or there twice. @param {string} code */
const isFolderConflict = (code) => ['EEXIST', 'ENOTDIR', 'EISDIR', 'ENAMETOOLONG'].includes(code);

/** An open file whose content is in memory. @param {Buffer} content */
function memoryFile(content) {
  return {
    stat: async () => ({ size: content.length, isFile: () => true }),
    /** @param {Buffer} buffer @param {number} offset @param {number} length @param {number} position */
    read: async (buffer, offset, length, position) => {
      const bytesRead = Math.max(0, Math.min(length, content.length - position));
      if (bytesRead > 0) content.copy(buffer, offset, position, position + bytesRead);
      return { bytesRead, buffer };
    },
  };
}

/** @type {import('./support/loop.mjs').Target} */
export default {
  instrument: ['/dist/libtorch/zip.js'],
  maxLength: 2048,
  async open() {
    const { ZipFile, entryTarget } = await built('libtorch/zip.js');
    const { path: folder } = memoryFolder();
    return async (input) => {
      const archive = await refusedOrAsync(promised, () => ZipFile.read(memoryFile(input)));
      if (archive === undefined) return;
      let total = 0;
      for (const entry of archive.entries) {
        expect(entryTarget(folder, entry.name).startsWith(folder + sep), 'entries stay in the folder');
        total += entry.size;
      }
      if (archive.entries.length > 4 || total > 1 << 20) return;
      for (const entry of archive.entries) {
        const target = entryTarget(folder, entry.name);
        await refusedOrAsync(promised, async () => {
          await archive.extract(entry, target);
          expect(statSync(target).size === entry.size, 'an entry is as long as it says');
        });
      }
      for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true, force: true });
    };
  },
};
