/**
 * The symbols that `using` needs. Node 20 gives them to its main context only, and not to those of node:vm (vitest's pools
 * vmThreads and vmForks, jest). To be imported before whatever has a method of that name.
 */
for (const name of ['dispose', 'asyncDispose'] as const)
  if (Symbol[name] === undefined) Object.defineProperty(Symbol, name, { value: Symbol(`Symbol.${name}`) });

export {};
