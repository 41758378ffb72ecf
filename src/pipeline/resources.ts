import { deviceIndex, type Tensor } from '../engine/index.js';
import type { Device } from '../types.js';

/** Frees native handles at the end of a block, last one first. */
export class Resources {
  readonly #list: { dispose(): void }[] = [];

  add<T extends { dispose(): void }>(resource: T): T {
    this.#list.push(resource);
    return resource;
  }

  [Symbol.dispose](): void {
    for (const resource of this.#list.splice(0).reverse()) resource.dispose();
  }
}

/** The tensor itself if it is on the device, else a copy there that the resources free. */
export async function onDevice(tensor: Tensor, device: Device, resources: Resources): Promise<Tensor> {
  if (deviceIndex(tensor.device) === deviceIndex(device)) return tensor;
  return resources.add(await tensor.to(device));
}

export function sameShape(shape: readonly number[] | undefined, expected: readonly number[]): boolean {
  return shape?.length === expected.length && shape.every((size, axis) => size === expected[axis]);
}
