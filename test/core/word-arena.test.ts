import { expect, it } from 'vitest';
import { Bell, Doorbell } from '#core/doorbell';
import { allocateWords } from '#core/word-arena';

it('a doorbell of a new bell has all its words in one buffer, also past the end of the buffer before: else no thread could be told of it', () => {
  new Doorbell(new Bell());
  const { buffer } = allocateWords();
  for (let lines = 0; lines < 20_000 && allocateWords().buffer === buffer; lines++);
  const { pending, revocations, bell } = new Doorbell(new Bell()).share();
  expect(bell.buffer).not.toBe(buffer);
  expect([pending.buffer, revocations.buffer]).toEqual([bell.buffer, bell.buffer]);
  expect(revocations.buffer).toBe(bell.buffer);
});
