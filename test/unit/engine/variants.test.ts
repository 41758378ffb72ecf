import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { JitFluxError } from '../../../src/errors.js';
import { readManifest, type LibTorch } from '../../../src/libtorch/libtorch.js';
import {
  findCudaLibraries,
  findLibTorchFor,
  locateNativeLibraries,
} from '../../../src/libtorch/native-libraries.js';
import { openCuda } from '../../../src/engine/load.js';
import { hasNvidiaDevice, nvidiaDriver } from '../../../src/libtorch/nvidia.js';
import { chooseVariant } from '../../../src/libtorch/variant.js';
import {
  CUDA_LIBRARY_NAMES,
  temporaryDirectory,
  writeFakeLibTorch,
  writeFile,
} from '../../support/fake-libtorch.js';

function errorOf(action: () => unknown): JitFluxError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(JitFluxError);
    return error as JitFluxError;
  }
  throw new Error('expected an error');
}

/** A package directory with the given builds, on a machine with or without a device. */
function machine({ hasDevice = false } = {}) {
  const root = temporaryDirectory();
  const env: NodeJS.ProcessEnv = { HOME: join(root, 'home'), JIT_FLUX_PYTHON: join(root, 'no-python') };
  const build = (directory: string, libtorch: string, loader = 'jit_flux.node', cuda = false) => {
    const names = [
      loader,
      'libjit_flux_weights.so',
      'libjit_flux_core.so',
      ...(cuda ? ['libjit_flux_cuda.so'] : []),
    ];
    for (const name of names) writeFile(join(root, directory, name), '');
    if (libtorch !== '')
      writeFile(join(root, directory, 'jit_flux.build.json'), JSON.stringify({ libtorch, cuda }));
    return join(root, directory);
  };
  const cached = join(root, 'home/.cache/jit-flux/libtorch/2.14.1-cu130/torch');
  const options = { env, root, hasDevice: () => hasDevice };
  const chosen = () => locateNativeLibraries(options).core;
  return {
    root,
    env,
    options,
    chosen,
    cpu: () => join(build('build/Release', '2.13.0+cpu'), 'libjit_flux_core.so'),
    cuda: () => join(build('build/Cuda', '2.14.1+cu130', 'jit_flux.node', true), 'libjit_flux_core.so'),
    build,
    cudaLibTorch: () => writeFakeLibTorch(cached, '2.14.1+cu130', CUDA_LIBRARY_NAMES),
  };
}

