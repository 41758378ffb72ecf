/** Recorded runs of the released JiT pipeline (fixtures/e2e). Those on large grids are too large for the repository. */
import { existsSync } from 'node:fs';
import { SafeTensors, fixturePath, sharedFixture } from './safetensors.js';

function trajectoryPath(name: string): string | undefined {
  const file = `e2e/e2e.${name}.safetensors`;
  return existsSync(fixturePath(file)) ? fixturePath(file) : sharedFixture(file);
}

/** Whether the run is in the repository, or beside it in shared/. */
export const hasTrajectory = (name: string): boolean => trajectoryPath(name) !== undefined;

/** Why a test of another run is skipped. */
export const NOT_HERE = 'its recorded run is too large for the repository and lies in ../shared/fixtures/e2e';

export function openTrajectory(name: string): SafeTensors {
  const path = trajectoryPath(name);
  if (path === undefined)
    throw new Error(`The golden run ${name} is neither in test/fixtures/e2e nor in ../shared`);
  return SafeTensors.open(path);
}
