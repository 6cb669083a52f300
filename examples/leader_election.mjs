#!/usr/bin/env node
// Several copies of a worker run, and exactly one may work. When it dies, another takes over at
// once; one that cannot be sure any more stops by itself, before that. Node 20, no packages.
//
//     QUORUMD_SOCKET=/run/quorumd/quorumd.sock node leader_election.mjs reports alice

import { readFileSync } from 'node:fs';
import http from 'node:http';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const socketPath = process.env.QUORUMD_SOCKET ?? '/run/quorumd/quorumd.sock';
const [election = 'reports', me = `pid-${process.pid}`] = process.argv.slice(2);
const STEP = 1; // Seconds that a piece of work may take.

// Seconds since the host booted. Node's own clock stands still while the host sleeps.
const now = () => Number(readFileSync('/proc/uptime', 'ascii').split(' ')[0]);

function ask(method, path, body, timeout) {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, method, path, timeout }, resolve);
    request.on('error', reject);
    request.on('timeout', () => request.destroy(new Error('no answer in time')));
    request.end(body);
  });
}

async function* messages(stream) {
  for await (const line of createInterface({ input: stream })) yield JSON.parse(line);
}

// Won, until the stream says otherwise or the time that was promised is over.
class Leadership {
  lost = false;
  until = 0;

  constructor(stream, { token, lease }) {
    Object.assign(this, { token, lease });
    this.listen(stream).catch(() => {}).finally(() => { this.lost = true; });
  }

  async listen(stream) {
    for await (const message of stream) if (message.state === 'lost') return;
  }

  // Whether nobody else can lead for so long. Asks the daemon anew when that gets close.
  async lasts(seconds) {
    if (!this.lost && this.until < now() + seconds + 3) {
      const before = now(); // The promise counts from before the question.
      try {
        const answer = await ask('GET', `/v1/leases/${this.lease}?consistency=local`, '', 1000);
        const { value } = await messages(answer).next();
        this.until = Math.max(this.until, before + (value?.valid_for_ms ?? 0) / 1000);
      } catch { /* What was promised before still holds. */ }
    }
    return !this.lost && this.until > now() + seconds;
  }
}

// Waits until this one leads. The stream stays open: its end is the end of the leadership.
async function campaign() {
  const path = `/v1/elections/${encodeURIComponent(election)}`;
  const stream = messages(await ask('POST', path, JSON.stringify({ value: me })));
  for (;;) {
    const { value: message, done } = await stream.next();
    if (done) throw new Error('the stream ended');
    if (message.state === 'leader') return new Leadership(stream, message);
    console.log(`${me} waits: ${message.position ?? JSON.stringify(message)}`);
  }
}

// Whatever this changes outside should be told the token, and refuse lower ones.
async function work(token) {
  console.log(`${me} works with token ${token}`);
  await sleep(STEP * 500);
}

for (;;) {
  try {
    const leadership = await campaign();
    while (await leadership.lasts(STEP)) await work(leadership.token);
    console.log(`${me} leads no longer`);
  } catch (error) {
    console.log(`${me} cannot campaign, tries again: ${error.message}`);
    await sleep(1000);
  }
}
