/** What `doctor` runs in a child process: loads everything, makes a tiny picture, prints one JSON document. */
import { JitFluxError } from '../errors.js';
import { type DeviceInfo, devices } from '../engine/device.js';

/** What came of the CUDA library. */
export interface CudaReport {
  /** Why it could not be opened, or the devices not be listed. */
  error?: string;
  devices?: DeviceInfo[];
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
  const { loadNative, loadedNative } = await import('../engine/load.js');
  const native = loadedNative();
  if (native?.libraries.cuda === undefined || !native.libtorch.cuda) return undefined;
  if (native.cudaError) return { error: native.cudaError.message };
  try {
    const found = await devices();
    const reason = found.length === 0 ? loadNative().deviceUnavailableReason() : undefined;
    return { devices: found, ...(reason !== undefined && { error: reason }) };
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
