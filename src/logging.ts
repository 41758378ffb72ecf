/** Messages for whoever operates a program: to standard error, or to a logger of the program's own. */
import { checkCallback, readFields } from './arguments.js';
import { whenRejected } from './callbacks.js';
import { invalidArgument } from './errors.js';

/** From the gravest to the most talkative. */
export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LogEntry {
  level: LogLevel;
  message: string;
  /** Which part speaks: `'native'` are the engine and LibTorch. */
  source: 'jit-flux' | 'native';
  /** Machine-readable facts. */
  details?: Record<string, unknown>;
}

export interface LoggerOptions {
  /** The most talkative level to be passed on; `'silent'`: none. Default: `JIT_FLUX_LOG_LEVEL`, or `'warn'`. */
  level?: LogLevel | 'silent' | undefined;
  /** Takes the messages. What it throws is ignored. Default: lines on standard error. */
  log?: ((entry: LogEntry) => void) | undefined;
}

/** Takes a native library's messages up to a level. */
type NativeLog = (handler: ((level: LogLevel, message: string) => void) | undefined, level: LogLevel) => void;

const LEVEL_VARIABLE = 'JIT_FLUX_LOG_LEVEL';

const toStandardError = ({ level, source, message }: LogEntry): void => {
  process.stderr.write(`[${source === 'native' ? 'jit-flux native' : source}] ${level}: ${message}\n`);
};

let level: LogLevel | 'silent' | undefined;
let sink: (entry: LogEntry) => void = toStandardError;
const nativeLogs: NativeLog[] = [];

/**
 * Decides what becomes of log messages, in this thread: worker threads decide for themselves. Options that are left out
 * return to their defaults.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function setLogger(o: LoggerOptions = {}): void {
  const given = readFields<LoggerOptions>(o, 'options', { level: true, log: true });
  const log = checkCallback('log', given.log);
  level = given.level === undefined ? undefined : checkLevel(given.level, 'level');
  sink = log ?? toStandardError;
  listen();
}

/** Passes a message on, if its level is wanted. */
export function log(at: LogLevel, message: string, details?: Record<string, unknown>): void {
  emit({ level: at, message, source: 'jit-flux', ...(details && { details }) });
}

/** @internal The messages of a native library follow the same settings from now on. */
export function connectNativeLog(connect: NativeLog): void {
  nativeLogs.push(connect);
  listen();
}

function listen(): void {
  const wanted = currentLevel();
  for (const connect of nativeLogs) {
    if (wanted === 'silent') connect(undefined, 'error');
    else connect((at, message) => emit({ level: at, message, source: 'native' }), wanted);
  }
}

function emit(entry: LogEntry): void {
  const wanted = currentLevel();
  if (wanted === 'silent' || LOG_LEVELS.indexOf(entry.level) > LOG_LEVELS.indexOf(wanted)) return;
  try {
    whenRejected(sink(entry), () => undefined);
  } catch {
    // A logger that fails must not take the work with it.
  }
}

function currentLevel(): LogLevel | 'silent' {
  if (level !== undefined) return level;
  const named = process.env[LEVEL_VARIABLE];
  return named ? checkLevel(named, LEVEL_VARIABLE) : 'warn';
}

function checkLevel(value: string, option: string): LogLevel | 'silent' {
  if (value === 'silent') return value;
  const known = LOG_LEVELS.find((name) => name === value);
  if (known !== undefined) return known;
  throw invalidArgument(option, [...LOG_LEVELS, 'silent'].map((name) => `'${name}'`).join(', '), value);
}
