import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { ADDER_REGISTERS, serveAdder } from '../../examples/vfio-user-toy.ts';
import { CONFIG, IRQ, VfioClient } from '../interop/vfio-client.ts';

it('examples/vfio-user-toy.ts is short, adds in memory that is lent by message, and interrupts', async () => {
  const text = readFileSync(new URL('../../examples/vfio-user-toy.ts', import.meta.url), 'utf8');
  expect(text.trim().split('\n').length).toBeLessThanOrEqual(60);
  const folder = mkdtempSync(join(tmpdir(), 'nbt-'));
  const server = await serveAdder(join(folder, 'toy'));
  const client = new VfioClient(server.path);
  await client.hello();
  await client.mapRemote();
  const event = client.eventfd();
  await client.setIrqs(IRQ.EVENTFD | IRQ.TRIGGER, 0, 0, 1, [event]);
  await client.store(CONFIG, 4, 2, 6);
  client.remote[8] = 30;
  await client.store(0, ADDER_REGISTERS.ADDRESS.offset, 4, client.remoteBase + 8);
  await client.store(0, ADDER_REGISTERS.ADD.offset, 4, 12);
  expect([client.remote[8], client.count(event), await client.load(0, ADDER_REGISTERS.STATUS.offset, 4)]).toEqual([42, 1, 1]);
  client.close();
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});
