/** What a forge and git read of the repository: workflows, issue forms, hooks, decisions. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { roomsOf } from '../../scripts/lib/arrows.mjs';
import { VERSION } from '../../src/files/package-files.js';

const ROOT = join(import.meta.dirname, '..', '..');
const text = (path: string) => readFileSync(join(ROOT, path), 'utf8');
const yaml = (path: string): unknown => parse(text(path), { strict: true, uniqueKeys: true });
const scripts = (JSON.parse(text('package.json')) as { scripts: Record<string, string> }).scripts;

interface Step {
  uses?: string;
  run?: string;
}
interface Workflow {
  name: string;
  on: object;
  permissions: object;
  jobs: Record<string, { 'runs-on': string; container?: string; needs?: string; steps: Step[] }>;
}

describe('workflows', () => {
  const folder = '.github/workflows';
  const names = readdirSync(join(ROOT, folder));

  it.each(names)('%s is complete, least privileged and pinned', (name) => {
    const workflow = yaml(join(folder, name)) as Workflow;
    expect(workflow).toMatchObject({ permissions: { contents: 'read' } });
    expect(Object.keys(workflow.on).length).toBeGreaterThan(0);
    for (const [id, job] of Object.entries(workflow.jobs)) {
      expect(job['runs-on'], id).toMatch(/^ubuntu-\d\d\.04$/);
      if (job.needs !== undefined) expect(Object.keys(workflow.jobs)).toContain(job.needs);
      for (const step of job.steps) {
        expect(Number(step.uses !== undefined) + Number(step.run !== undefined), JSON.stringify(step)).toBe(
          1,
        );
        if (step.uses !== undefined) expect(step.uses).toMatch(/^[\w-]+\/[\w-]+@(v\d+|[0-9a-f]{40})$/);
        for (const [, script] of (step.run ?? '').matchAll(/npm run ([\w:-]+)/g))
          expect(scripts).toHaveProperty([script!]);
        for (const [path] of (step.run ?? '').matchAll(/(?:scripts|\.ci)\/[\w./-]+/g))
          expect(existsSync(join(ROOT, path)), path).toBe(true);
      }
    }
  });

  it('ci runs .ci/run, and a release publishes the tested tarball with provenance', () => {
    const commands = (name: string, job: string) =>
      (yaml(join(folder, name)) as Workflow).jobs[job]!.steps.flatMap(({ run }) => run ?? []);
    expect(commands('ci.yml', 'check')).toContain('.ci/run');
    expect((yaml(join(folder, 'release.yml')) as Workflow).jobs.prebuild!.container).toMatch(
      /manylinux_2_28/,
    );
    expect(commands('release.yml', 'pack').join('\n')).toContain('npm run test:package -- --no-prebuild');
    expect(commands('release.yml', 'pack')).toContain('node scripts/sbom.mjs --out jit-flux.cdx.json');
    expect(commands('release.yml', 'attach').join('\n')).toMatch(
      /^gh release create .* jit-flux\.cdx\.json$/,
    );
    expect(commands('release.yml', 'publish')).toEqual([
      'npm publish ./jit-flux-*.tgz --provenance --access public',
    ]);
  });
});

describe('issue forms', () => {
  interface Form {
    name: string;
    description: string;
    body: { type: string; id?: string; attributes: { label?: string; value?: string; options?: object[] } }[];
  }
  const folder = '.github/ISSUE_TEMPLATE';
  const names = readdirSync(join(ROOT, folder)).filter((name) => name !== 'config.yml');

  it.each(names)('%s is a form that asks for the report of doctor', (name) => {
    const form = yaml(join(folder, name)) as Form;
    expect(form.name).toBeTruthy();
    expect(form.description).toBeTruthy();
    const ids = form.body.flatMap(({ id }) => id ?? []);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { type, attributes } of form.body) {
      expect(['markdown', 'textarea', 'input', 'dropdown', 'checkboxes']).toContain(type);
      expect(type === 'markdown' ? attributes.value : attributes.label).toBeTruthy();
    }
    expect(form.body.some(({ attributes }) => attributes.label?.includes('npx jit-flux doctor --json'))).toBe(
      true,
    );
  });

  it('config.yml turns blank issues off', () => {
    expect(yaml(join(folder, 'config.yml'))).toEqual({ blank_issues_enabled: false });
  });
});

describe('hooks', () => {
  it.each(['pre-commit', 'commit-msg'])('%s is a shell script that names programs which exist', (name) => {
    const path = join(ROOT, '.husky', name);
    execFileSync('sh', ['-n', path]);
    const scripts = [...readFileSync(path, 'utf8').matchAll(/scripts\/[\w.-]+/g)].map(([script]) => script);
    expect(scripts.length).toBeGreaterThan(0);
    for (const script of scripts) expect(existsSync(join(ROOT, script)), script).toBe(true);
  });

  const check = (input: string) =>
    execFileSync(process.execPath, [join(ROOT, 'scripts', 'check-commit-message.mjs'), '--subjects'], {
      input,
      encoding: 'utf8',
      stdio: ['pipe', 'pipe', 'pipe'],
    });

  it('a subject has less than 100 characters', () => {
    check(`${'a'.repeat(99)}\nanother\n`);
    expect(() => check(`fine\n${'a'.repeat(100)}\n`)).toThrow(/has 100 characters/);
  });
});

describe('docs/architecture.md', () => {
  const page = text('docs/architecture.md');

  it.each([
    ['architecture.md', 10],
    ['security.md', 10],
    ['supply-chain.md', 5],
    ['../CONTRIBUTING.md', 10],
  ])('%s names files that exist', (name, least) => {
    const paths = [...text(join('docs', name)).matchAll(/`((?:src|native|scripts|bench|test)\/[\w./-]+)`/g)];
    expect(paths.length).toBeGreaterThan(least);
    for (const [, path] of paths) expect(existsSync(join(ROOT, path!)), path).toBe(true);
  });

  it.each(['native', 'typescript'] as const)('names every room of %s', (kind) => {
    for (const room of roomsOf(ROOT, kind)) {
      const [name] = room.split('/');
      const isNamed = [`\`${name}\``, `\`${name}.ts\``].some((label) => page.includes(label));
      expect(isNamed, room).toBe(true);
    }
  });
});

describe('decisions', () => {
  const folder = join(ROOT, 'docs', 'adr');
  const records = existsSync(folder) ? readdirSync(folder).filter((name) => /^\d{4}-/.test(name)) : [];

  it('are numbered without gaps and listed in the index', () => {
    const index = text('docs/adr/README.md');
    records.forEach((name, i) => {
      expect(name).toMatch(new RegExp(`^${String(i + 1).padStart(4, '0')}-[a-z0-9-]+\\.md$`));
      expect(index).toContain(`(${name})`);
    });
    expect(records.length).toBeGreaterThan(0);
  });

  it.each(records)('%s has a context, a decision and consequences', (name) => {
    const headings = [...text(join('docs', 'adr', name)).matchAll(/^## (.+)$/gm)].map(([, title]) => title);
    expect(headings).toEqual(['Context', 'Decision', 'Consequences']);
  });
});

it('the lock file is of the version that package.json says, and src/ reads it there', () => {
  const { version } = JSON.parse(text('package.json')) as { version: string };
  const lock = JSON.parse(text('package-lock.json')) as {
    version: string;
    packages: Record<string, { version: string }>;
  };
  expect([VERSION, lock.version, lock.packages['']!.version]).toEqual([version, version, version]);
});
