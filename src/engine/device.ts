import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import type { DeviceInfo } from './binding.js';
import { callNative, runNative } from './call.js';
import { loadedNative } from './load.js';
import type { Device } from '../types.js';

export type { DeviceInfo } from './binding.js';

/** Index of a device's accelerator, or -1 for the CPU, as native code takes it. */
const CPU = -1;

/**
 * Index of a device, whether it is there or not; without LibTorch.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT if it is none
 */
export function parseDevice(device: Device | undefined): number {
  if (device === undefined || device === 'cpu') return CPU;
  const match = typeof device === 'string' ? /^cuda(?::(\d{1,3}))?$/.exec(device) : null;
  if (match === null) throw invalidArgument('device', "'cpu', 'cuda' or 'cuda:<index>'", device);
  return Number(match[1] ?? 0);
}

/**
 * Checks a device.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT if it is none, ERR_JITFLUX_DEVICE_UNAVAILABLE if this process has none such
 */
export function deviceIndex(device: Device | undefined): number {
  const index = parseDevice(device);
  if (index === CPU) return CPU;
  const count = callNative((binding) => binding.deviceCount());
  if (index < count) return index;
  const available = ['cpu', ...Array.from({ length: count }, (_, i) => `cuda:${i}`)];
  throw new JitFluxError(
    ERROR_CODES.DEVICE_UNAVAILABLE,
    `Device "${device}" is not available: ${count > 0 ? `there are ${available.join(', ')}` : whyNoAccelerator()}`,
    { device, available },
  );
}

/** Whether a device is an accelerator; does not look whether it is there. */
export function isAccelerator(device: Device | undefined): boolean {
  return device !== undefined && device !== 'cpu';
}

function whyNoAccelerator(): string {
  const reason = callNative((binding) => binding.deviceUnavailableReason());
  if (reason !== undefined) return reason;
  const native = loadedNative();
  return native?.cudaError?.message ?? 'this build of jit-flux runs on the CPU only (docs/cuda.md)';
}

/** The GPUs of this process, with their memory as it is now. Empty without the CUDA build or without a GPU. */
export async function devices(): Promise<DeviceInfo[]> {
  const count = callNative((binding) => binding.deviceCount());
  const found: DeviceInfo[] = [];
  for (let i = 0; i < count; i++) found.push(await deviceInfo(`cuda:${i}`));
  return found;
}

/**
 * One GPU, with its memory as it is now. Starts it, if nothing has yet.
 * @throws ERR_JITFLUX_DEVICE_UNAVAILABLE; ERR_JITFLUX_INVALID_ARGUMENT for the CPU
 */
export async function deviceInfo(device: Device): Promise<DeviceInfo> {
  const index = deviceIndex(device);
  if (index === CPU) throw invalidArgument('device', "'cuda' or 'cuda:<index>'", device);
  return runNative((binding, job) => binding.deviceInfo(index, job));
}

/** Lets `peakAllocatedBytes` of {@link devices} count from now on. */
export function resetPeakMemory(device: Device): void {
  const index = deviceIndex(device);
  callNative((binding) => binding.resetPeakMemory(index));
}
