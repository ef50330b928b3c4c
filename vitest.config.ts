import { defineConfig } from 'vitest/config';

// On CI's shared processors a test of several threads may run out of its patience by chance: it is tried once more there, and vitest says that it was.
const retry = process.env.CI ? 1 : 0;

export default defineConfig({
  test: { include: ['test/**/*.test.ts'], exclude: ['test/real/**'], pool: 'forks', testTimeout: 30_000, retry },
});
