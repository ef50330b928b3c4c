// A lab file: which guests there are, what devices they have and what connects them, as JSON a person writes. Read strictly: whatever cannot be built is refused
// before anything is started, with the place in the file and what to do.

import { z } from 'zod';

/** A lab that cannot be read or built. `code` is stable; the message is one line fit for a terminal. */
export class LabError extends Error {
  readonly code = 'NICBOX_LAB';
}

const name = z.string().regex(/^[a-z][a-z0-9-]{0,31}$/, 'a name is 1 to 32 lower-case letters, digits and dashes, and starts with a letter');
const mac = z.string().regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i, 'a MAC address looks like 52:54:00:12:34:56');

/** "64 MiB", "2 GiB": a multiple of 4 KiB. */
const memory = z
  .string()
  .regex(/^[1-9][0-9]* ?(KiB|MiB|GiB)$/, 'memory is a number and a unit, such as "64 MiB"')
  .transform((text) => Number.parseInt(text, 10) * { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[text.at(-3) as 'K' | 'M' | 'G'])
  .refine((bytes) => bytes >= 2 ** 24 && bytes <= 2 ** 33, 'a guest has 16 MiB to 8 GiB of memory');

const device = z.strictObject({
  type: z.literal('virtio-net'),
  link: name,
  mac: mac.optional(),
  /** Where in the PCIe tree: under a root port of its own, or under a downstream port of a switch the guest's devices share. */
  under: z.enum(['root-port', 'switch']).default('root-port'),
  queuePairs: z.int().min(1).max(64).default(1),
  mtu: z.int().min(68).max(65535).optional(),
  /** Feature bits to insist on or leave out, by the specification's names: docs/virtio-net.md. */
  features: z.record(z.string(), z.boolean()).default({}),
});

const guest = z.strictObject({ name, memory: memory.default(2 ** 26), devices: z.array(device).min(1).max(16) });

const link = z.strictObject({ name, type: z.enum(['direct', 'switch']) });

const lab = z.strictObject({ guests: z.array(guest).min(1).max(16), links: z.array(link).min(1) });

export type LabDescription = z.infer<typeof lab>;
export type GuestDescription = LabDescription['guests'][number];
export type DeviceDescription = GuestDescription['devices'][number];

function unique(kind: string, names: readonly string[]): void {
  const seen = new Set<string>();
  for (const n of names) {
    if (seen.has(n)) throw new LabError(`two ${kind}s are called "${n}": give each its own name`);
    seen.add(n);
  }
}

/** Checks a parsed lab file. @throws LabError */
export function readLab(value: unknown): LabDescription {
  const result = lab.safeParse(value);
  if (!result.success) {
    const issue = result.error.issues[0] as z.core.$ZodIssue;
    const where = issue.path.map((p) => (typeof p === 'number' ? `[${p}]` : `.${String(p)}`)).join('');
    throw new LabError(`lab file${where === '' ? '' : ` at ${where.replace(/^\./, '')}`}: ${issue.message}`);
  }
  const { guests, links } = result.data;
  unique(
    'guest',
    guests.map((g) => g.name),
  );
  unique(
    'link',
    links.map((l) => l.name),
  );
  for (const l of links) {
    const users = guests.flatMap((g) => g.devices.filter((d) => d.link === l.name).map(() => g.name));
    if (l.type === 'direct' && users.length !== 2)
      throw new LabError(`link "${l.name}" is direct, so it joins exactly two devices; ${users.length} name it (make it a "switch", or change the devices)`);
  }
  for (const g of guests)
    for (const d of g.devices)
      if (!links.some((l) => l.name === d.link))
        throw new LabError(`guest "${g.name}" has a device on link "${d.link}", which is not in "links" (${links.map((l) => l.name).join(', ')})`);
  return result.data;
}

/** Parses and checks the text of a lab file. @throws LabError */
export function parseLab(text: string): LabDescription {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new LabError(`lab file is not JSON: ${(error as Error).message}`);
  }
  return readLab(value);
}
