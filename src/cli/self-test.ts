/** What `doctor` runs in a child process: loads everything, makes a tiny picture, prints one JSON document. */
import { JitFluxError } from '../errors.js';

/** A device as the native core reports it. */
export interface CudaDevice {
  index: number;
  name: string;
  totalBytes: number;
  freeBytes: number;
  computeCapability: string;
}

/** What came of the CUDA library. */
export interface CudaReport {
  /** Why it could not be opened, or the devices not be listed. */
  error?: string;
  devices?: CudaDevice[];
}

/** What the child process prints. */
export type SelfTestReport =
  | {
      ok: true;
      loadMilliseconds: number;
      milliseconds: number;
      /** Only where the CUDA library was to be opened. */
      cuda?: CudaReport;
    }
  | { ok: false; code: string; message: string };

async function selfTest(): Promise<SelfTestReport> {
  const started = performance.now();
  const { BUNDLED_MODEL, FluxPipeline } = await import('../pipeline/index.js');
  await using pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  const loaded = performance.now();
  const { images } = await pipeline.generate({
    prompt: 'a red circle on a white background',
    width: 64,
    height: 64,
    steps: 4,
    seed: 0,
  });
  const pixels = images[0]?.data ?? new Uint8Array();
  if (new Set(pixels).size < 2) throw new Error('The picture of the self-test is empty');
  const milliseconds = performance.now() - loaded;
  const cuda = await cudaReport();
  return { ok: true, loadMilliseconds: loaded - started, milliseconds, ...(cuda && { cuda }) };
}

async function cudaReport(): Promise<CudaReport | undefined> {
  const { loadNative, loadedNative } = await import('../native/load.js');
  const native = loadedNative();
  if (native?.libraries.cuda === undefined || !native.libtorch.cuda) return undefined;
  if (native.cudaError) return { error: native.cudaError.message };
  try {
    // TODO(merge): not optional any more once both are part of the engine's interface; then without the casts.
    const runtime = (await import('../runtime/index.js')) as { devices?: () => Promise<CudaDevice[]> };
    const binding = loadNative<{ deviceUnavailableReason?: () => string | undefined }>();
    const devices = await runtime.devices?.();
    if (devices === undefined) return {};
    const reason = devices.length === 0 ? binding.deviceUnavailableReason?.() : undefined;
    return { devices, ...(reason !== undefined && { error: reason }) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

let report: SelfTestReport;
try {
  report = await selfTest();
} catch (error) {
  const code = error instanceof JitFluxError ? error.code : 'ERR_UNEXPECTED';
  report = { ok: false, code, message: error instanceof Error ? error.message : String(error) };
}
process.stdout.write(`${JSON.stringify(report)}\n`);
if (!report.ok) process.exitCode = 1;
