/** Where programs keep what they fetch, and what their users have set. */
import { userInfo } from 'node:os';
import { isAbsolute, join } from 'node:path';

/**
 * `$XDG_CACHE_HOME`, else `~/.cache`; both are passed over where they are relative: nothing is loaded from the working
 * directory by accident. Undefined for a user without a home.
 */
export function userCacheDirectory(env: NodeJS.ProcessEnv): string | undefined {
  return userDirectory(env, env.XDG_CACHE_HOME, '.cache');
}

/** `$XDG_CONFIG_HOME`, else `~/.config`, by the same rule. */
export function userConfigDirectory(env: NodeJS.ProcessEnv): string | undefined {
  return userDirectory(env, env.XDG_CONFIG_HOME, '.config');
}

function userDirectory(
  env: NodeJS.ProcessEnv,
  named: string | undefined,
  inHome: string,
): string | undefined {
  if (named && isAbsolute(named)) return named;
  const home = env.HOME && isAbsolute(env.HOME) ? env.HOME : homeOfUser();
  return home === undefined ? undefined : join(home, inHome);
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
