#!/usr/bin/env node
// Writes the reference pages: docs/api from the TypeScript sources (typedoc.json), docs/cli.md from the help of the
// commands. --check writes nothing and fails if they are not as they would be written.
//   node scripts/docs.mjs [--check]
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { ensureTypeScript } from './lib/steps.mjs';
import { ROOT, UserError, log, main, run, takeFlag, toolPath } from './lib/tools.mjs';

await main(async () => {
  const args = process.argv.slice(2);
  const check = takeFlag(args, 'check');
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);
  ensureTypeScript();
  /** @type {Record<string, string>} */
  const pages = {
    'docs/api/README.md': apiPage(),
    'docs/api/sampler.md': apiPage('--name', 'jit-flux/sampler', '--entryPoints', 'src/sampler/index.ts'),
    'docs/cli.md': await cliPage(),
  };
  const outdated = Object.keys(pages).filter((path) => textOf(join(ROOT, path)) !== pages[path]);
  if (check && outdated.length > 0)
    throw new UserError(`Not up to date: ${outdated.join(', ')}. Run \`npm run docs\``);
  for (const path of outdated) {
    mkdirSync(dirname(join(ROOT, path)), { recursive: true });
    writeFileSync(join(ROOT, path), pages[path]);
    log(`wrote ${path}`);
  }
});

/**
 * @param {string[]} options
 * @returns {string}
 */
function apiPage(...options) {
  const out = mkdtempSync(join(tmpdir(), 'jit-flux-docs-'));
  try {
    run(
      process.execPath,
      [toolPath('typedoc', 'bin/typedoc'), '--logLevel', 'Warn', '--out', out, ...options],
      { name: 'typedoc' },
    );
    return readFileSync(join(out, 'README.md'), 'utf8');
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

async function cliPage() {
  const { COMMANDS, run: runCommand } = await import(join(ROOT, 'dist', 'cli', 'run.js'));
  const helpOf = async (/** @type {string[]} */ argv) => {
    let text = '';
    const stdout = {
      write: (/** @type {string} */ part) => {
        text += part;
      },
    };
    await runCommand([...argv, '--help'], {
      stdout,
      stderr: process.stderr,
      signal: new AbortController().signal,
    });
    return text.trim();
  };
  const sections = [];
  for (const { command } of COMMANDS) {
    const [name] = command.split(' ');
    sections.push(`## jit-flux ${name}\n\n\`\`\`\n${await helpOf([name])}\n\`\`\`\n`);
  }
  return [
    '# Command line\n',
    'Written by `npm run docs` from the commands themselves. Results go to standard output, progress and warnings to',
    'standard error. With `--json` standard output holds exactly one JSON document, errors included',
    '(`{ "error": { "code", "message", "details" } }`, codes in [errors.md](errors.md), or `ERR_UNEXPECTED`). Ctrl-C',
    'aborts what is running; no half-written file stays but the journal of a conversion, which goes on from it',
    '([convert.md](convert.md)). Environment variables, and a file with defaults of flags:',
    '[environment.md](environment.md#defaults-of-flags).\n',
    'A letter means the same in every command: `-m` model, `-o` out, `-s` seed, `-W` and `-H` width and height, `-n` number of',
    'pictures, `-t` threads, `-p` prompt, `-q` quiet, `-v` verbose, `-h` help, `-V` version. They are those of `sd-cli`',
    '(stable-diffusion.cpp), where it has them; but there `-n` is the negative prompt, which FLUX.1 has not.\n',
    "`--verbose` says on standard error what was decided and inferred, the time of every phase and step, the library's log, and of an",
    'error its causes with their stacks. Colours are on terminals only; `NO_COLOR`, `FORCE_COLOR`, `--color` and `--no-color` are',
    'followed.\n',
    'Completion of commands, flags, their values and file names, for bash and zsh (it asks a `jit-flux` that is in `PATH`):\n',
    '```sh\njit-flux completion >> ~/.bashrc    # zsh: >> ~/.zshrc\n```\n',
    `\`\`\`\n${await helpOf([])}\n\`\`\`\n`,
    ...sections,
  ].join('\n');
}

/** @param {string} path */
function textOf(path) {
  return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
}
