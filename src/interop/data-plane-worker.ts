// What a data plane's thread runs when its rings belong to other processes: the same loop as everywhere, in a thread that can write eventfds.

import { setEventWriter } from '#core/interrupts';
import { openNative } from './native.ts';

const native = openNative();
// A full event descriptor (EAGAIN) is one the other side has yet to look at.
setEventWriter((descriptor) => void native.events.writeEvent(descriptor));

export { default } from '#nicbox/data-plane-worker';
