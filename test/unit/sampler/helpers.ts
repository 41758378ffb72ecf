import { expect } from 'vitest';
import { JitFluxError, type JitFluxErrorCode } from '../../../src/sampler/index.js';
import type { VelocityModel } from '../../../src/types.js';
import { ArrayTensor } from '../../support/reference-operators.js';

/** Expects a JitFluxError with this code whose message matches, and returns it. */
export function expectError(run: () => unknown, code: JitFluxErrorCode, message?: RegExp): JitFluxError {
  let caught: unknown;
  try {
    run();
  } catch (error) {
    caught = error;
  }
  return checkError(caught, code, message);
}

/** The same for a promise. */
export async function expectRejection(
  promise: Promise<unknown>,
  code: JitFluxErrorCode,
  message?: RegExp,
): Promise<JitFluxError> {
  const caught: unknown = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  return checkError(caught, code, message);
}

function checkError(caught: unknown, code: JitFluxErrorCode, message?: RegExp): JitFluxError {
  expect(caught).toBeInstanceOf(JitFluxError);
  const error = caught as JitFluxError;
  expect(error.code).toBe(code);
  if (message !== undefined) expect(error.message).toMatch(message);
  return error;
}

/** What a model was asked. */
export interface Call {
  step: number;
  sigma: number;
  anchors: Int32Array | undefined;
  shape: readonly number[];
}

/**
 * A smooth, content-dependent velocity that treats every image and token alike: a function of the token's value and
 * its position. Records its calls.
 */
export class WaveModel implements VelocityModel<ArrayTensor> {
  readonly calls: Call[] = [];

  async velocity(i: Parameters<VelocityModel<ArrayTensor>['velocity']>[0]): Promise<ArrayTensor> {
    const [batch, count, channels] = i.tokens.shape as [number, number, number];
    this.calls.push({
      step: i.step,
      sigma: i.sigma,
      anchors: i.anchors?.slice(),
      shape: i.tokens.shape,
    });
    const perImage = i.anchors !== undefined && i.anchors.length === batch * count && batch > 1;
    const result = ArrayTensor.zeros([batch, count, channels]);
    for (let b = 0; b < batch; b++) {
      for (let m = 0; m < count; m++) {
        const token = i.anchors === undefined ? m : i.anchors[perImage ? b * count + m : m]!;
        const row = Math.trunc(token / i.grid[1]);
        const col = token % i.grid[1];
        for (let c = 0; c < channels; c++) {
          const at = (b * count + m) * channels + c;
          const x = i.tokens.data[at]!;
          result.data[at] =
            0.7 * x + Math.sin(row * 0.9 + c) * Math.cos(col * 0.7 - c) + 0.2 * x * x * i.sigma;
        }
      }
    }
    return result;
  }
}

/** The values of an async iterable. */
export async function toArray<V>(iterable: AsyncIterable<V>): Promise<V[]> {
  const values: V[] = [];
  for await (const value of iterable) values.push(value);
  return values;
}

/** Image b of a [B, ...] tensor. */
export function imageOf(tensor: ArrayTensor, image: number): ArrayTensor {
  const [batch, ...rest] = tensor.shape as [number, ...number[]];
  const size = tensor.data.length / batch;
  return new ArrayTensor(tensor.data.slice(image * size, (image + 1) * size), [1, ...rest]);
}
