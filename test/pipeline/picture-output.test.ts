/** Where `generate` and `compare` put pictures: other formats, standard output, sheets, the terminal. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';

import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { run } from '../../src/cli/run.js';
import { readImageFacts } from '../../src/image/index.js';
import { capture, cli, errorOf } from '../unit/cli/helpers.js';

let folder: string;
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'jit-flux-output-'))));
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const at = (name: string) => join(folder, name);
const facts = (name: string) => readImageFacts(readFileSync(at(name)));
const SMALL = ['--width', '64', '--height', '64', '--preset', 'jit-7x', '-q'];
const generate = (...more: string[]) => cli(['generate', 'a red circle', ...SMALL, ...more]);
const sizeOf = async (name: string) => {
  const { width, height } = await sharp(at(name)).metadata();
  return [width, height];
};

describe('generate', () => {
  it.each(['jpg', 'webp'])('writes .%s, which remembers how it was made', async (extension) => {
    const name = `a.${extension}`;
    expect(await generate('--seed', '7', '-o', at(name))).toMatchObject({ code: 0, stdout: `${at(name)}\n` });
    const { format, metadata } = await facts(name);
    expect(format).toBe(extension === 'jpg' ? 'jpeg' : extension);
    expect(metadata).toMatchObject({ prompt: 'a red circle', seed: 7, preset: 'jit-7x', width: 64 });
    const shown = await cli(['inspect', at(name)]);
    expect(shown.stdout).toMatch(/^format +(jpeg|webp)$/m);
    expect(shown.stdout).toMatch(/^seed +7$/m);
    const again = await cli(['generate', '--from', at(name), '-q', '-o', at(`b.${extension}`)]);
    expect(again.code).toBe(0);
    expect(readFileSync(at(`b.${extension}`))).toEqual(readFileSync(at(name)));
    await generate('--seed', '7', '--no-metadata', '--quality', '30', '-o', at(`c.${extension}`));
    expect((await facts(`c.${extension}`)).metadata).toBeUndefined();
    expect(readFileSync(at(`c.${extension}`)).length).toBeLessThan(readFileSync(at(name)).length);
  });

  it('writes all pictures side by side, a row per prompt', async () => {
    const { code, stdout } = await cli([
      ...['generate', ...SMALL, '--seed', '1-3', '-o', at('p.png'), '--grid', at('all.webp')],
      ...['--prompt-file', promptFile()],
      '--json',
    ]);
    expect(code).toBe(0);
    expect(readdirSync(folder).filter((name) => name.startsWith('p-'))).toHaveLength(6);
    expect(await sizeOf('all.webp')).toEqual([8 + 3 * 72, 8 + 2 * 72]);
    expect(JSON.parse(stdout)).toMatchObject({ grid: { path: at('all.webp'), width: 224, height: 152 } });
    await generate('--seed', '1-3', '-o', at('q.png'), '--grid', at('q.jpg'));
    expect(await sizeOf('q.jpg')).toEqual([8 + 2 * 72, 8 + 2 * 72]);
  });

  it('writes to standard output, and nothing else there', async () => {
    const { bytes, code, stderr } = await piped(['generate', 'a red circle', ...SMALL, '-s', '7', '-o', '-']);
    expect(code).toBe(0);
    const file = Buffer.concat(bytes);
    const { metadata } = await readImageFacts(file);
    expect(metadata).toMatchObject({ seed: 7 });
    expect(stderr).toContain('-');
    await generate('--seed', '7', '-o', at('same.png'));
    expect(file).toEqual(readFileSync(at('same.png')));
    expect(existsSync('-')).toBe(false);
  });

  it('shows a picture in a terminal of enough colours, and says why in others', async () => {
    const shown = await piped(['generate', 'a red circle', ...SMALL, '--show', '-o', at('a.png')], {
      isTTY: true,
      columns: 40,
      rows: 30,
      getColorDepth: () => 24,
    });
    expect(shown.stderr.split('\n').filter((line) => line.includes('▀'))).toHaveLength(20);
    const dumb = await generate('--show', '-o', at('a.png'));
    expect(dumb).toMatchObject({ code: 0 });
    expect(dumb.stderr).toMatch(/--show needs a terminal/);
  });

  it.each([
    [['-o', 'a.gif'], /ends in \.png, \.jpg or \.webp for --out/],
    [['-o', 'a'], /ends in \.png, \.jpg or \.webp for --out/],
    [['-o', '-', '--seed', '1,2'], /several pictures for --out/],
    [['-o', '-', '--num-images', '2'], /several pictures for --out/],
    [['-o', '-', '--json'], /beside --json/],
    [['-o', 'a.png', '--quality', '50'], /--quality/],
    [['-o', 'a.jpg', '--quality', '101'], /integer from 1 to 100 for --quality/],
    [['--grid', '-'], /a file for --grid/],
    [['--grid', 'a.bmp'], /\.webp for --grid/],
    [['--grid', '/nowhere/a.png'], /nowhere.*does not exist/],
    [['--grid', 'a.png', '--seed', '1-257'], /at most 256 pictures for --grid/],
  ])('refuses %j before any work', async (words, message) => {
    const before = readdirSync('.');
    const outcome = await generate(...words.map((word) => (/^a\b/.test(word) ? at(word) : word)));
    expect(outcome.code).toBe(2);
    const said = words.includes('--json') ? errorOf(outcome).message : outcome.stderr;
    expect(said).toMatch(message);
    expect(readdirSync(folder)).toEqual([]);
    expect(readdirSync('.')).toEqual(before);
  });

  it('takes no standard output from a list of prompts', async () => {
    const path = at('list.jsonl');
    writeFileSync(path, '{"prompt":"a red circle","out":"-"}\n');
    const { code, stdout, stderr } = await cli(['generate', '--prompt-file', path, ...SMALL]);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/a file in a list of prompts for --out/);
  });

  it('writes no picture to a terminal', async () => {
    const words = ['generate', 'a red circle', ...SMALL, '-o', '-'];
    const { code, stderr } = await piped(words, {}, { isTTY: true });
    expect(code).toBe(2);
    expect(stderr).toMatch(/no terminal for --out/);
  });
});

describe('compare', () => {
  const compare = (...more: string[]) =>
    cli(['compare', 'a red circle', '--width', '64', '--height', '64', '-q', '-o', at('c.png'), ...more]);

  it('makes one picture in several ways, and says how near they come', async () => {
    const { code, stdout } = await compare('--seed', '7', '--presets', 'dense:8,dense:8,jit-7x', '--json');
    expect(code).toBe(0);
    const { results, seed, path } = JSON.parse(stdout) as {
      results: { preset: string; steps: number; psnr?: number | null; ssim?: number; speedup: number }[];
      seed: number;
      path: string;
    };
    expect([seed, path]).toEqual([7, at('c.png')]);
    expect(results.map(({ preset, steps }) => [preset, steps])).toEqual([
      ['dense:8', 8],
      ['dense:8', 8],
      ['jit-7x', 11],
    ]);
    expect(results[0]).not.toHaveProperty('psnr');
    // Infinity, which JSON has no word for.
    expect(results[1]).toMatchObject({ psnr: null, ssim: 1 });
    expect(results[2]!.psnr).toBeGreaterThan(10);
    expect(results[2]!.ssim).toBeGreaterThan(0.2);
    expect(await sizeOf('c.png')).toEqual([8 + 3 * 72, 8 + 72]);
    expect((await facts('c.png')).metadata).toMatchObject({ seed: 7, compared: 'dense:8,dense:8,jit-7x' });
    const from = await cli(['generate', '--from', at('c.png')]);
    expect(from).toMatchObject({ code: 2 });
    expect(from.stderr).toMatch(/comparison of several/);
  });

  it('that is interrupted keeps what was made', async () => {
    const controller = new AbortController();
    let seen = '';
    const stream = new Writable({
      write(chunk: Buffer, _encoding, done) {
        seen += chunk.toString();
        if (/^2 of 3: jit-4x$/m.test(seen)) controller.abort();
        done();
      },
    });
    const argv = ['compare', 'a red circle', '--width', '64', '--height', '64', '-o', at('c.png'), '-s', '7'];
    const code = await run(argv, {
      stdout: { write: () => undefined },
      stderr: stream,
      signal: controller.signal,
    });
    expect(code).toBe(130);
    expect(seen).toContain(`Made before: ${at('c.png')}`);
    expect(await sizeOf('c.png')).toEqual([80, 80]);
    expect((await facts('c.png')).metadata).toMatchObject({ compared: 'dense' });
  });

  it('prints a table, by default of all presets', async () => {
    const { stdout } = await compare('--seed', '7');
    const [head, ...rows] = stdout.split('\n');
    expect(head).toMatch(/steps +time +speed +TFLOP +PSNR +SSIM/);
    expect(rows.slice(0, 3).map((row) => row.split(/ +/).slice(0, 2))).toEqual([
      ['dense', '50'],
      ['jit-4x', '18'],
      ['jit-7x', '11'],
    ]);
    expect(rows[3]).toBe(`${at('c.png')}  224x80  seed 7`);
  });

  it.each([
    [['--presets', 'dense,jit-5x'], /did you mean jit-4x\?.*--presets.*"jit-5x"/],
    [['--presets', 'dense:0'], /steps/],
    [['--presets', ''], /--presets/],
    [['another prompt in quotes'], /one prompt in quotes/],
    [['-o', '-'], /a file for --out/],
    [['--width', '63'], /multiple of 8.*--width/],
  ])('refuses %j', async (words, message) => {
    const outcome = await compare(...words);
    expect(outcome.code).toBe(2);
    expect(outcome.stderr).toMatch(message);
    expect(readdirSync(folder)).toEqual([]);
  });
});

function promptFile(): string {
  const path = at('prompts.txt');
  writeFileSync(path, 'a red circle\na blue square\n');
  return path;
}

/** Runs the command line with streams as a program has them. */
async function piped(argv: string[], terminal: object = {}, out: object = {}) {
  const bytes: Uint8Array[] = [];
  const { stream, text } = capture(terminal);
  const code = await run(argv, {
    stdout: { write: (part) => bytes.push(typeof part === 'string' ? Buffer.from(part) : part), ...out },
    stderr: stream,
    signal: new AbortController().signal,
  });
  return { code, bytes, stderr: text() };
}