describe('locateNativeLibraries', () => {
  it('follows JIT_FLUX_BUILD_DIR and reads what the libraries were built for', () => {
    const directory = temporaryDirectory();
    const env = { JIT_FLUX_BUILD_DIR: directory };
    const error = errorOf(() => locateNativeLibraries({ env }));
    expect(error.code).toBe('ERR_JITFLUX_NATIVE_LOAD');
    expect(error.message).toContain(directory);
    expect(error.message).toContain('npm run build:native');
    writeFile(join(directory, 'jit_flux.node'), '');
    writeFile(join(directory, 'libjit_flux_core.so'), '');
    expect(() => locateNativeLibraries({ env })).toThrow(/are missing/);
    const weights = writeFile(join(directory, 'libjit_flux_weights.so'), '');
    const { version, variants } = readManifest();
    expect(locateNativeLibraries({ env })).toEqual({
      loader: join(directory, 'jit_flux.node'),
      weights,
      core: join(directory, 'libjit_flux_core.so'),
      builtFor: version,
    });
    const cuda = writeFile(join(directory, 'libjit_flux_cuda.so'), '');
    expect(locateNativeLibraries({ env })).toMatchObject({ cuda, builtFor: variants.cu130?.version });
    writeFile(join(directory, 'jit_flux.build.json'), '{ "libtorch": "2.12.0+cpu" }');
    expect(locateNativeLibraries({ env })).toMatchObject({ builtFor: '2.12.0+cpu' });
  });

  it('insists on the CUDA library in JIT_FLUX_BUILD_DIR where CUDA is asked for', () => {
    const { root, env, options, cpu } = machine();
    cpu();
    env.JIT_FLUX_BUILD_DIR = join(root, 'build/Release');
    env.JIT_FLUX_VARIANT = 'cuda';
    expect(errorOf(() => locateNativeLibraries(options)).message).toContain('npm run build:cuda');
  });

  it('takes the CUDA build where there are a device and a LibTorch for it', () => {
    const { chosen, cpu, cuda, cudaLibTorch } = machine({ hasDevice: true });
    const core = cpu();
    const cudaCore = cuda();
    expect(chosen()).toBe(core);
    cudaLibTorch();
    expect(chosen()).toBe(cudaCore);
  });

  it('takes the CPU build where there is no device', () => {
    const { chosen, cpu, cuda, cudaLibTorch, options } = machine();
    const core = cpu();
    const cudaCore = cuda();
    cudaLibTorch();
    expect(chosen()).toBe(core);
    expect(findCudaLibraries(options)?.core).toBe(cudaCore);
  });

  it('takes the CUDA build for the CPU where there is no other', () => {
    const { chosen, cuda } = machine();
    const cudaCore = cuda();
    expect(chosen()).toBe(cudaCore);
  });

  it('counts a CUDA build without its library as none', () => {
    const { root, chosen, cpu, cuda, cudaLibTorch, options } = machine({ hasDevice: true });
    const core = cpu();
    cuda();
    cudaLibTorch();
    rmSync(join(root, 'build/Cuda/libjit_flux_cuda.so'));
    expect(chosen()).toBe(core);
    expect(findCudaLibraries(options)).toBeUndefined();
  });

  it('asks whether the LibTorch that is named fits the CUDA build', () => {
    const { root, options, cpu, cuda, cudaLibTorch } = machine({ hasDevice: true });
    const core = cpu();
    cuda();
    cudaLibTorch();
    const libtorch = writeFakeLibTorch(join(root, 'lt'), '2.13.0');
    expect(locateNativeLibraries({ ...options, libtorch }).core).toBe(core);
  });

  it('follows JIT_FLUX_VARIANT', () => {
    const { env, chosen, cpu, cuda, cudaLibTorch } = machine({ hasDevice: true });
    const core = cpu();
    env.JIT_FLUX_VARIANT = 'cuda';
    const error = errorOf(chosen);
    expect(error.code).toBe('ERR_JITFLUX_NATIVE_LOAD');
    expect(error.message).toContain('build/Cuda');
    expect(error.message).toContain('npm run build:cuda');
    const cudaCore = cuda();
    expect(chosen()).toBe(cudaCore);
    cudaLibTorch();
    env.JIT_FLUX_VARIANT = 'cpu';
    expect(chosen()).toBe(core);
    env.JIT_FLUX_VARIANT = '';
    expect(chosen()).toBe(cudaCore);
    env.JIT_FLUX_VARIANT = 'rocm';
    const unknown = errorOf(chosen);
    expect(unknown.code).toBe('ERR_JITFLUX_INVALID_ARGUMENT');
    expect(unknown.message).toBe(
      `Expected 'cpu' or 'cuda' for "JIT_FLUX_VARIANT" but received "rocm" (string)`,
    );
  });

  it('knows the places of prebuilt libraries', () => {
    const { env, root, options, build } = machine();
    const name = `prebuilds/${process.platform}-${process.arch}-cuda`;
    build(name, '', 'jit-flux.node', true);
    env.JIT_FLUX_VARIANT = 'cuda';
    expect(locateNativeLibraries(options)).toEqual({
      loader: join(root, name, 'jit-flux.node'),
      weights: join(root, name, 'libjit_flux_weights.so'),
      core: join(root, name, 'libjit_flux_core.so'),
      cuda: join(root, name, 'libjit_flux_cuda.so'),
      builtFor: readManifest().variants.cu130?.version,
      prebuilt: true,
    });
  });
});

describe('findLibTorchFor', () => {
  it('prefers a LibTorch with CUDA for a CUDA build, and insists with JIT_FLUX_VARIANT', () => {
    const { root, env, options, cuda, cudaLibTorch } = machine();
    cuda();
    const libraries = locateNativeLibraries(options);
    expect(errorOf(() => findLibTorchFor(libraries, options)).message).toContain('with CUDA');
    env.LIBTORCH = writeFakeLibTorch(join(root, 'cpu'), '2.14.0+cpu');
    expect(findLibTorchFor(libraries, options)).toMatchObject({ path: env.LIBTORCH, cuda: false });
    env.JIT_FLUX_VARIANT = 'cuda';
    expect(errorOf(() => findLibTorchFor(libraries, options)).code).toBe('ERR_JITFLUX_LIBTORCH_NOT_FOUND');
    const path = cudaLibTorch();
    expect(findLibTorchFor(libraries, options)).toMatchObject({ path, cuda: true });
    delete env.JIT_FLUX_VARIANT;
    expect(findLibTorchFor(libraries, options)).toMatchObject({ path, cuda: true });
  });
});

