// lock-user.mjs <lock> <log> <name>: takes the lock again and again and logs every entry and exit, until it is ended.
import { appendFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { acquireLock } from '../../../dist/files/lock.js';

const [lock, log, name] = process.argv.slice(2);
for (;;) {
  const held = await acquireLock(lock, { staleAfter: 5000, beat: 100, poll: 50 });
  appendFileSync(log, `enter ${name}\n`);
  await sleep(5 + Math.random() * 40);
  // Whoever was stopped and has lost the lock says so instead of going on.
  const mine = await held.assertHeld().then(
    () => true,
    () => false,
  );
  appendFileSync(log, `${mine ? 'leave' : 'lost'} ${name}\n`);
  await held.release();
  await sleep(Math.random() * 10);
}
