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

export function sameShape(shape: readonly number[] | undefined, expected: readonly number[]): boolean {
  return shape?.length === expected.length && shape.every((size, axis) => size === expected[axis]);
}
