/** Options of Node with which Yarn's Plug'n'Play starts a program, where NODE_OPTIONS does not have them. */
const LOADS = /^(?:-r|--require|--(?:experimental-)?loader|--import)$/;
const PLUG_N_PLAY = /(?:^|[/\\])\.pnp\.(?:cjs|loader\.mjs)$/;

/**
 * The `execArgv` of a thread of ours: nothing of the main program's flags (`--eval`, `--input-type`) but those without which
 * a thread finds no package under Plug'n'Play.
 */
export function threadFlags(execArgv: readonly string[] = process.execArgv): string[] {
  const words = execArgv.flatMap((word) => {
    const [, name, value] = /^(--[^=]+)=(.*)$/s.exec(word) ?? [];
    return name === undefined ? [word] : [name, value!];
  });
  return words.flatMap((word, i) => {
    const value = words[i + 1];
    return LOADS.test(word) && value !== undefined && PLUG_N_PLAY.test(value) ? [word, value] : [];
  });
}
