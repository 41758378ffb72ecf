/** Errors of values that a flag does not take. */
import type { JitFluxError } from '../errors.js';

/** Stands in the place of a value until the parser is done with it: of what is thrown there it keeps the message only. */
class Refused {
  constructor(readonly error: JitFluxError) {}
}

/** For the return of a `coerce`, whatever its type. */
export function refuse(error: JitFluxError): never {
  return new Refused(error) as never;
}

/** Throws the first error that stands in place of a value. For a middleware after those that coerce. */
export function throwRefused(args: Record<string, unknown>): void {
  for (const value of Object.values(args)) if (value instanceof Refused) throw value.error;
}
