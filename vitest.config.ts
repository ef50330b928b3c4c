import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: { include: ['test/**/*.test.ts'], exclude: ['test/real/**'], pool: 'forks', testTimeout: 30_000 },
});
