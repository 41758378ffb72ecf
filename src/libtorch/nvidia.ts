/** Whether this machine has an NVIDIA device. Files alone are looked at: opening the driver would take its time. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const DRIVER_LIBRARY = 'libcuda.so.1';
/** Where containers, WSL and distributions put the driver, besides what the dynamic linker's cache lists. */
const DRIVER_DIRECTORIES = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib64',
  '/usr/lib',
  '/usr/local/nvidia/lib64',
  '/usr/local/cuda/compat',
  '/usr/lib/wsl/lib',
  '/run/opengl-driver/lib',
];

/** The oldest driver for CUDA 13, by its major version. */
export const CUDA_DRIVER = 580;

/** Major version of the kernel driver; undefined if it does not say, as in WSL. */
export function nvidiaDriver(root = '/'): number | undefined {
  try {
    const text = readFileSync(join(root, 'proc/driver/nvidia/version'), 'utf8');
    const version = /Kernel Module.*?\s(\d+)\.\d+/.exec(text)?.[1];
    return version === undefined ? undefined : Number(version);
  } catch {
    return undefined;
  }
}

/** A device and its driver library are there. @param root of the file system, for tests */
export function hasNvidiaDevice(env: NodeJS.ProcessEnv = process.env, root = '/'): boolean {
  return hasDeviceNode(root) && hasDriverLibrary(env, root);
}

function hasDeviceNode(root: string): boolean {
  // A container may have been given any of the devices, so not only the first counts. /dev/dxg is WSL's.
  if (entriesOf(join(root, 'dev')).some((name) => /^nvidia\d+$/.test(name))) return true;
  return entriesOf(join(root, 'proc/driver/nvidia/gpus')).length > 0 || existsSync(join(root, 'dev/dxg'));
}

function hasDriverLibrary(env: NodeJS.ProcessEnv, root: string): boolean {
  const own = (env.LD_LIBRARY_PATH ?? '').split(':').filter(Boolean);
  const directories = [...own, ...DRIVER_DIRECTORIES.map((directory) => join(root, directory))];
  if (directories.some((directory) => existsSync(join(directory, DRIVER_LIBRARY)))) return true;
  try {
    return readFileSync(join(root, 'etc/ld.so.cache')).includes(DRIVER_LIBRARY);
  } catch {
    return false;
  }
}

function entriesOf(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}
