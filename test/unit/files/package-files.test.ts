import { execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { rolldown } from 'rolldown';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../../../src/errors.js';
import {
  PACKAGE_FILES,
  PACKAGE_ROOT,
  shippedFile,
  unpacked,
  versionIn,
} from '../../../src/files/package-files.js';
import { temporaryDirectory, writeFile } from '../../support/fake-libtorch.js';

describe('the package', () => {
  it('is where package.json is', () => {
    expect(existsSync(join(PACKAGE_ROOT, 'package.json'))).toBe(true);
  });

  it('has the files that no import names', () => {
    const { prebuilds, ...files } = PACKAGE_FILES;
    for (const path of Object.values(files)) expect(statSync(path).size, path).toBeGreaterThan(0);
    // Made by `npm run prebuild` only.
    expect(prebuilds).toBe(join(PACKAGE_ROOT, 'prebuilds'));
  });
});

describe('unpacked', () => {
  it('leads out of app.asar where the file is unpacked', () => {
    const root = temporaryDirectory();
    const inside = join(root, 'app.asar/node_modules/jit-flux/libtorch.json');
    expect(unpacked(inside)).toBe(inside);
    const outside = join(root, 'app.asar.unpacked/node_modules/jit-flux/libtorch.json');
    writeFile(outside, '');
    expect(unpacked(inside)).toBe(outside);
    expect(unpacked(outside)).toBe(outside);
  });
});

describe('a package without its files', () => {
  const bundled = expect.objectContaining({ code: ERROR_CODES.BUNDLED }) as Error;

  it.each<[string, Record<string, string>?]>([
    ['no folder, as in a CommonJS bundle'],
    ['no package.json', {}],
    ['package.json of another package', { 'package.json': '{ "name": "app", "version": "1.0.0" }' }],
    ['package.json without a version', { 'package.json': '{ "name": "jit-flux" }' }],
    ['package.json that is null', { 'package.json': 'null' }],
    ['package.json that is no JSON', { 'package.json': '{' }],
  ])('is refused: %s', (_, files) => {
    const root = files && temporaryDirectory();
    for (const [name, text] of Object.entries(files ?? {})) writeFileSync(join(root!, name), text);
    expect(() => versionIn(root)).toThrow(bundled);
    expect(() => versionIn(root)).toThrow(/external.*docs\/install\.md/s);
  });

  it('is refused where one of them is needed', () => {
    const path = join(temporaryDirectory(), 'png-worker.js');
    expect(() => shippedFile(path)).toThrow(bundled);
    expect(() => shippedFile(path)).toThrow(path);
    writeFileSync(path, '');
    expect(shippedFile(path)).toBe(path);
  });
});

describe('a package of which a tracer has copied the code alone', () => {
  const PROGRAM = `
    const { BUNDLED_MODEL, FluxPipeline, encodePngAsync, setupLibTorch } = await import('./jit-flux/dist/index.js');
    const image = { width: 1, height: 1, data: new Uint8Array(3) };
    const calls = [
      () => FluxPipeline.load(BUNDLED_MODEL),
      () => encodePngAsync(image),
      () => setupLibTorch(),
    ];
    for (const call of calls) await call().catch(({ code, details }) => console.log(code, details.path));
  `;

  it('names the file that is needed', () => {
    const folder = temporaryDirectory();
    const copy = join(folder, 'jit-flux');
    cpSync(join(PACKAGE_ROOT, 'dist'), join(copy, 'dist'), {
      recursive: true,
      filter: (path) => !path.endsWith('-worker.js'),
    });
    copyFileSync(join(PACKAGE_ROOT, 'package.json'), join(copy, 'package.json'));
    symlinkSync(join(PACKAGE_ROOT, 'node_modules'), join(folder, 'node_modules'));
    const output = execFileSync(process.execPath, ['--input-type=module', '-e', PROGRAM], {
      cwd: folder,
      encoding: 'utf8',
      env: { ...process.env, JIT_FLUX_CACHE: join(folder, 'cache') },
    });
    const missing = ['models/flux-tiny', 'dist/image/png-worker.js', 'libtorch.json'];
    expect(output.trim().split('\n')).toEqual(
      missing.map((path) => `${ERROR_CODES.BUNDLED} ${join(copy, path)}`),
    );
  });
});

describe('a bundle', () => {
  /** Standard output of a program that is bundled and then run where none of this package's files are. */
  async function run(program: string, format: 'esm' | 'cjs'): Promise<string> {
    const folder = temporaryDirectory();
    const input = join(folder, 'app.mjs');
    writeFileSync(input, program);
    const file = join(folder, 'out', 'deep', format === 'esm' ? 'app.mjs' : 'app.cjs');
    const bundle = await rolldown({ input, platform: 'node', logLevel: 'silent' });
    await bundle.write({ file, format, codeSplitting: false });
    await bundle.close();
    return execFileSync(process.execPath, ['-e', `import(${JSON.stringify(file)}).catch(${report})`], {
      cwd: folder,
      encoding: 'utf8',
    });
  }
  const report = '({ name, code, message }) => console.log(JSON.stringify({ name, code, message }))';
  const dist = (path: string) => JSON.stringify(join(PACKAGE_ROOT, 'dist', path));

  it.each(['esm', 'cjs'] as const)(
    'of jit-flux says that it is one when it is imported (%s)',
    async (format) => {
      const program = `import { FluxPipeline } from ${dist('index.js')};\nconsole.log(FluxPipeline.name);\n`;
      const { name, code, message } = JSON.parse(await run(program, format)) as Record<string, string>;
      expect([name, code]).toEqual(['JitFluxError', ERROR_CODES.BUNDLED]);
      expect(message).toContain('--external:jit-flux');
    },
  );

  it.each(['esm', 'cjs'] as const)('of jit-flux/sampler works (%s)', async (format) => {
    const program = `import { createPlan } from ${dist('sampler/index.js')};\nconsole.log(createPlan.name);\n`;
    expect(await run(program, format)).toMatch(/^createPlan/);
  });
});
