/** All commands, in the order of the help. */
import type { Command } from './command.js';
import { compareCommand } from './compare.js';
import { convertCommand } from './convert.js';
import { doctorCommand } from './doctor.js';
import { encodeCommand } from './encode.js';
import { generateCommand } from './generate.js';
import { inspectCommand } from './inspect.js';
import { planCommand } from './plan.js';
import { setupCommand } from './setup.js';

export const COMMANDS: readonly Command[] = [
  generateCommand,
  compareCommand,
  encodeCommand,
  planCommand,
  inspectCommand,
  convertCommand,
  setupCommand,
  doctorCommand,
];
