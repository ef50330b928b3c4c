// 82576 7.10.2.9: the mailboxes as both sides see them, over nothing but the registers' words.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RegisterFile } from '#core/register-file';
import { Mailboxes } from '#devices/igb/mailbox';
import { AT, IGB_REGISTERS } from '#devices/igb/registers';
import { vfMsix } from '#devices/igb/vf';
import { VfRegisters } from '#devices/igb/vf-registers';

const STS = 1;
const ACK = 2;
const REQ = 1;
const VFU = 4;
const PFU = 8;
const RVFU = 16;
const PFSTS = 0x10;
const PFACK = 0x20;
const RSTI = 0x40;
const RSTD = 0x80;

function bench() {
  const { state: words } = new RegisterFile(IGB_REGISTERS, { size: 0x2_0000 });
  const heard: string[] = [];
  const boxes = new Mailboxes({ words, interruptPf: () => heard.push('pf'), interruptVf: (vf) => heard.push(`vf${vf}`) });
  return { words, boxes, heard, mbvficr: () => words[AT.MBVFICR] as number };
}

describe('82576 8.14.2, 8.14.3: who has the buffer', () => {
  test('each side is granted it while the other has not, and gives it back by writing 0', () => {
    const { boxes } = bench();
    boxes.writeVf(2, VFU);
    boxes.writePf(2, PFU);
    expect(boxes.readPf(2)).toBe(VFU);
    boxes.writeVf(2, 0);
    boxes.writePf(2, PFU);
    boxes.writeVf(2, VFU);
    expect(boxes.readVf(2)).toBe(PFU);
    boxes.writePf(2, 0);
    expect(boxes.readPf(2)).toBe(0);
  });

  test('RVFU takes it from a VF that is stuck, with what it had said', () => {
    const { boxes, mbvficr } = bench();
    boxes.writeVf(5, VFU | REQ);
    boxes.writeVf(6, REQ);
    boxes.writePf(5, RVFU | PFU);
    expect(boxes.readPf(5)).toBe(PFU);
    expect(mbvficr()).toBe(1 << 6);
  });

  test('the buffer cannot be written while the other side has it, and any two mailboxes are apart', () => {
    const { boxes } = bench();
    boxes.writeMemoryVf(1, 15, 0x1111);
    boxes.writeMemoryPf(2 * 16, 0x2222);
    boxes.writePf(1, PFU);
    boxes.writeMemoryVf(1, 15, 0xbad);
    boxes.writeVf(2, VFU);
    boxes.writeMemoryPf(2 * 16, 0xbad);
    expect(boxes.readMemoryVf(1, 15)).toBe(0x1111);
    expect(boxes.readMemoryVf(2, 0)).toBe(0x2222);
  });
});

describe('82576 8.14.2 to 8.14.5: who tells whom', () => {
  test('REQ and ACK of a VF reach MBVFICR and the PF, unless MBVFIMR masks it', () => {
    const { boxes, heard, mbvficr, words } = bench();
    boxes.writeVf(3, REQ);
    boxes.writeVf(3, ACK);
    expect(mbvficr()).toBe((1 << 3) | (1 << 19));
    expect(heard).toEqual(['pf', 'pf']);
    words[AT.MBVFIMR] = 0xf7;
    boxes.writeVf(3, REQ);
    expect(heard).toEqual(['pf', 'pf']);
    boxes.writeVf(4, REQ);
    expect(heard).toEqual(['pf', 'pf', 'pf']);
  });

  test('STS and ACK of the PF stay in V2PMAILBOX until the VF has read them, once', () => {
    const { boxes, heard } = bench();
    boxes.writePf(7, STS);
    boxes.writePf(7, ACK);
    expect(heard).toEqual(['vf7', 'vf7']);
    expect(boxes.peekVf(7)).toBe(PFSTS | PFACK);
    expect(boxes.readVf(7)).toBe(PFSTS | PFACK);
    expect(boxes.readVf(7)).toBe(0);
  });

  test('RSTI stands from the port reset until the PF is ready; RSTD is read once', () => {
    const { boxes } = bench();
    boxes.resetAll();
    expect([boxes.readVf(0), boxes.readVf(0), boxes.readVf(7)]).toEqual([RSTI, RSTI, RSTI]);
    boxes.pfReady();
    expect([boxes.readVf(0), boxes.readVf(0)]).toEqual([RSTD, 0]);
  });

  test('a VF that is reset lets go of everything, and of its words when another driver comes', () => {
    const { boxes, mbvficr } = bench();
    boxes.writeMemoryVf(1, 0, 7);
    boxes.writeVf(1, VFU | REQ | ACK);
    boxes.writePf(1, STS);
    boxes.resetVf(1, false);
    expect([boxes.readVf(1), boxes.readMemoryVf(1, 0), mbvficr()]).toEqual([0, 7, 0]);
    boxes.resetVf(1, true);
    expect(boxes.readMemoryVf(1, 0)).toBe(0);
  });
});

