// Interrupts: MSI-X vectors, ISR status and INTx (virtio 1.4 4.1.4.5, 4.1.5.1.2, 4.1.5.3, 4.1.5.4).

import type { Bench } from '../bench.ts';
import type { Case } from '../case.ts';
import { NO_VECTOR, PCI, PCI_STATUS } from '../layout.ts';
import type { Session } from '../session.ts';
import { plainFrame } from './frames.ts';

const ISR_QUEUE = 1;
const ISR_CONFIG = 2;

/** Changes the configuration from outside, in a way a driver with STATUS is told of. */
async function pullCable(s: Session): Promise<void> {
  const { hands } = s.target;
  if (hands?.setLink === undefined) s.skip('the target has no way to change the configuration from outside');
  await hands.setLink(false);
  await s.target.settle();
}

async function transmitOne(b: Bench, number = 1): Promise<void> {
  await b.net.transmit(plainFrame(number));
}

export const MSIX_CASES: readonly Case[] = [
  {
    name: 'msix/table-size',
    clauses: ['msix.1', 'msix.2'],
    rings: 'any',
    async run(b, s) {
      const msix = b.needMsix();
      s.checkThat('msix.1', 'vectors', msix.vectors >= 2 && msix.vectors <= 0x800, '2 to 0x800', msix.vectors);
      // The last vector the Table Size tells of can be mapped, and its entry holds what is written there; the next one cannot be.
      await b.start({ before: 'DRIVER_OK' });
      await b.set('config_msix_vector', msix.vectors - 1);
      s.check('msix.2', 'config_msix_vector set to the last vector of the table', await b.get('config_msix_vector'), msix.vectors - 1);
      await s.barWrite(msix.bar, msix.offset + 16 * (msix.vectors - 1) + 8, 4, 0x1234);
      s.check('msix.2', "message data of the table's last entry", await s.barRead(msix.bar, msix.offset + 16 * (msix.vectors - 1) + 8, 4), 0x1234);
    },
  },
  {
    name: 'msix/mapping',
    clauses: ['msix.4', 'msix.5', 'msix.6', 'msix.8'],
    rings: 'any',
    async run(b, s) {
      const { vectors } = b.needMsix();
      await b.start({ before: 'FEATURES_OK' });
      await b.enableMsix();
      for (const vector of [0, 1, vectors - 1]) {
        await b.set('config_msix_vector', vector);
        s.check('msix.4', `config_msix_vector after ${vector} was written`, await b.get('config_msix_vector'), vector);
        for (const queue of [0, 1]) {
          await b.setQueue(queue, 'queue_msix_vector', vector);
          const seen = await b.get('queue_msix_vector');
          s.check('msix.4', `queue_msix_vector of queue ${queue} after ${vector} was written`, seen, vector);
          s.check('msix.6', `queue_msix_vector of queue ${queue}, mapped`, seen, vector);
          s.checkThat('msix.8', `queue_msix_vector of queue ${queue} with few vectors in use`, seen !== NO_VECTOR, 'a mapping', seen);
        }
      }
      await b.set('config_msix_vector', NO_VECTOR);
      s.check('msix.5', 'config_msix_vector after 0xffff was written', await b.get('config_msix_vector'), NO_VECTOR);
      for (const queue of [0, 1]) {
        await b.setQueue(queue, 'queue_msix_vector', NO_VECTOR);
        s.check('msix.5', `queue_msix_vector of queue ${queue} after 0xffff was written`, await b.get('queue_msix_vector'), NO_VECTOR);
      }
      await b.setQueue(0, 'queue_msix_vector', 1);
      await b.set('queue_select', 1);
      s.check('msix.6', 'queue_msix_vector of queue 1, unmapped, with queue 0 mapped', await b.get('queue_msix_vector'), NO_VECTOR);
    },
  },
  {
    name: 'msix/failed-mapping',
    clauses: ['msix.9'],
    rings: 'any',
    async run(b, s) {
      const { vectors } = b.needMsix();
      await b.start({ before: 'DRIVER_OK' });
      for (const vector of [vectors, 0x7ff, 0xfffe]) {
        if (vector < vectors) continue;
        await b.set('config_msix_vector', vector);
        s.check('msix.9', `config_msix_vector after vector ${vector} of ${vectors}`, await b.get('config_msix_vector'), NO_VECTOR);
        await b.setQueue(0, 'queue_msix_vector', vector);
        s.check('msix.9', `queue_msix_vector after vector ${vector} of ${vectors}`, await b.get('queue_msix_vector'), NO_VECTOR);
      }
    },
  },
  {
    name: 'msix/queue-vector-decides',
    clauses: ['msix.D3'],
    async run(b, s) {
      await b.start();
      await b.messages();
      const wanted = b.vectorOf(1);
      await transmitOne(b);
      s.check('msix.D3', 'messages after a transmit buffer was used', await b.messages(), [wanted]);
      await b.setQueue(1, 'queue_msix_vector', 0);
      await transmitOne(b, 2);
      s.check('msix.D3', "messages after the queue's vector was moved to 0", await b.messages(), [0]);
      await b.net.inject(plainFrame(3));
      s.check('msix.D3', 'messages after a frame was received', await b.messages(), [b.vectorOf(0)]);
    },
  },
  {
    name: 'msix/queue-without-vector',
    clauses: ['msix.16', 'msix.D2'],
    async run(b, s) {
      await b.start();
      await b.setQueue(1, 'queue_msix_vector', NO_VECTOR);
      await b.messages();
      await transmitOne(b);
      s.ensure((await b.net.transmitQueue().ring.used()).length === 1, 'the transmit buffer was not used');
      s.check('msix.16', 'messages for a queue without a vector', await b.messages(), []);
      s.check('msix.16', 'INTx line', await s.target.intx(), false);
      await b.setQueue(1, 'queue_msix_vector', 1);
      await b.setQueue(1, 'queue_msix_vector', NO_VECTOR);
      await transmitOne(b, 2);
      s.check('msix.D2', 'messages after the vector was taken away again', await b.messages(), []);
    },
  },
  {
    name: 'msix/configuration-without-vector',
    clauses: ['msix.18'],
    async run(b, s) {
      await b.start({ features: ['STATUS'] });
      await b.set('config_msix_vector', NO_VECTOR);
      await b.messages();
      await pullCable(s);
      s.ensure(((await b.config('status')) & 1) === 0, 'the link is still up');
      s.check('msix.18', 'messages for a configuration change without a vector', await b.messages(), []);
      s.check('msix.18', 'INTx line', await s.target.intx(), false);
    },
  },
  {
    name: 'msix/no-intx-beside-it',
    clauses: ['msix.D1'],
    async run(b, s) {
      await b.start();
      await transmitOne(b);
      s.check('msix.D1', 'INTx line after a buffer was used under MSI-X', await s.target.intx(), false);
      s.check('msix.D1', 'ISR bit 0 after a buffer was used under MSI-X', (await b.isr()) & ISR_QUEUE, 0);
    },
  },
  {
    name: 'pci/isr-queue',
    clauses: ['pci.72', 'pci.73', 'pci.74', 'pci.D4', 'pci.D5'],
    async run(b, s) {
      await b.start({ msix: false });
      await b.isr();
      s.check('pci.73', 'PCI Status, Interrupt Status, with nothing to report', (await s.configRead(PCI.STATUS, 2)) & PCI_STATUS.INTERRUPT, 0);
      await transmitOne(b);
      s.check('pci.72', 'INTx line after a buffer was used', await s.target.intx(), true);
      s.check(
        'pci.73',
        'PCI Status, Interrupt Status, with a queue interrupt',
        (await s.configRead(PCI.STATUS, 2)) & PCI_STATUS.INTERRUPT,
        PCI_STATUS.INTERRUPT,
      );
      const isr = await b.isr();
      s.check('pci.72', 'ISR bit 0', isr & ISR_QUEUE, ISR_QUEUE);
      s.check('pci.D5', 'ISR bits 2 to 7', isr & 0xfc, 0);
      s.check('pci.D4', 'INTx line after ISR was read', await s.target.intx(), false);
      s.check('pci.73', 'PCI Status, Interrupt Status, after ISR was read', (await s.configRead(PCI.STATUS, 2)) & PCI_STATUS.INTERRUPT, 0);
      s.check('pci.74', 'ISR when read again', await b.isr(), 0);
    },
  },
  {
    name: 'pci/isr-configuration',
    clauses: ['pci.71', 'pci.73', 'config.D1'],
    async run(b, s) {
      await b.start({ features: ['STATUS'], msix: false });
      await b.isr();
      await pullCable(s);
      s.check('config.D1', 'INTx line after the configuration changed', await s.target.intx(), true);
      s.check(
        'pci.73',
        'PCI Status, Interrupt Status, with a configuration change',
        (await s.configRead(PCI.STATUS, 2)) & PCI_STATUS.INTERRUPT,
        PCI_STATUS.INTERRUPT,
      );
      s.check('pci.71', 'ISR bit 1', (await b.isr()) & ISR_CONFIG, ISR_CONFIG);
    },
  },
  {
    name: 'pci/isr-configuration-under-msix',
    clauses: ['pci.71', 'config.D1'],
    reading: 'As worded, ISR bit 1 is set also when the notification is an MSI-X message; bit 0 may be set beside it.',
    async run(b, s) {
      await b.start({ features: ['STATUS'] });
      await b.isr();
      await b.messages();
      await pullCable(s);
      s.check('config.D1', 'messages after the configuration changed', await b.messages(), [0]);
      s.check('pci.71', 'ISR bit 1', (await b.isr()) & ISR_CONFIG, ISR_CONFIG);
    },
  },
];
