import { jsonFields } from './json.js';

/**
 * Every error that jit-flux raises on purpose is a {@link JitFluxError} with one of these stable codes.
 * docs/errors.md lists cause and remedy of each.
 */
export const ERROR_CODES = {
  /** An argument has the wrong type, is out of range, or contradicts another one. */
  INVALID_ARGUMENT: 'ERR_JITFLUX_INVALID_ARGUMENT',
  /** The preset name is not one of the known presets. */
  UNKNOWN_PRESET: 'ERR_JITFLUX_UNKNOWN_PRESET',
  /** Anchor token indices are out of range, duplicated or of the wrong count. */
  INVALID_ANCHORS: 'ERR_JITFLUX_INVALID_ANCHORS',
  /** A tensor has the wrong shape or dtype for the operation. */
  INVALID_TENSOR: 'ERR_JITFLUX_INVALID_TENSOR',
  /** A handle was used after `dispose()`. */
  DISPOSED: 'ERR_JITFLUX_DISPOSED',
  /** The operation was aborted through its AbortSignal. */
  ABORTED: 'ERR_JITFLUX_ABORTED',
  /** More requests wait for a pipeline than its `maxQueue` allows. */
  QUEUE_FULL: 'ERR_JITFLUX_QUEUE_FULL',
  /** A file or directory does not exist or cannot be read. */
  FILE_NOT_FOUND: 'ERR_JITFLUX_FILE_NOT_FOUND',
  /** The model directory lacks a component, or model_index.json is malformed. */
  INVALID_MODEL: 'ERR_JITFLUX_INVALID_MODEL',
  /** The file is none of the supported weight formats (TorchScript archive, safetensors). */
  UNSUPPORTED_FORMAT: 'ERR_JITFLUX_UNSUPPORTED_FORMAT',
  /** The weight file is damaged: truncated, or its parts contradict each other. */
  CORRUPT_FILE: 'ERR_JITFLUX_CORRUPT_FILE',
  /**
   * The weight file asks for something that the reader never does (unknown globals, deflated records, deep nesting), or
   * another user could have changed a library that nobody has named.
   */
  UNSAFE_FILE: 'ERR_JITFLUX_UNSAFE_FILE',
  /** Parameters are missing, unexpected, of the wrong shape or of the wrong dtype. */
  WEIGHTS_MISMATCH: 'ERR_JITFLUX_WEIGHTS_MISMATCH',
  /** A weight file was truncated or rewritten while it was in use. */
  WEIGHTS_CHANGED: 'ERR_JITFLUX_WEIGHTS_CHANGED',
  /** A TorchScript module whose code would have to run is neither pinned nor explicitly allowed. */
  CODE_NOT_ALLOWED: 'ERR_JITFLUX_CODE_NOT_ALLOWED',
  /** No LibTorch was found in any of the places searched. */
  LIBTORCH_NOT_FOUND: 'ERR_JITFLUX_LIBTORCH_NOT_FOUND',
  /** A LibTorch was found, but of a version or variant this build cannot use. */
  LIBTORCH_VERSION: 'ERR_JITFLUX_LIBTORCH_VERSION',
  /** The native libraries of this package are missing or could not be loaded. */
  NATIVE_LOAD: 'ERR_JITFLUX_NATIVE_LOAD',
  /** A bundler has taken the package's code away from its files, or a file of the package was not copied with it. */
  BUNDLED: 'ERR_JITFLUX_BUNDLED',
  /** Downloading or unpacking LibTorch failed. */
  SETUP_FAILED: 'ERR_JITFLUX_SETUP_FAILED',
  /** The requested device does not exist or is not supported by this build. */
  DEVICE_UNAVAILABLE: 'ERR_JITFLUX_DEVICE_UNAVAILABLE',
  /**
   * Encoded prompts, latents or a picture hold NaN or infinite values: a weight is damaged, or numbers became too large for
   * their type. `details` has `what`, `image` (the first of the batch), and of a sampler `step`, `stage` and `sigma`.
   */
  NOT_FINITE: 'ERR_JITFLUX_NOT_FINITE',
  /** The device or the host ran out of memory. */
  OUT_OF_MEMORY: 'ERR_JITFLUX_OUT_OF_MEMORY',
  /** Writing the output failed. */
  WRITE_FAILED: 'ERR_JITFLUX_WRITE_FAILED',
  /** An unexpected failure inside the native engine. */
  NATIVE: 'ERR_JITFLUX_NATIVE',
} as const;

export type JitFluxErrorCode = (typeof ERROR_CODES)[keyof typeof ERROR_CODES];

/** What a service answers where the request is at fault, or may come again; anything else is 500. */
const STATUS_CODES: Partial<Record<JitFluxErrorCode, number>> = {
  [ERROR_CODES.INVALID_ARGUMENT]: 400,
  [ERROR_CODES.UNKNOWN_PRESET]: 400,
  [ERROR_CODES.INVALID_ANCHORS]: 400,
  [ERROR_CODES.INVALID_TENSOR]: 400,
  [ERROR_CODES.QUEUE_FULL]: 503,
  // A client that has gone does not see it; during a shutdown it comes again.
  [ERROR_CODES.ABORTED]: 503,
  [ERROR_CODES.DISPOSED]: 503,
};

/** The one error class of this package; switch on {@link JitFluxError.code}, never on the message. */
export class JitFluxError extends Error {
  readonly code: JitFluxErrorCode;
  /** Machine-readable facts: the offending value, the accepted range, the parameter names, ... */
  readonly details?: Record<string, unknown>;