describe('openCuda', () => {
  const libraries = { loader: '/l', weights: '/w', core: '/c', cuda: '/cuda.so', builtFor: '2.14.1' };
  const libtorch: LibTorch = { path: '/t', version: '2.14.1', source: 'cache', cuda: true, libraries: [] };

  it('opens the library where LibTorch has CUDA', () => {
    const opened: string[] = [];
    const core = { openDeviceLibrary: (path: string) => void opened.push(path) };
    expect(openCuda(core, libraries, libtorch)).toBeUndefined();
    expect(openCuda(core, libraries, { ...libtorch, cuda: false })).toBeUndefined();
    expect(
      openCuda(core, { loader: '/l', weights: '/w', core: '/c', builtFor: '2.14.1' }, libtorch),
    ).toBeUndefined();
    expect(opened).toEqual(['/cuda.so']);
  });

  it('keeps the reason where it cannot', () => {
    const error = new Error('no driver');
    const core = {
      openDeviceLibrary: () => {
        throw error;
      },
    };
    expect(openCuda(core, libraries, libtorch)).toBe(error);
  });
});

describe('hasNvidiaDevice', () => {
  const device: Record<string, (root: string) => void> = {
    'the first device': (root) => writeFile(join(root, 'dev/nvidia0'), ''),
    'another device': (root) => writeFile(join(root, 'dev/nvidia5'), ''),
    'the driver’s list': (root) =>
      void mkdirSync(join(root, 'proc/driver/nvidia/gpus/0000'), { recursive: true }),
    WSL: (root) => writeFile(join(root, 'dev/dxg'), ''),
  };
  const driver: Record<string, (root: string) => NodeJS.ProcessEnv> = {
    'the system’s folder': (root) => {
      writeFile(join(root, 'usr/lib/x86_64-linux-gnu/libcuda.so.1'), '');
      return {};
    },
    'the linker’s cache': (root) => {
      writeFile(join(root, 'etc/ld.so.cache'), 'glibc-ld.so.cache\0libcuda.so.1\0/odd/libcuda.so.1\0');
      return {};
    },
    LD_LIBRARY_PATH: (root) => {
      writeFile(join(root, 'own/libcuda.so.1'), '');
      return { LD_LIBRARY_PATH: `/nowhere:${join(root, 'own')}` };
    },
  };

  it.each(Object.keys(device))('knows a device by %s', (name) => {
    const root = temporaryDirectory();
    const env = driver.LD_LIBRARY_PATH!(root);
    expect(hasNvidiaDevice(env, root)).toBe(false);
    device[name]!(root);
    expect(hasNvidiaDevice(env, root)).toBe(true);
  });

  it.each(Object.keys(driver))('finds the driver in %s', (name) => {
    const root = temporaryDirectory();
    device.WSL!(root);
    expect(hasNvidiaDevice({}, root)).toBe(false);
    expect(hasNvidiaDevice(driver[name]!(root), root)).toBe(true);
  });

  it('takes the control nodes of a driver without devices for none', () => {
    const root = temporaryDirectory();
    for (const name of ['nvidiactl', 'nvidia-uvm']) writeFile(join(root, 'dev', name), '');
    expect(hasNvidiaDevice(driver.LD_LIBRARY_PATH!(root), root)).toBe(false);
  });
});

describe('chooseVariant', () => {
  const facts = { hasDevice: true, driver: 580, hasLibrary: true };
  const choose = (changes: Partial<typeof facts> | { driver: undefined }) =>
    chooseVariant(readManifest(), { ...facts, ...changes });

  it('takes CUDA where all is there for it', () => {
    expect(choose({})).toEqual({ variant: 'cu130', reason: 'NVIDIA device found' });
    expect(choose({ driver: undefined }).variant).toBe('cu130');
  });

  it.each([
    [{ hasDevice: false }, 'no NVIDIA device'],
    [{ driver: 570 }, 'driver 570 is older than 580'],
    [{ hasLibrary: false }, 'has no CUDA library'],
  ])('takes the CPU with %j', (changes, reason) => {
    const choice = choose(changes);
    expect(choice.variant).toBe('cpu');
    expect(choice.reason).toContain(reason);
  });

  it('reads the version of the driver', () => {
    const root = temporaryDirectory();
    expect(nvidiaDriver(root)).toBeUndefined();
    const text =
      'NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n' +
      'GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)\n';
    writeFile(join(root, 'proc/driver/nvidia/version'), text);
    expect(nvidiaDriver(root)).toBe(580);
  });
});
