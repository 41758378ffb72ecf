// The other side of comparisons, in processes of their own: eager ATen (bench/native/peer.h), which every build has, and
// PyTorch in Python (bench/peer/serve.py) where there is one. Both answer the same requests.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { GUIDANCE, MODELS, SEEDS, SIGMA } from './models.mjs';
import { benchExecutable } from './native.mjs';
import { ROOT } from './paths.mjs';
import { weightsFile } from './weights.mjs';

/** @typedef {import('./models.mjs').ModelName} ModelName */
/** @typedef {import('./models.mjs').Grid} Grid */

/** @typedef {'aten' | 'pytorch'} PeerName */

/** @typedef {{ [name: string]: Field }} Fields */
/** @typedef {string | number | boolean | readonly number[] | readonly string[] | Fields | undefined} Field */

/**
 * One request: `op` and what belongs to it.
 * @typedef {{ op: string } & Fields} Request
 */

/**
 * What a forward pass or a run gets.
 * @typedef {object} PeerInput
 * @property {Grid} grid
 * @property {number} textTokens
 * @property {number} tokenSeed
 * @property {number} promptSeed
 * @property {number} pooledSeed
 * @property {number} sigma
 * @property {number} guidance
 * @property {readonly number[]} [anchors]
 */

const SERVER = join(ROOT, 'bench', 'peer', 'serve.py');
/**
 * As it was before our engine was loaded, which sets OMP_WAIT_POLICY for its own process: Python runs with its defaults,
 * as it would without us. (Eager ATen asks for passive waiting as the engine does.)
 */
const ENVIRONMENT = { ...process.env };
/** Standard error that is kept to explain why the process ended. */
const KEPT_STDERR = 4000;

/** One process that answers requests, in order. */
export class Peer {
  /**
   * @param {PeerName} name
   * @param {import('./section-process.mjs').Context} context
   * @returns {Promise<Peer>} one that has said who it is
   */
  static async start(name, context) {
    const peer =
      name === 'aten'
        ? new Peer(await benchExecutable(context.log), ['peer'], context.work, flattened)
        : new Peer(context.python, [SERVER], context.work, (request) => JSON.stringify(request));
    try {
      peer.info = await peer.ask({ op: 'hello', threads: context.threads });
    } catch (error) {
      peer.close();
      throw error;
    }
    return peer;
  }