describe('whatever both sides do', () => {
  const side = fc.constantFrom('pf', 'vf');
  const command = fc.oneof(
    fc.record({ side, vf: fc.integer({ min: 0, max: 7 }), write: fc.nat(0xffff_ffff) }),
    fc.record({ side, vf: fc.integer({ min: 0, max: 7 }), dword: fc.integer({ min: 0, max: 15 }), value: fc.nat(0xffff_ffff) }),
  );

  test('nobody has what the other has, and no buffer changes under who has it', () => {
    fc.assert(
      fc.property(fc.array(command, { maxLength: 60 }), (commands) => {
        const { boxes } = bench();
        for (const c of commands) {
          const owner = boxes.readPf(c.vf);
          if ('write' in c) {
            if (c.side === 'pf') boxes.writePf(c.vf, c.write);
            else boxes.writeVf(c.vf, c.write);
            expect(boxes.readPf(c.vf)).not.toBe(VFU | PFU);
            // Only its owner, or RVFU, ends an ownership.
            if (c.side === 'vf' && owner === PFU) expect(boxes.readPf(c.vf)).toBe(PFU);
            if (c.side === 'pf' && owner === VFU && (c.write & RVFU) === 0) expect(boxes.readPf(c.vf)).toBe(VFU);
            continue;
          }
          const before = boxes.readMemoryVf(c.vf, c.dword);
          if (c.side === 'pf') boxes.writeMemoryPf(c.vf * 16 + c.dword, c.value);
          else boxes.writeMemoryVf(c.vf, c.dword, c.value);
          const locked = owner === (c.side === 'pf' ? VFU : PFU);
          expect(boxes.readMemoryVf(c.vf, c.dword)).toBe(locked ? before : c.value);
        }
      }),
    );
  });

  test('a VF that writes all over its window changes no word of a neighbour’s mailbox', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ offset: fc.nat(0x3fff), size: fc.constantFrom(1 as const, 2 as const, 4 as const), value: fc.nat(0xffff_ffff) }), {
          maxLength: 100,
        }),
        (writes) => {
          const { words, boxes } = bench();
          for (let dword = 0; dword < 128; dword++) words[AT.VMBMEM + dword] = 0x5a00_0000 + dword;
          const window = new VfRegisters(3, boxes, vfMsix(), () => new RegisterFile(IGB_REGISTERS, { size: 0x2_0000 }));
          for (const w of writes) {
            const offset = w.offset & ~(w.size - 1);
            window.write(offset, w.size, w.value);
            window.read(offset, w.size);
          }
          for (let dword = 0; dword < 128; dword++) if (dword >> 4 !== 3) expect(words[AT.VMBMEM + dword]).toBe(0x5a00_0000 + dword);
          for (let vf = 0; vf < 8; vf++) if (vf !== 3) expect(boxes.peekVf(vf)).toBe(0);
        },
      ),
    );
  });
});
