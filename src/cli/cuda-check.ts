/** `doctor`'s check of CUDA: what is there, and what is missing. */
import { formatBytes } from './format.js';
import { CUDA_DRIVER } from '../libtorch/nvidia.js';
import type { CudaReport } from './self-test.js';

const DRIVER_REMEDY =
  `Look at \`nvidia-smi\`: the driver may be older than ${CUDA_DRIVER}, which CUDA 13 needs, or CUDA_VISIBLE_DEVICES ` +
  'hide the device.';

/** Result of one check. */
export interface Check {
  name: string;
  status: 'ok' | 'warning' | 'failed' | 'skipped';
  detail: string;
  /** What to do about it. */
  remedy?: string;
  /** Further facts, for `--json`. */
  facts?: Record<string, unknown>;
}

/** What {@link checkCuda} judges. */
export interface CudaFacts {
  /** libjit_flux_cuda.so, chosen or not; undefined if it is not built. */
  library?: string | undefined;
  /** An NVIDIA device and its driver are there. */
  hasDevice: boolean;
  /** The build that is loaded has the CUDA library. */
  isChosen: boolean;
  /** The LibTorch for it; one without CUDA if there is no better one. */
  libtorch?: { path: string; cuda: boolean } | undefined;
  /** The command that installs a LibTorch with CUDA. */
  setupCommand: string;
  /** What the self-test has found out. */
  report?: CudaReport | undefined;
}

/** The facts about this machine and installation. */
export async function cudaFacts(report: CudaReport | undefined): Promise<CudaFacts> {
  const [{ findCudaLibraries, findLibTorchFor, locateNativeLibraries }, { hasNvidiaDevice }, libtorchModule] =
    await Promise.all([
      import('../libtorch/native-libraries.js'),
      import('../libtorch/nvidia.js'),
      import('../libtorch/libtorch.js'),
    ]);
  const attempt = <T>(action: () => T): T | undefined => {
    try {
      return action();
    } catch {
      return undefined; // the checks of the libraries and of LibTorch say why
    }
  };
  const chosen = attempt(() => locateNativeLibraries());
  const built = chosen?.cuda === undefined ? findCudaLibraries() : chosen;
  const variant = libtorchModule.cudaVariant()?.[0] ?? 'cu130';
  return {
    library: built?.cuda,
    hasDevice: hasNvidiaDevice(),
    isChosen: chosen?.cuda !== undefined,
    libtorch: built && attempt(() => findLibTorchFor(built)),
    setupCommand: `${libtorchModule.SETUP_COMMAND} --variant ${variant}`,
    report,
  };
}

/** One line about CUDA. A machine without it is in order: everything runs on the CPU as well. */
export function checkCuda(facts: CudaFacts): Check {
  const { library, hasDevice, isChosen, libtorch, setupCommand, report } = facts;
  const check = (status: Check['status'], detail: string, remedy?: string): Check => ({
    name: 'CUDA',
    status,
    detail,
    ...(remedy !== undefined && { remedy }),
    facts: { ...facts },
  });
  if (library === undefined) {
    const remedy = `For NVIDIA devices run \`${setupCommand}\` and, in a source checkout, \`npm run build:cuda\`.`;
    return check('skipped', 'CUDA library not built', remedy);
  }
  if (!hasDevice) return check('ok', 'CUDA library built, no device');
  if (libtorch === undefined)
    return check(
      'warning',
      'CUDA library built, but there is no LibTorch for it',
      `Run \`${setupCommand}\`.`,
    );
  if (!libtorch.cuda) {
    const remedy = `Run \`${setupCommand}\`, and remove JIT_FLUX_LIBTORCH if it is set.`;
    return check('warning', `CUDA library built, but LibTorch ${libtorch.path} has no CUDA`, remedy);
  }
  if (!isChosen)
    return check(
      'warning',
      'CUDA library built, but not in use',
      'Unset JIT_FLUX_VARIANT and JIT_FLUX_BUILD_DIR.',
    );
  if (report?.error !== undefined)
    return check('warning', `CUDA library built, but unusable: ${report.error}`, DRIVER_REMEDY);
  if (report?.devices === undefined) return check('ok', 'CUDA library built, device present, not tested');
  if (report.devices.length === 0) {
    return check('warning', 'CUDA library built, but CUDA reports no device', DRIVER_REMEDY);
  }
  const lines = report.devices.map(
    ({ index, name, totalBytes, freeBytes, computeCapability }) =>
      `${index}: ${name}, ${formatBytes(totalBytes)} (${formatBytes(freeBytes)} free), ` +
      `compute capability ${computeCapability}`,
  );
  return check('ok', lines.join('\n'));
}
