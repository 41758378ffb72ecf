/** Where programs keep what they fetch. */
import { userInfo } from 'node:os';
import { isAbsolute, join } from 'node:path';

/**
 * `$XDG_CACHE_HOME`, else `~/.cache`; both are passed over where they are relative: nothing is loaded from the working
 * directory by accident. Undefined for a user without a home.
 */
export function userCacheDirectory(env: NodeJS.ProcessEnv): string | undefined {
  if (env.XDG_CACHE_HOME && isAbsolute(env.XDG_CACHE_HOME)) return env.XDG_CACHE_HOME;
  const home = env.HOME && isAbsolute(env.HOME) ? env.HOME : homeOfUser();
  return home === undefined ? undefined : join(home, '.cache');
}

/** By the system's list of users, which need not have an arbitrary one of a container. */
function homeOfUser(): string | undefined {
  try {
    const { homedir } = userInfo();
    return isAbsolute(homedir) ? homedir : undefined;
  } catch {
    return undefined;
  }
}
