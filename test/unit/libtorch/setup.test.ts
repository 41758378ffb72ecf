import { spawn } from 'node:child_process';
import { chmodSync, existsSync, readFileSync, readdirSync, rmSync, statSync, watch } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { connect, type AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { JitFluxError } from '../../../src/errors.js';
import { proxyFor } from '../../../src/libtorch/download.js';
import { setupLibTorch, type SetupOptions, type SetupProgress } from '../../../src/libtorch/provision.js';
import {
  CUDA_LIBRARY_NAMES,
  makeCudaManifest,
  makeManifest,
  makeNvidiaWheel,
  makeWheel,
  makeZip,
  temporaryDirectory,
  writeFile,
} from '../../support/fake-libtorch.js';
import { CERTIFICATE, HOST, KEY } from '../../support/tls.js';

const wheel = makeWheel('2.13.0+cpu');
const manifest = makeManifest(wheel);

/** A fresh cache and a function that runs setup in it, without this machine's proxies. */
function freshCache() {
  const root = temporaryDirectory();
  const cacheDir = join(root, 'cache');
  const from = writeFile(join(root, 'given.whl'), wheel);
  const setup = (options: SetupOptions = {}) =>
    setupLibTorch({ cacheDir, manifest, env: { PATH: process.env.PATH }, ...options });
  return { root, cacheDir, from, setup, target: join(cacheDir, 'libtorch', '2.13.0-cpu') };
}

async function failureOf(promise: Promise<unknown>): Promise<JitFluxError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(JitFluxError);
  return error as JitFluxError;
}

