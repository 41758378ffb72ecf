// PyTorch in a Python process of its own: requests and answers are lines of JSON (bench/peer/serve.py).
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { GUIDANCE, MODELS, SEEDS, SIGMA } from './models.mjs';
import { ROOT } from './paths.mjs';
import { weightsFile } from './weights.mjs';

const SERVER = join(ROOT, 'bench', 'peer', 'serve.py');
/**
 * As it was before our engine was loaded, which sets OMP_WAIT_POLICY for its own process: PyTorch runs with its
 * defaults, as it would without us.
 */
const ENVIRONMENT = { ...process.env };
/** Standard error that is kept to explain why the process ended. */
const KEPT_STDERR = 4000;

/** Why there is no peer: Python or a module of it is missing. */
export class PeerUnavailable extends Error {}

export class Peer {
  /**
   * Starts Python and asks it who it is.
   * @param {{ python: string, threads: number, work: string }} context
   */
  static async start(context) {
    const peer = new Peer(context);
    try {
      peer.info = await peer.ask({ op: 'hello', threads: context.threads });
    } catch (error) {
      peer.close();
      throw new PeerUnavailable(
        `${context.python} cannot run bench/peer/serve.py; give a Python with torch and safetensors by --python or ` +
          `JIT_FLUX_PYTHON. ${error.message}`,
      );
    }
    return peer;
  }

  constructor({ python, work }) {
    this.work = work;
    this.waiting = [];
    this.stderr = '';
    this.info = undefined;
    const env = { ...ENVIRONMENT, PYTHONDONTWRITEBYTECODE: '1' };
    this.child = spawn(python, [SERVER], { stdio: ['pipe', 'pipe', 'pipe'], env });
    this.child.stderr.setEncoding('utf8').on('data', (text) => {
      this.stderr = (this.stderr + text).slice(-KEPT_STDERR);
    });
    this.child.stdin.on('error', (error) => this.#fail(error));
    this.child.on('error', (error) => this.#fail(error));
    this.child.on('close', (code, signal) => {
      this.#fail(new Error(`Python ended (${signal ?? `code ${code}`}): ${this.stderr.trim()}`));
    });
    createInterface({ input: this.child.stdout }).on('line', (line) => {
      const { resolve, reject } = this.waiting.shift();
      const answer = JSON.parse(line);
      if (answer.error === undefined) resolve(answer);
      else reject(new Error(`PyTorch: ${answer.error}`));
    });
  }

  #fail(error) {
    this.failure ??= error;
    for (const { reject } of this.waiting.splice(0)) reject(error);
  }

  /** Sends one request; requests are answered in order. */
  ask(request) {
    if (this.failure) return Promise.reject(this.failure);
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.child.stdin.write(`${JSON.stringify(request)}\n`);
    });
  }

  /**
   * @param {string} id under which the model is asked for later
   * @param {keyof typeof MODELS} name
   * @param {{ dtype: 'float32' | 'bfloat16', implementation?: 'eager' | 'diffusers' }} o
   */
  load(id, name, { dtype, implementation = 'eager' }) {
    const { config } = MODELS[name];
    const path = weightsFile(name, this.work);
    return this.ask({ op: 'load', model: id, implementation, path, config, dtype });
  }

  /** What a forward pass or a run gets: the numbers that our side gets from the same seeds. */
  static input(name, grid) {
    return {
      grid,
      textTokens: MODELS[name].textTokens,
      tokenSeed: SEEDS.tokens,
      promptSeed: SEEDS.prompt,
      pooledSeed: SEEDS.pooled,
      sigma: SIGMA,
      guidance: GUIDANCE,
    };
  }

  /** Seconds of one forward pass. */
  async forward(id, input) {
    return (await this.ask({ op: 'forward', model: id, input })).seconds;
  }

  /** Result of a request that can `save` one. */
  async result(request) {
    const path = join(this.work, `peer-${process.pid}.f32`);
    await this.ask({ ...request, save: path });
    const bytes = readFileSync(path);
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  }

  close() {
    this.child.stdin.end();
    this.child.kill();
  }
}
