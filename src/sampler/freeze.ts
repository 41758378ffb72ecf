/** Makes plain data immutable, whatever is in it too. Returns it. */
export function deepFreeze<V extends object>(value: V): V {
  for (const part of Object.values(value)) {
    if (typeof part === 'object' && part !== null && !Object.isFrozen(part)) deepFreeze(part as object);
  }
  return Object.freeze(value);
}
