// Real clients (npm run test:real): other people's drivers and programs against the built command. One file after the other: they share two cores. The time of a test
// is a last resort: each wait within has its own bound and says what it waited for.

import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: { include: ['test/real/**/*.test.ts'], pool: 'forks', fileParallelism: false, testTimeout: 300_000, hookTimeout: 60_000, reporters: ['verbose'] },
});
