/**
 * The Python that is asked for an installed `torch` and whose pip is the last source of `setup`. Nothing of the working
 * directory takes part: the program is found by absolute entries of PATH alone, it runs in the root directory, in
 * isolated mode and in an environment without what redirects Python or pip to other code. docs/security.md lists every
 * program that is run.
 */
import { execFileSync, spawn } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';

/** Belongs to root, and neither Python nor pip looks for anything there. */
const NEUTRAL_DIRECTORY = '/';
const DEFAULT_PATH = '/usr/local/bin:/usr/bin:/bin';
const FIND_TIMEOUT = 5000;

/**
 * Settings of pip that say where archives come from and how they are fetched. What arrives is compared with a pinned
 * hash; other settings name programs, folders or requirements.
 */
const PIP_SETTINGS = new Set(
  [
    'INDEX_URL EXTRA_INDEX_URL FIND_LINKS NO_INDEX TRUSTED_HOST PROXY CERT CLIENT_CERT CONFIG_FILE',
    'DEFAULT_TIMEOUT KEYRING_PROVIDER USE_FEATURE USE_DEPRECATED',
  ].flatMap((names) => names.split(' ').map((name) => `PIP_${name}`)),
);
/** Those of them that are paths, which the neutral directory would change. */
const PIP_PATHS = new Set(['PIP_CERT', 'PIP_CLIENT_CERT', 'PIP_CONFIG_FILE']);

/**
 * Folder of the `torch` package. `-I` leaves out the user's own packages as well, which are no danger and a usual place
 * of torch; as Python itself does, they are left out in a virtual environment.
 */
const FIND_TORCH = `
import importlib.util, os, site, sys
if sys.prefix == sys.base_prefix: sys.path.append(site.getusersitepackages())
sys.path[:] = [path for path in sys.path if os.path.isabs(path)]
found = importlib.util.find_spec("torch")
places = found.submodule_search_locations if found else None
print(list(places)[0] if places else "")
`;

/** What the user calls the Python: `JIT_FLUX_PYTHON`, else `python3`. */
export function pythonName(env: NodeJS.ProcessEnv): string {
  return env.JIT_FLUX_PYTHON || 'python3';
}

/** Absolute path of the Python; undefined if it is not installed. */
export function findPython(env: NodeJS.ProcessEnv): string | undefined {
  const name = pythonName(env);
  if (name.includes('/')) return resolve(name);
  return absoluteEntries(env.PATH)
    .map((directory) => join(directory, name))
    .find(isProgram);
}

/** Folder of the `torch` package of the Python, without importing it; undefined if there is none. */
export function findPythonTorch(env: NodeJS.ProcessEnv): { python: string; directory: string } | undefined {
  const python = findPython(env);
  if (python === undefined) return undefined;
  try {
    const output = execFileSync(python, ['-I', '-c', FIND_TORCH], {
      cwd: NEUTRAL_DIRECTORY,
      env: pythonEnvironment(env),
      encoding: 'utf8',
      timeout: FIND_TIMEOUT,
      killSignal: 'SIGKILL',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const directory = output.trim();
    return isAbsolute(directory) ? { python, directory } : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Runs pip.
 *
 * @param o.temporary folder for its temporary files
 * @throws an Error with the last error line of its output
 */
export function runPip(
  args: readonly string[],
  o: { env: NodeJS.ProcessEnv; temporary: string; signal?: AbortSignal | undefined },
): Promise<void> {
  const python = findPython(o.env);
  if (python === undefined) return Promise.reject(new Error(`${pythonName(o.env)} is not installed`));
  return new Promise((resolvePromise, reject) => {
    const child = spawn(python, ['-I', '-m', 'pip', ...args], {
      cwd: NEUTRAL_DIRECTORY,
      env: { ...pythonEnvironment(o.env), TMPDIR: o.temporary },
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(o.signal ? { signal: o.signal } : {}),
    });
    let output = '';
    const collect = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-16_384);
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.once('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'ENOENT' ? new Error(`${python} is not installed`) : error),
    );
    child.once('close', (code, killedBy) => {
      if (code === 0) return resolvePromise();
      const lines = output.split('\n').filter((line) => line.trim() !== '');
      const line = lines.filter((text) => text.startsWith('ERROR:')).at(-1) ?? lines.at(-1);
      reject(new Error(line?.replace(/^ERROR:\s*/, '').trim() ?? `${python} ended with ${code ?? killedBy}`));
    });
  });
}

/** @internal exported for tests */
export function pythonEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const kept: NodeJS.ProcessEnv = {};
  for (const [name, value] of Object.entries(env)) {
    if (value === undefined || name.startsWith('PYTHON')) continue;
    if (name.startsWith('PIP_') && !PIP_SETTINGS.has(name)) continue;
    kept[name] = PIP_PATHS.has(name) && value !== '' ? resolve(value) : value;
  }
  // Wrappers (pyenv) look for further programs.
  kept.PATH = absoluteEntries(env.PATH).join(':');
  return kept;
}

/** An empty entry means the working directory, as does `.`. */
function absoluteEntries(path = DEFAULT_PATH): string[] {
  return path.split(':').filter(isAbsolute);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
