// Ends a guest whose server is gone. Its standard input is a pipe from the server, which the kernel closes however the server ends.

import { killSession } from './process-session.ts';

process.stdin.once('close', () => killSession(Number(process.argv[2])));
process.stdin.resume();
