// Real clients (npm run test:real): other people's drivers and programs against the built command. Three files at a time, for two cores: guests spend much of their time waiting for links and
// timers. The time of a test is a last resort: each wait within has its own bound and says what it waited for.

import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** What takes longest, by how the file's name begins, is begun first: nothing long is to be left alone at the end. */
const LONG = ['uml-pci-', 'vfio-user-', 'qemu', 'dpdk'];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => (LONG.findIndex((name) => moduleId.includes(`/${name}`)) + LONG.length + 1) % (LONG.length + 1);
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}

export default defineConfig({
  test: {
    include: ['test/real/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 3,
    sequence: { sequencer: LongestFirst },
    testTimeout: 900_000,
    hookTimeout: 300_000,
    reporters: ['verbose'],
  },
});
