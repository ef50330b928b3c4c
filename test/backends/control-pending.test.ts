// A device that is brought up while its worker is in the middle of a turn: a sender that starts afterwards loses no frame to the turn that does not know it yet.
import { describe, expect, it } from 'vitest';
import { PortBlock } from '#backends/port-block';
import { RingPort } from '#backends/ring-port';
import { viewsOf } from '#core/guest-memory';
import { FrameBatch } from '#net/port';

describe('a port whose device is not up', () => {
  const batch = new FrameBatch(viewsOf(new ArrayBuffer(64)));

  it('drops frames, counting them', () => {
    const port = new RingPort({ name: 'down', block: new PortBlock(2) });
    expect(port.linkUp).toBe(false);
    expect(port.deliver(batch, 0, 3)).toBe(3);
  });

  it('holds them while there is news from the control plane', () => {
    let pending = true;
    const port = new RingPort({ name: 'coming up', block: new PortBlock(2), controlPending: () => pending });
    expect(port.linkUp).toBe(true);
    expect(port.deliver(batch, 0, 3)).toBe(0);
    pending = false;
    expect(port.linkUp).toBe(false);
    expect(port.deliver(batch, 0, 3)).toBe(3);
  });
});