/** A web server on this machine for one test. */
async function serve(handler: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const server = createServer(handler);
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function leftovers(cacheDir: string): string[] {
  const directory = join(cacheDir, 'libtorch');
  return existsSync(directory) ? readdirSync(directory) : [];
}

describe('setupLibTorch from a file', () => {
  it('unpacks what is needed, reports progress, and does nothing the second time', async () => {
    const { from, setup, target, cacheDir } = freshCache();
    const phases = new Map<string, SetupProgress>();
    const result = await setup({ from, onProgress: (progress) => phases.set(progress.phase, progress) });
    expect(result).toEqual({ path: target, version: '2.13.0', variant: 'cpu', alreadyPresent: false });
    expect(leftovers(cacheDir)).toEqual(['2.13.0-cpu']);
    expect(readdirSync(target).sort()).toEqual(
      ['include', 'jit-flux-setup.json', 'lib', 'licenses', 'share', 'version.py'].sort(),
    );
    expect(readFileSync(join(target, 'lib/large.bin')).equals(Buffer.alloc(3 << 20, 7))).toBe(true);
    expect(readFileSync(join(target, 'lib/stored.bin')).equals(Buffer.alloc(2 << 20, 9))).toBe(true);
    expect(readFileSync(join(target, 'include/empty.h'), 'utf8')).toBe('');
    expect(statSync(join(target, 'lib/libc10.so')).mode & 0o777).toBe(0o755);
    expect([...phases.keys()]).toEqual(['verify', 'unpack']);
    for (const { done, total } of phases.values()) expect(done).toBe(total);
    expect(existsSync(from)).toBe(true);

    expect(await setup({ from })).toMatchObject({ alreadyPresent: true, path: target });
  });

  it('replaces the directory with force', async () => {
    const { from, setup, target, cacheDir } = freshCache();
    await setup({ from });
    writeFile(join(target, 'lib/stray'), '');
    expect(await setup({ from, force: true })).toMatchObject({ alreadyPresent: false });
    expect(existsSync(join(target, 'lib/stray'))).toBe(false);
    expect(leftovers(cacheDir)).toEqual(['2.13.0-cpu']);
  });

  it('refuses a file with another hash or size and leaves nothing behind', async () => {
    const { root, setup, cacheDir } = freshCache();
    const changed = Buffer.from(wheel);
    changed[wheel.length >> 1]! ^= 1;
    const error = await failureOf(setup({ from: writeFile(join(root, 'changed.whl'), changed) }));
    expect(error.code).toBe('ERR_JITFLUX_SETUP_FAILED');
    expect(error.message).toMatch(/SHA-256 is [0-9a-f]{64} instead of [0-9a-f]{64}/);
    expect(error.message).toContain('http://127.0.0.1:9/torch-2.13.0.whl');
    const short = await failureOf(setup({ from: writeFile(join(root, 'short.whl'), wheel.subarray(1)) }));
    expect(short.message).toContain(`size is ${wheel.length - 1} bytes instead of ${wheel.length}`);
    const missing = await failureOf(setup({ from: join(root, 'missing.whl') }));
    expect(missing.message).toContain('ENOENT');
    expect(leftovers(cacheDir)).toEqual([]);
  });

  it.each([
    ['a path that leads outside', [{ name: 'torch/lib/../../evil', data: 'x' }], 'unsafe path'],
    ['an absolute path', [{ name: '/torch/lib/evil', data: 'x' }], 'unsafe path'],
    ['a symbolic link', [{ name: 'torch/lib/a', data: '/etc', unixMode: 0o120777 }], 'symbolic link'],
    ['a damaged entry', [{ name: 'torch/lib/a', data: 'abc', crc: 1 }], 'damaged'],
    ['no LibTorch', [{ name: 'torch/nn/a.py', data: 'abc' }], 'holds nothing of torch/'],
  ])('refuses an archive with %s', async (_, entries, reason) => {
    const { root, setup, cacheDir } = freshCache();
    const archive = makeZip(entries);
    const from = writeFile(join(root, 'bad.whl'), archive);
    const error = await failureOf(setup({ from, manifest: makeManifest(archive) }));
    expect(error.code).toBe('ERR_JITFLUX_SETUP_FAILED');
    expect(error.message).toContain(reason);
    expect(leftovers(cacheDir)).toEqual([]);
    expect(readdirSync(root).sort()).toEqual(['bad.whl', 'cache', 'given.whl']);
  });

  it('refuses what is no zip archive', async () => {
    const { root, setup } = freshCache();
    const archive = Buffer.alloc(1000, 1);
    const from = writeFile(join(root, 'bad.whl'), archive);
    expect((await failureOf(setup({ from, manifest: makeManifest(archive) }))).message).toContain(
      'zip archive',
    );
  });

  it('stops on abort and leaves nothing behind', async () => {
    const { from, setup, cacheDir } = freshCache();
    const controller = new AbortController();
    const onProgress = ({ phase }: SetupProgress) => {
      if (phase === 'unpack') controller.abort(new Error('enough'));
    };
    const error = await failureOf(setup({ from, onProgress, signal: controller.signal }));
    expect(error.code).toBe('ERR_JITFLUX_ABORTED');
    expect(leftovers(cacheDir)).toEqual([]);
  });

  it('says so where a callback throws what cannot be looked at', async () => {
    const { from, setup, cacheDir } = freshCache();
    const onProgress = ({ phase }: SetupProgress) => {
      const { proxy, revoke } = Proxy.revocable(new Error('mine'), {});
      revoke();
      if (phase === 'unpack') throw proxy;
    };
    const error = await failureOf(setup({ from, onProgress }));
    expect(error.code).toBe('ERR_JITFLUX_SETUP_FAILED');
    expect(error.message).toContain('an error that cannot be read');
    expect(leftovers(cacheDir)).toEqual([]);
  });

  it('knows which variants there are', async () => {
    const { setup, from } = freshCache();
    // This manifest has no variant with CUDA.
    expect(await setup({ from, variant: 'auto' })).toMatchObject({ variant: 'cpu' });
    expect((await failureOf(setup({ variant: 'cu130' }))).message).toContain(
      'not available yet: not pinned yet',
    );
    const unknown = await failureOf(setup({ variant: 'toString' }));
    expect(unknown.code).toBe('ERR_JITFLUX_INVALID_ARGUMENT');
    expect(unknown.message).toContain('cpu, cu130, auto');
  });
});

describe('setupLibTorch of several archives', () => {
  const wheels = {
    'torch-2.14.1.whl': makeWheel('2.14.1+cu130', CUDA_LIBRARY_NAMES),
    'nvidia_cublas-13.whl': makeNvidiaWheel('cublas', 'libcublas.so.13'),
    'nvidia_cudart-13.whl': makeNvidiaWheel('cudart', 'libcudart.so.13'),
  };
  const cudaManifest = makeCudaManifest(wheels);
  const size = Object.values(wheels).reduce((sum, { length }) => sum + length, 0);

  function cudaCache() {
    const cache = freshCache();
    const directory = join(cache.root, 'wheels');
    for (const [name, content] of Object.entries(wheels)) writeFile(join(directory, name), content);
    const variantDirectory = join(cache.cacheDir, 'libtorch/2.14.1-cu130');
    const setup = (options: SetupOptions = {}) =>
      cache.setup({ variant: 'cu130', manifest: cudaManifest, ...options });
    return { ...cache, directory, variantDirectory, setup };
  }

  it('unpacks them as pip does, and reports progress over all', async () => {
    const { directory, setup, cacheDir, variantDirectory } = cudaCache();
    const phases = new Map<string, SetupProgress[]>();
    const onProgress = (progress: SetupProgress) =>
      phases.set(progress.phase, [...(phases.get(progress.phase) ?? []), progress]);
    const result = await setup({ from: directory, onProgress });
    const path = join(variantDirectory, 'torch');
    expect(result).toEqual({ path, version: '2.14.1', variant: 'cu130', alreadyPresent: false });
    expect(leftovers(cacheDir)).toEqual(['2.14.1-cu130']);
    const files = readdirSync(variantDirectory, { recursive: true });
    for (const file of [
      'torch/lib/libtorch_cuda.so',
      'torch/version.py',
      'nvidia/cu13/lib/libcublas.so.13',
      'nvidia/cu13/lib/libcudart.so.13',
      'nvidia/cu13/include/cublas.h',
      'licenses/torch-1/LICENSE',
      'licenses/nvidia_cublas-1/License.txt',
      'jit-flux-setup.json',
    ])
      expect(files).toContain(file);
    expect(files.filter((file) => /functional\.py|__init__\.py|RECORD/.test(String(file)))).toEqual([]);
    expect([...phases.keys()]).toEqual(['verify', 'unpack']);
    for (const reports of phases.values()) {
      const last = reports.at(-1)!;
      expect(last.done).toBe(last.total);
      expect(last.archives).toBe(3);
      expect(new Set(reports.map(({ total }) => total)).size).toBe(1);
      expect(reports.map(({ done }) => done)).toEqual(reports.map(({ done }) => done).sort((a, b) => a - b));
    }
    expect(phases.get('verify')?.[0]?.total).toBe(size);
    expect(readdirSync(directory)).toHaveLength(3);
    expect(await setup({ from: directory })).toMatchObject({ alreadyPresent: true, path });
  });

  it('names what a directory lacks, and refuses a single file', async () => {
    const { directory, setup, cacheDir } = cudaCache();
    const file = await failureOf(setup({ from: join(directory, 'torch-2.14.1.whl') }));
    expect(file.code).toBe('ERR_JITFLUX_SETUP_FAILED');
    expect(file.message).toContain('is not a directory that holds the 3 archives');
    rmSync(join(directory, 'nvidia_cublas-13.whl'));
    const error = await failureOf(setup({ from: directory }));
    expect(error.message).toContain('lacks 1 of the 3 archives of LibTorch 2.14.1 (cu130)');
    expect(error.message).toContain('nvidia_cublas-13.whl from http://127.0.0.1:9/nvidia_cublas-13.whl');
    expect(error.details?.missing).toEqual(['nvidia_cublas-13.whl']);
    expect(leftovers(cacheDir)).toEqual([]);
  });

  it('takes a directory for one archive as well', async () => {
    const { root, setup } = freshCache();
    writeFile(join(root, 'folder/torch-2.13.0.whl'), wheel);
    expect(await setup({ from: join(root, 'folder') })).toMatchObject({ alreadyPresent: false });
  });

  it('keeps what it has downloaded for the next attempt', async () => {
    const { setup, cacheDir } = cudaCache();
    const asked: string[] = [];
    let offline = true;
    const mirror = await serve((request, response) => {
      const name = request.url!.slice(1) as keyof typeof wheels;
      asked.push(name);
      if (offline && name.startsWith('nvidia_cudart')) response.writeHead(503).end();
      else response.end(wheels[name]);
    });
    const env = { JIT_FLUX_LIBTORCH_MIRROR: mirror };
    const error = await failureOf(setup({ env }));
    expect(error.message).toContain('Tried for nvidia_cudart-13.whl');
    expect(error.message).toContain('npx jit-flux setup --variant cu130 --from <directory>');
    expect(readdirSync(join(cacheDir, 'downloads'))).toHaveLength(2);
    asked.length = 0;
    offline = false;
    const downloads: SetupProgress[] = [];
    await setup({ env, onProgress: (p) => void (p.phase === 'download' && downloads.push(p)) });
    expect(asked).toEqual(['nvidia_cudart-13.whl']);
    expect(downloads.at(-1)).toMatchObject({ done: size, total: size, archives: 3 });
    expect(readdirSync(join(cacheDir, 'downloads'))).toEqual([]);
  });

  it('fetches again what was kept and is damaged', async () => {
    const { setup, cacheDir } = cudaCache();
    const [torch] = cudaManifest.variants.cu130!.archives;
    const kept = `${torch!.sha256.slice(0, 16)}-${torch!.file}.part`;
    writeFile(join(cacheDir, 'downloads', kept), Buffer.alloc(torch!.size));
    const mirror = await serve((request, response) =>
      response.end(wheels[request.url!.slice(1) as keyof typeof wheels]),
    );
    expect(await setup({ env: { JIT_FLUX_LIBTORCH_MIRROR: mirror } })).toMatchObject({
      alreadyPresent: false,
    });
  });

  it('leaves the files of a local mirror where they are', async () => {
    const { setup, directory } = cudaCache();
    await setup({ env: { JIT_FLUX_LIBTORCH_MIRROR: directory } });
    expect(readdirSync(directory)).toHaveLength(3);
  });

  it('says before downloading that there is not enough space', async () => {
    const { setup, directory, cacheDir } = cudaCache();
    const large = structuredClone(cudaManifest);
    large.variants.cu130!.unpackedSize = 1e18;
    const error = await failureOf(setup({ manifest: large, from: directory }));
    expect(error.code).toBe('ERR_JITFLUX_SETUP_FAILED');
    expect(error.message).toContain('needs 1000000000.0 GB in');
    expect(error.message).toContain('--cache-dir');
    expect(leftovers(cacheDir)).toEqual([]);
  });

  it('replaces an installation without CUDA that is in the place', async () => {
    const { setup, directory, variantDirectory } = cudaCache();
    await setup({ from: directory });
    rmSync(join(variantDirectory, 'torch/lib/libtorch_cuda.so'));
    expect(await setup({ from: directory })).toMatchObject({ alreadyPresent: false });
    expect(existsSync(join(variantDirectory, 'torch/lib/libtorch_cuda.so'))).toBe(true);
  });
});

describe('the lock', () => {
  it('lets one of several callers work and the others wait', async () => {
    const { from, setup } = freshCache();
    const results = await Promise.all([setup({ from }), setup({ from }), setup({ from })]);
    expect(results.filter(({ alreadyPresent }) => !alreadyPresent)).toHaveLength(1);
  });

  it('waits for a living process, and takes over from a dead one', async () => {
    const { from, setup, target, cacheDir } = freshCache();
    const child = spawn('sleep', ['60']);
    const exited = new Promise((resolve) => child.once('exit', resolve));
    const lock = writeFile(`${target}.lock`, JSON.stringify({ pid: child.pid, host: hostname() }));
    writeFile(join(cacheDir, 'libtorch', '.tmp-2.13.0-cpu-dead', 'half'), 'x');
    let waited = 0;
    const result = await setup({
      from,
      onProgress: ({ phase, source }) => {
        if (phase !== 'wait') return;
        expect(source).toBe(lock);
        waited++;
        child.kill('SIGKILL');
      },
    });
    await exited;
    expect(waited).toBeGreaterThan(0);
    expect(result.alreadyPresent).toBe(false);
    expect(leftovers(cacheDir)).toEqual(['2.13.0-cpu']);
  });

  it('does not take a reused process id for the owner', async () => {
    const { from, setup, target } = freshCache();
    writeFile(`${target}.lock`, JSON.stringify({ pid: process.pid, host: hostname(), started: '1' }));
    expect(await setup({ from })).toMatchObject({ alreadyPresent: false });
  });

  it('can be given up on while waiting', async () => {
    const { from, setup, target } = freshCache();
    const lock = writeFile(`${target}.lock`, JSON.stringify({ pid: process.pid, host: 'another-host' }));
    const error = await failureOf(setup({ from, signal: AbortSignal.timeout(50) }));
    expect(error.code).toBe('ERR_JITFLUX_ABORTED');
    expect(existsSync(lock)).toBe(true);
  });
});

describe('setupLibTorch from elsewhere', () => {
  it('names every source and the remedy when all fail', async () => {
    const { setup, cacheDir } = freshCache();
    const error = await failureOf(setup());
    expect(error.code).toBe('ERR_JITFLUX_SETUP_FAILED');
    expect(error.message).toContain('http://127.0.0.1:9/torch-2.13.0.whl: connect ECONNREFUSED');
    expect(error.message).toContain('npx jit-flux setup --from <file>');
    expect(error.message).toContain('JIT_FLUX_LIBTORCH_MIRROR');
    expect(leftovers(cacheDir)).toEqual([]);
  });

  it('resumes a partial download, follows redirects, and prefers the mirror', async () => {
    const { setup, cacheDir } = freshCache();
    const ranges: (string | undefined)[] = [];
    const mirror = await serve((request, response) => {
      if (request.url === '/m/torch-2.13.0.whl') {
        response.writeHead(302, { location: '/real' }).end();
        return;
      }
      ranges.push(request.headers.range);
      const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
      if (ranges.length === 1) {
        response.writeHead(200, { 'content-length': wheel.length });
        response.write(wheel.subarray(0, 1 << 20));
        // Breaks off as soon as a part of it lies on disk.
        const downloads = join(cacheDir, 'downloads');
        const watcher = watch(downloads, () => {
          if (!readdirSync(downloads).some((name) => statSync(join(downloads, name)).size > 0)) return;
          watcher.close();
          response.destroy();
        });
        return;
      }
      response.writeHead(206, { 'content-range': `bytes ${start}-${wheel.length - 1}/${wheel.length}` });
      response.end(wheel.subarray(start));
    });
    const env = { JIT_FLUX_LIBTORCH_MIRROR: `${mirror}/m/` };
    expect((await failureOf(setup({ env }))).code).toBe('ERR_JITFLUX_SETUP_FAILED');
    const result = await setup({ env });
    expect(result.alreadyPresent).toBe(false);
    expect(ranges[0]).toBeUndefined();
    expect(ranges[1]).toMatch(/^bytes=[1-9]\d*-$/);
    expect(ranges).toHaveLength(2);
    expect(readdirSync(join(cacheDir, 'downloads'))).toEqual([]);
  });

  it('goes on to the next source when one delivers other bytes', async () => {
    const { root, setup, target } = freshCache();
    const other = Buffer.from(wheel);
    other[100]! ^= 1;
    const url = await serve((_, response) => response.end(wheel));
    writeFile(join(root, 'mirror/torch-2.13.0.whl'), other);
    const env = { JIT_FLUX_LIBTORCH_MIRROR: join(root, 'mirror') };
    await setup({ env, manifest: makeManifest(wheel, { url: `${url}/torch.whl` }) });
    const record = JSON.parse(readFileSync(join(target, 'jit-flux-setup.json'), 'utf8')) as {
      archives: { source: string }[];
    };
    expect(record.archives[0]?.source).toBe(`${url}/torch.whl`);
  });

  it('refuses HTTP errors and answers that are too long', async () => {
    const { setup } = freshCache();
    const url = await serve((request, response) => {
      if (request.url === '/404') response.writeHead(404).end();
      else response.end(Buffer.concat([wheel, wheel]));
    });
    const at = (path: string) => ({ manifest: makeManifest(wheel, { url: url + path }) });
    expect((await failureOf(setup(at('/404')))).message).toContain('HTTP 404 Not Found');
    expect((await failureOf(setup(at('/long')))).message).toContain('more than the expected');
  });

  it('goes through the proxy of the environment', async () => {
    const { setup } = freshCache();
    const seen: (string | undefined)[] = [];
    const proxy = await serve((request, response) => {
      seen.push(request.url, request.headers['proxy-authorization']);
      response.end(wheel);
    });
    const url = 'http://archive.invalid/torch.whl';
    const env = { http_proxy: proxy.replace('//', '//user:p%40ss@') };
    await setup({ env, manifest: makeManifest(wheel, { url }) });
    expect(seen).toEqual([url, `Basic ${Buffer.from('user:p@ss').toString('base64')}`]);
  });

  it('goes through a tunnel of the proxy to HTTPS, and checks the certificate behind it', async () => {
    const { setup } = freshCache();
    const server = createHttpsServer({ key: KEY, cert: CERTIFICATE }, (_, response) => response.end(wheel));
    const proxy = createServer();
    onTestFinished(() => {
      server.close();
      proxy.close();
    });
    for (const each of [server, proxy])
      await new Promise<void>((resolve) => each.listen(0, '127.0.0.1', resolve));
    const portOf = (each: typeof proxy | typeof server) => (each.address() as AddressInfo).port;
    const seen: (string | undefined)[] = [];
    proxy.on('connect', (request: IncomingMessage, client: Duplex) => {
      seen.push(request.url, request.headers['proxy-authorization']);
      const upstream = connect(portOf(server), '127.0.0.1', () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        upstream.pipe(client).pipe(upstream);
      });
      upstream.on('error', () => client.destroy());
      client.on('error', () => upstream.destroy());
    });
    const options = {
      env: { PATH: process.env.PATH, HTTPS_PROXY: `http://user:secret@127.0.0.1:${portOf(proxy)}` },
      manifest: makeManifest(wheel, { url: `https://${HOST}/torch.whl` }),
    };
    // Nothing resolves this name: only the proxy knows the way.
    expect((await failureOf(setup(options))).message).toContain('self-signed certificate');
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
    onTestFinished(() => void vi.unstubAllEnvs());
    expect(await setup(options)).toMatchObject({ alreadyPresent: false });
    expect(seen.slice(-2)).toEqual([`${HOST}:443`, `Basic ${Buffer.from('user:secret').toString('base64')}`]);
  });

  it('uses pip when the URL cannot be reached', async () => {
    const { root, setup, target } = freshCache();
    // A stand-in for Python that does what `pip download --dest` does and records its arguments.
    const python = writeFile(
      join(root, 'python'),
      `#!/bin/sh\nprintf '%s\\n' "$@" > ${root}/args\n` +
        `while [ "$1" != --dest ]; do shift; done\ncp ${root}/given.whl "$2/torch.whl"\n`,
    );
    chmodSync(python, 0o755);
    const pinned = structuredClone(manifest);
    pinned.variants.cpu!.archives[0]!.pip = {
      requirements: ['torch==2.13.0+cpu'],
      pythonVersion: '3.11',
      implementation: 'cp',
      abi: 'cp311',
      platform: 'manylinux_2_28_x86_64',
    };
    const env = { PATH: process.env.PATH, JIT_FLUX_PYTHON: python };
    expect(await setup({ env, manifest: pinned })).toMatchObject({ alreadyPresent: false });
    const args = readFileSync(join(root, 'args'), 'utf8').split('\n');
    for (const expected of ['--no-deps', '--require-hashes', '--only-binary=:all:', '3.11', 'cp311'])
      expect(args).toContain(expected);
    expect(readFileSync(join(target, 'jit-flux-setup.json'), 'utf8')).toContain('pip download');
  });
});

