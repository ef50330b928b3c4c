// How a machine takes in virtio network devices: the device, its PCI function, and, of a physical function, its virtual functions; and what it then looks after of each.

import { VirtioNet, type VirtioNetOptions } from '#devices/virtio-net/device';
import { type NetSriovOptions, NetVfs } from '#devices/virtio-net/virtual-functions';
import { Ari } from '#pci/ari';
import type { PcieType, PciFunction } from '#pci/function';
import type { CallRouting } from '#virtio/pci-interrupts';
import { VirtioPci, type VirtioPciOptions } from '#virtio/pci-transport';
import { claim, giveBack, requireFree } from './machine-backends.ts';
import type { Resident } from './machine-residents.ts';
import { type MachinePart, placeOf } from './machine-state.ts';

export interface MachineNetOptions extends Omit<VirtioNetOptions, 'owner' | 'onLink' | 'onMac' | 'mayChangeMac'> {
  /** Makes it a physical function with virtual functions. */
  readonly sriov?: NetSriovOptions;
}

export interface NetInMachine {
  readonly net: VirtioNet;
  readonly pci: VirtioPci;
}

export interface NetSite {
  readonly routing: CallRouting;
  /** Behind an IOMMU whose use drivers have to acknowledge. */
  readonly insists: boolean;
  /** Has the machine's loop call `service`; returns what ends that. */
  readonly loop: (service: () => boolean) => () => void;
}

/** A device and its function, and with `sriov` its virtual functions; not attached yet. @throws VirtioOptionError, MachineError */
export function makeFunction(
  { sriov, ...options }: MachineNetOptions,
  transport: Omit<VirtioPciOptions, 'device' | 'routing'> & { readonly pcieType: PcieType },
  site: NetSite,
): NetInMachine & { readonly vfs: NetVfs | undefined } {
  const { pcieType, capabilities = [] } = transport;
  const vfs =
    sriov &&
    new NetVfs(sriov, options, {
      pcieType,
      routing: site.routing,
      insists: site.insists,
      made: (net) => {
        requireFree(net.backend);
        claim(net);
      },
      gone: giveBack,
    });
  requireFree(options.backend);
  const net = new VirtioNet({
    ...options,
    ...(site.insists && { features: { ACCESS_PLATFORM: true, ...options.features } }),
    ...(vfs && { owner: vfs.owner, onLink: (up: boolean) => vfs.followLink(up) }),
  });
  // Below a port its virtual functions may be functions of the same device, which takes ARI (PCIe 4.0 9.3.7.3).
  const hasAri = capabilities.some((placed) => ('capability' in placed ? placed.capability : placed) instanceof Ari);
  const own = vfs ? [...(pcieType === 'endpoint' && !hasAri ? [new Ari()] : []), vfs.capability] : [];
  const pci = new VirtioPci({ ...transport, capabilities: [...capabilities, ...own], device: net, routing: site.routing });
  return { net, pci, vfs };
}

/** Takes the backend, and says what there is to look after. */
export function residentOf({ net, pci }: NetInMachine, site: NetSite): Resident {
  claim(net);
  const part: MachinePart = {
    get name() {
      return `${net.name} at ${placeOf(pci.fn)}`;
    },
    save: () => pci.save(),
    restore: (state) => pci.restore(state),
    pause: () => net.pause(),
    get paused() {
      return net.paused;
    },
    resume: () => net.resume(),
  };
  const deaf = site.loop(() => pci.service());
  const leave = (): void => {
    deaf();
    giveBack(net);
  };
  return { fn: pci.fn, part, stopped: () => net.stopped, service: () => pci.service(), leave };
}

/** One that serves all virtual functions of a PF, and one part of the saved state for each, enabled or not. */
export function residentsOf(vfs: NetVfs, pf: PciFunction, site: NetSite): Resident[] {
  const deaf = site.loop(() => vfs.service());
  const leave = (): void => {
    deaf();
    vfs.close();
  };
  const whole: Resident = { fn: pf, part: undefined, stopped: () => vfs.stopped, service: () => vfs.service(), leave };
  const each = Array.from({ length: vfs.total }, (_, vf): Resident => {
    const part: MachinePart = {
      get name() {
        return `virtio-net VF ${vf} of ${placeOf(pf)}`;
      },
      save: () => vfs.save(vf),
      restore: (state) => vfs.restore(vf, state),
      pause: () => vfs.pause(vf),
      get paused() {
        return vfs.paused(vf);
      },
      resume: () => vfs.resume(vf),
    };
    return { fn: pf, part };
  });
  return [whole, ...each];
}