  constructor(
    code: JitFluxErrorCode,
    message: string,
    details?: Record<string, unknown>,
    options?: { cause?: unknown },
  ) {
    super(withoutControls(textOf(message)), causeOf(options));
    this.name = 'JitFluxError';
    this.code = code;
    if (details !== undefined) this.details = details;
  }

  /** For logs and answers: without `cause` and stack, which may be anything. */
  toJSON(): { name: string; code: JitFluxErrorCode; message: string; details?: Record<string, unknown> } {
    const { name, code, message, details } = this;
    return { name, code, message, ...(details && { details: jsonFields(details) }) };
  }

  /** The HTTP status for a service whose request this is the outcome of: 400, 503 or 500. */
  get statusCode(): number {
    return STATUS_CODES[this.code] ?? 500;
  }
}

/**
 * Whether something that was thrown is ours. Callers may throw anything, also a Proxy that has been revoked, of which
 * `instanceof` would throw.
 */
export function isJitFluxError(thrown: unknown): thrown is JitFluxError {
  return isError(thrown, JitFluxError);
}

/** `instanceof` that answers for everything. */
export function isError<E extends Error>(
  thrown: unknown,
  type: abstract new (...args: never[]) => E,
): thrown is E {
  try {
    return thrown instanceof type;
  } catch {
    return false;
  }
}

/** Code and system call of an error of the system; nothing for what is none, or cannot be looked at. */
export function systemErrorOf(thrown: unknown): { code?: string; syscall?: string } {
  try {
    const { code, syscall } = thrown as NodeJS.ErrnoException;
    return { ...(typeof code === 'string' && { code }), ...(typeof syscall === 'string' && { syscall }) };
  } catch {
    return {};
  }
}

/**
 * The error for a bad argument, in one wording everywhere:
 * `Expected <what> for "<option>" but received <value> (<type>)`.
 */
export function invalidArgument(
  option: string,
  expected: string,
  received: unknown,
  code: JitFluxErrorCode = ERROR_CODES.INVALID_ARGUMENT,
): JitFluxError {
  const name = textOf(option);
  return new JitFluxError(
    code,
    `Expected ${expected} for "${name}" but received ${describeValue(received)}`,
    {
      option: name,
      expected,
      received: printable(received),
    },
  );
}

// eslint-disable-next-line @typescript-eslint/unbound-method -- a getter, called on what is to be checked
const isAborted = Object.getOwnPropertyDescriptor(AbortSignal.prototype, 'aborted')!.get!;

/**
 * Refuses a `signal` that is none: the one check of signals. What only looks like one need not tell of its abortion, and
 * whoever waits for it would wait for ever.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkSignal(signal: unknown, option = 'signal'): asserts signal is AbortSignal | undefined {
  if (signal === undefined) return;
  try {
    isAborted.call(signal);
  } catch {
    throw invalidArgument(option, 'an AbortSignal', signal);
  }
}

/**
 * What every function that takes a signal calls before it does anything, and again after each wait.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT unless it is a signal or undefined, ERR_JITFLUX_ABORTED, with the signal's reason
 *   as cause, if it has fired
 */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  checkSignal(signal);
  if (signal?.aborted) throw abortedError(signal);
}

export function abortedError(signal?: AbortSignal): JitFluxError {
  return new JitFluxError(ERROR_CODES.ABORTED, 'The operation was aborted', undefined, {
    cause: signal?.reason,
  });
}

/** Longest excerpt of a value in a message. */
const MOST_CHARACTERS = 200;

/** A value in words. Nothing that it does or says can make this fail: it may be what was refused for that very reason. */
export function describeValue(value: unknown): string {
  if (value === undefined || value === null) return String(value);
  if (typeof value === 'string')
    return `${shortened(JSON.stringify(value.slice(0, MOST_CHARACTERS + 1)))} (string)`;
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'object') return describeObject(value);
  if (typeof value === 'symbol') return shortened(value.toString());
  return `${shortened(`${value as number | bigint | boolean}`)} (${typeof value})`;
}

function describeObject(value: object): string {
  try {
    if (Array.isArray(value) && value.length <= 8) return `${shortened(JSON.stringify(value))} (array)`;
    const name: unknown = value.constructor?.name;
    const { length } = value as { length?: unknown };
    const type = typeof name === 'string' && name !== '' ? shortened(name) : 'object';
    return typeof length === 'number' ? `${type} of length ${length}` : `a value of type ${type}`;
  } catch {
    return 'an object that cannot be read';
  }
}

function shortened(text: string): string {
  return text.length <= MOST_CHARACTERS ? text : `${text.slice(0, MOST_CHARACTERS)}...`;
}

/** A value for `details`, which are JSON: itself, if it is short and plain. */
function printable(value: unknown): unknown {
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value);
  if (typeof value === 'string') return shortened(value);
  if (typeof value === 'bigint') return shortened(value.toString());
  if (typeof value === 'function') return 'function';
  return typeof value === 'object' || typeof value === 'symbol' ? describeValue(value) : value;
}

/**
 * A text that a terminal shows and does not obey: control characters, as a file's name may have them, as `\x1b`. Line
 * breaks and tabs stay. The native reader words its messages likewise.
 */
export function withoutControls(text: string): string {
  // eslint-disable-next-line no-control-regex -- it is what is looked for
  return text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, (control) => {
    return `\\x${control.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
}

function textOf(message: unknown): string {
  return typeof message === 'string' ? message : describeValue(message);
}

/** Also of options that cannot be read: an error must not fail. */
function causeOf(options: { cause?: unknown } | undefined): { cause: unknown } | undefined {
  try {
    return options !== undefined && 'cause' in options ? { cause: options.cause } : undefined;
  } catch (cause) {
    return { cause };
  }
}