  /**
   * @param {string} command
   * @param {string[]} args
   * @param {string} work directory for weights and results
   * @param {(request: Request) => string} encode one line
   */
  constructor(command, args, work, encode) {
    this.work = work;
    this.encode = encode;
    /** @type {{ resolve: (answer: any) => void, reject: (error: Error) => void }[]} */
    this.waiting = [];
    this.stderr = '';
    /** @type {{ torch: string, threads: number, cpuCapability: string } | undefined} */
    this.info = undefined;
    /** @type {Error | undefined} */
    this.failure = undefined;
    const env = { ...ENVIRONMENT, PYTHONDONTWRITEBYTECODE: '1' };
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env });
    this.child.stderr.setEncoding('utf8').on('data', (text) => {
      this.stderr = (this.stderr + text).slice(-KEPT_STDERR);
    });
    this.child.stdin.on('error', (error) => this.#fail(error));
    this.child.on('error', (error) => this.#fail(error));
    this.child.on('close', (code, signal) => {
      const said = lastLine(this.stderr);
      this.#fail(new Error(`${command} ended with ${signal ?? `code ${code}`}${said && `: ${said}`}`));
    });
    createInterface({ input: this.child.stdout }).on('line', (line) => {
      const waiting = this.waiting.shift();
      try {
        const answer = JSON.parse(line);
        if (answer.error === undefined) waiting?.resolve(answer);
        else waiting?.reject(new Error(`${command}: ${answer.error}`));
      } catch {
        waiting?.reject(new Error(`${command} answered no JSON: ${line.slice(0, 200)}`));
      }
    });
  }

  /** @param {Error} error */
  #fail(error) {
    this.failure ??= error;
    for (const { reject } of this.waiting.splice(0)) reject(error);
  }

  /**
   * Sends one request.
   * @param {Request} request
   * @returns {Promise<any>}
   */
  ask(request) {
    if (this.failure) return Promise.reject(this.failure);
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.child.stdin.write(`${this.encode(request)}\n`);
    });
  }

  /**
   * @param {string} id under which the model is asked for later
   * @param {ModelName} name
   * @param {{ dtype: 'float32' | 'bfloat16', implementation?: 'eager' | 'diffusers' }} o
   */
  async load(id, name, { dtype, implementation = 'eager' }) {
    const config = /** @type {Fields} */ (/** @type {unknown} */ (MODELS[name].config));
    const path = await weightsFile(name, this.work);
    return this.ask({ op: 'load', model: id, implementation, path, config, dtype });
  }

  /**
   * The numbers that our side gets from the same seeds.
   * @param {ModelName} name
   * @param {Grid} grid
   * @param {Int32Array | undefined} [anchors]
   * @returns {PeerInput & Fields}
   */
  static input(name, grid, anchors) {
    return {
      grid,
      textTokens: MODELS[name].textTokens,
      tokenSeed: SEEDS.tokens,
      promptSeed: SEEDS.prompt,
      pooledSeed: SEEDS.pooled,
      sigma: SIGMA,
      guidance: GUIDANCE,
      ...(anchors && { anchors: [...anchors] }),
    };
  }

  /**
   * @param {string} id
   * @param {PeerInput & Fields} input
   * @returns {Promise<number>} seconds of one forward pass
   */
  async forward(id, input) {
    return (await this.ask({ op: 'forward', model: id, input })).seconds;
  }

  /**
   * Result of a request that can `save` one.
   * @param {Request} request
   */
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

/**
 * The peers of one comparison.
 * @typedef {object} Peers
 * @property {Map<PeerName, Peer>} running
 * @property {Record<string, { torch: string, threads: number, cpuCapability: string } | { error: string }>} info
 * @property {string[]} notes what is not there, and why: no failure
 */

/**
 * Starts what there is: eager ATen, and PyTorch in Python if it can be found. One that does not start takes nothing from
 * the other.
 * @param {import('./section-process.mjs').Context} context
 * @returns {Promise<Peers>}
 */
export async function startPeers(context) {
  /** @type {Peers} */
  const peers = { running: new Map(), info: {}, notes: [] };
  for (const name of /** @type {const} */ (['aten', 'pytorch'])) {
    try {
      const peer = await Peer.start(name, context);
      peers.running.set(name, peer);
      if (peer.info) peers.info[name] = peer.info;
    } catch (error) {
      const reason = /** @type {Error} */ (error).message;
      if (name === 'pytorch' && !context.pythonIsRequired) {
        peers.notes.push(
          `without PyTorch in Python (${reason}); give a Python with torch and safetensors by --python or JIT_FLUX_PYTHON`,
        );
      } else {
        peers.info[name] = { error: reason };
      }
    }
  }
  return peers;
}

/** @param {Peers} peers */
export function closePeers({ running }) {
  for (const peer of running.values()) peer.close();
}

/**
 * A request as one line for jit_flux_bench: `name=value` separated by tabs; nested names by dots, lists by commas.
 * @param {Request} request
 */
export function flattened(request) {
  /** @type {string[]} */
  const fields = [];
  /** @type {(prefix: string, value: Field) => void} */
  const add = (prefix, value) => {
    if (value === undefined) return;
    if (typeof value === 'object' && !Array.isArray(value)) {
      for (const [name, inner] of Object.entries(value)) add(prefix ? `${prefix}.${name}` : name, inner);
    } else {
      const text = String(value);
      if (/[\t\n]/.test(text)) throw new Error(`Expected ${prefix} without tabs and line breaks: ${text}`);
      fields.push(`${prefix}=${text}`);
    }
  };
  add('', request);
  return fields.join('\t');
}

/** @param {string} text */
const lastLine = (text) => text.trim().split('\n').at(-1) ?? '';
