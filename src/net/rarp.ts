// The announcement that a station has moved: a reverse ARP request (RFC 903) in which it asks for its own address, as a broadcast. Nobody answers; switches learn where the
// station is now.

const ETHERTYPE_RARP = 0x8035;
const ETHERTYPE_IPV4 = 0x0800;
const HARDWARE_ETHERNET = 1;
const REQUEST_REVERSE = 3;
/** The shortest Ethernet frame, without FCS. */
const FRAME_BYTES = 60;

/** @param mac six bytes */
export function rarpAnnouncement(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(FRAME_BYTES);
  const view = new DataView(frame.buffer);
  frame.fill(0xff, 0, 6);
  frame.set(mac, 6);
  view.setUint16(12, ETHERTYPE_RARP);
  view.setUint16(14, HARDWARE_ETHERNET);
  view.setUint16(16, ETHERTYPE_IPV4);
  frame[18] = 6;
  frame[19] = 4;
  view.setUint16(20, REQUEST_REVERSE);
  // Sender and target hardware address; protocol addresses are not known.
  frame.set(mac, 22);
  frame.set(mac, 32);
  return frame;
}
