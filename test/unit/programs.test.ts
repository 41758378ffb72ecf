/** Every place that starts a program or a thread, or loads code by a path, is in docs/security.md, and no other. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

import { sourcesOf } from '../../scripts/lib/arrows.mjs';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');

/** Without comments: they may speak of what they like. */
const codeOf = (path: string) => read(path).replace(/\/\*[^]*?\*\/|^\s*\/\/.*$|\s\/\/ .*$/gm, '');

const CALLS = {
  typescript:
    /\b(spawn|spawnSync|exec|execSync|execFile|execFileSync|fork|createRequire|Worker|dlopen|binding|_linkedBinding|eval|Function)\(/g,
  native:
    /\b(dlopen|dlmopen|popen|system|execl|execlp|execle|execv|execve|execvp|execvpe|fexecve|posix_spawn|posix_spawnp|fork|vfork|clone|syscall)\s*\((?!SYS_(?:gettid|mmap|tgkill)\b)/g,
} as const;
/** Modules with which it could be done under another name. */
const MODULES = /\bfrom '(?:node:)?(child_process|worker_threads|module|cluster|vm|repl|inspector|wasi)'/;

/** `file: call` for every call, sorted. */
function found(kind: 'typescript' | 'native'): string[] {
  return sourcesOf(ROOT, kind).flatMap((file) =>
    [...codeOf(file).matchAll(CALLS[kind])]
      // Methods of our own classes and of regular expressions.
      .filter(({ index, input, 1: call }) => !(call === 'exec' && input[index - 1] === '.'))
      .map(({ 1: call }) => `${file}: ${call}`),
  );
}

const section = /\n## Programs that are started\n([^]*?)\n## /.exec(read('docs/security.md'))![1]!;
const listed = [...section.matchAll(/^\| `([^`]+)`: `([^`]+)` \|/gm)].map(
  ([, file, call]) => `${file}: ${call}`,
);

describe('docs/security.md', () => {
  it('lists what is started and loaded', () => {
    expect([...found('typescript'), ...found('native')].sort()).toEqual([...listed].sort());
  });

  it('lists every file that could start or load something', () => {
    const files = sourcesOf(ROOT, 'typescript').filter((file) => MODULES.test(read(file)));
    // What only runs in the thread starts nothing.
    const known = new Set([
      ...listed.map((line) => line.split(':')[0]),
      'src/image/png-worker.ts',
      'src/text/tokenizer-worker.ts',
    ]);
    expect(files.filter((file) => !known.has(file))).toEqual([]);
  });
});

describe('every program', () => {
  const sources = sourcesOf(ROOT, 'typescript').map(codeOf).join('\n');
  it('is started without a shell', () => {
    expect(sources).not.toMatch(/\bshell\s*:/);
  });
  it('of Python is started in isolated mode', () => {
    const calls = [...sources.matchAll(/(?:execFileSync|spawn)\(python, \[([^\]]*)/g)].map(
      ([, args]) => args,
    );
    expect(calls).toHaveLength(2);
    for (const args of calls) expect(args).toMatch(/^'-I', /);
    for (const script of ['scripts/lib/steps.mjs', 'scripts/gpu-check.mjs', 'scripts/bootstrap.mjs'])
      expect(read(script), script).not.toMatch(/\['-m', 'pip'/);
  });
});