describe('proxyFor', () => {
  const https = new URL('https://download.example.org/x');
  it.each([
    [{}, undefined],
    [{ HTTPS_PROXY: 'http://p:3128' }, 'http://p:3128/'],
    [{ https_proxy: 'p:3128', HTTPS_PROXY: 'http://q' }, 'http://p:3128/'],
    [{ https_proxy: '', HTTPS_PROXY: 'http://q' }, 'http://q/'],
    [{ HTTPS_PROXY: 'http://p', no_proxy: '', NO_PROXY: '*' }, undefined],
    [{ HTTP_PROXY: 'http://p:3128' }, undefined],
    [{ ALL_PROXY: 'http://p:3128' }, 'http://p:3128/'],
    [{ HTTPS_PROXY: 'http://p', NO_PROXY: 'example.org' }, undefined],
    [{ HTTPS_PROXY: 'http://p', NO_PROXY: 'a.org, .example.org' }, undefined],
    [{ HTTPS_PROXY: 'http://p', NO_PROXY: '*.example.org:443' }, undefined],
    [{ HTTPS_PROXY: 'http://p', NO_PROXY: 'example.org:80' }, 'http://p/'],
    [{ HTTPS_PROXY: 'http://p', NO_PROXY: 'ample.org' }, 'http://p/'],
    [{ HTTPS_PROXY: 'http://p', no_proxy: '*' }, undefined],
  ])('%o gives %s', (env, expected) => {
    expect(proxyFor(https, env)?.href).toBe(expected);
  });
});
