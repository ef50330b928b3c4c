// Sessions of processes, of which a guest that is a process has one to itself.

import { readdirSync, readFileSync } from 'node:fs';

/** Ends every process of a session, and its leader, which may not be one yet. */
export function killSession(leader: number): void {
  for (const member of sessionOf(leader)) {
    try {
      process.kill(member, 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }
}

function sessionOf(leader: number): number[] {
  const found: number[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      // After the name in parentheses: state, parent, process group, session.
      const fields = readFileSync(`/proc/${name}/stat`, 'latin1')
        .replace(/^.*\) /s, '')
        .split(' ');
      if (Number(name) === leader || Number(fields[3]) === leader) found.push(Number(name));
    } catch {
      // Gone between the listing and the look.
    }
  }
  return found;
}
