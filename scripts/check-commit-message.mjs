#!/usr/bin/env node
// The subject of a commit is one short line.
//   node scripts/check-commit-message.mjs <file of the message>
//   git log --format=%s a..b | node scripts/check-commit-message.mjs --subjects
import { readFileSync } from 'node:fs';
import { UserError, main, takeFlag } from './lib/tools.mjs';

const LIMIT = 100;

await main(() => {
  const args = process.argv.slice(2);
  const areSubjects = takeFlag(args, 'subjects');
  const [path] = args;
  if (!areSubjects && path === undefined) throw new UserError('Expected the file of a commit message');
  const text = readFileSync(areSubjects ? 0 : path, 'utf8');
  if (areSubjects) for (const subject of text.split('\n').filter(Boolean)) checkSubject(subject);
  else checkMessage(text);
});

/** @param {string} text */
function checkMessage(text) {
  // git leaves its help behind '#'.
  const lines = text.split('\n').filter((line) => !line.startsWith('#'));
  const subject = lines.find((line) => line.trim() !== '');
  if (subject === undefined) return; // git itself refuses an empty message
  checkSubject(subject);
  const next = lines[lines.indexOf(subject) + 1];
  if (next !== undefined && next.trim() !== '')
    throw new UserError('Leave an empty line between the subject of the commit and its text');
}

/** @param {string} subject */
function checkSubject(subject) {
  if (subject.length >= LIMIT)
    throw new UserError(
      `The subject of the commit has ${subject.length} characters; it is one line under ${LIMIT}: ${subject}`,
    );
}
