import { expect, it } from 'vitest';
import { Bell, Doorbell } from '#core/doorbell';
import { ANY_VALUE, FastKicks } from '#core/fast-kicks';

const bell = new Bell();

function kick(address: number, value: number): { address: number; value: number; size: 2; doorbell: Doorbell; revocations: number } {
  return { address, value, size: 2, doorbell: new Doorbell(bell), revocations: 0 };
}

it('finds each of thousands of doorbells, by address and by value, high addresses too, and nothing else', () => {
  const kicks = new FastKicks();
  const byAddress = Array.from({ length: 2000 }, (_, i) => kick(2 ** 40 + 4 * i, ANY_VALUE));
  const byValue = Array.from({ length: 2000 }, (_, i) => kick(0xfebf_0000, i));
  // Its low 32 bits are those of the first.
  const alias = kick(2 ** 41, ANY_VALUE);
  for (const each of [...byAddress, ...byValue, alias]) kicks.add(each);
  for (const [i, each] of byAddress.entries()) expect(kicks.find(each.address, i)).toBe(each);
  for (const [i, each] of byValue.entries()) expect(kicks.find(0xfebf_0000, i)).toBe(each);
  expect(kicks.find(2 ** 41, 9)).toBe(alias);
  expect(kicks.find(2 ** 40 + 2, 0)).toBeUndefined();
  expect(kicks.find(0xfebf_0000, 2000)).toBeUndefined();
  kicks.clear();
  expect(kicks.find(2 ** 40, 0)).toBeUndefined();
});

it('what is learned anew of a write takes the place of what was known', () => {
  const kicks = new FastKicks();
  const [first, second] = [kick(64, ANY_VALUE), kick(64, ANY_VALUE)];
  kicks.add(first);
  kicks.add(second);
  expect(kicks.find(64, 5)).toBe(second);
});
