import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** A folder in memory, where the system has such, that goes with the process. */
export function memoryFolder() {
  let path;
  try {
    path = mkdtempSync('/dev/shm/jit-flux-fuzz-');
  } catch {
    path = mkdtempSync(join(tmpdir(), 'jit-flux-fuzz-'));
  }
  process.on('exit', () => rmSync(path, { recursive: true, force: true }));
  return {
    path,
    /** @param {string} name @param {string | Buffer | undefined} content undefined: no such file */
    write(name, content) {
      const file = join(path, name);
      if (content === undefined) return rmSync(file, { force: true });
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, content);
    },
  };
}
