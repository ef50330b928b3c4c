// Event descriptors belong to the peer as much as to us: it can fill them up and take O_NONBLOCK away. In a process of its own, since a thread that waits in a call cannot be ended.

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const NATIVE = fileURLToPath(new URL('../../dist/interop/native.js', import.meta.url));

/** Runs with `native`, `eventfd` (a blocking one, holding so much) and `count` (takes what it holds). */
function inProcess(body: string): string {
  const script = `
import { createRequire } from 'node:module';
import { openNative } from '${NATIVE}';
const native = openNative();
const libc = createRequire('${NATIVE}')('koffi').load('libc.so.6');
const make = libc.func('eventfd', 'int', ['uint32_t', 'int']);
const word = new BigUint64Array(new ArrayBuffer(8));
const bytes = new Uint8Array(word.buffer);
const eventfd = (value) => { const fd = make(0, 0); word[0] = value; if (value > 0n) native.files.writeAt(fd, native.addressOf(bytes), 8); return fd; };
const count = (fd) => [native.events.readEvent(fd, bytes), word[0].toString(16)];
${body}`;
  return execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', timeout: 20_000 }).trim();
}

it('a full eventfd that waits does not keep us', () => {
  expect(inProcess('const fd = eventfd(0xfffffffffffffffen); for (let i = 0; i < 3; i++) native.events.writeEvent(fd); console.log(...count(fd));')).toBe(
    '8 ffffffffffffffff',
  );
});

it('an empty one does not, either', () => {
  expect(inProcess('console.log(native.events.readEvent(eventfd(0n), bytes));')).toBe('-11');
});

it('counts every signal, however many', () => {
  expect(inProcess('const fd = eventfd(0n); for (let i = 0; i < 1000; i++) native.events.writeEvent(fd); console.log(...count(fd));')).toBe('8 3e8');
});

it('says which descriptors are events', () => {
  expect(
    inProcess(
      "const { openSync } = await import('node:fs'); console.log(native.events.isEvent(eventfd(1n)), native.events.isEvent(openSync('/dev/null', 'w')));",
    ),
  ).toBe('true false');
});
