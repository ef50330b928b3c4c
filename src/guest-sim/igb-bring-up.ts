// What a driver of the 82576 does before there are queues (datasheet 4.5): reset, station address, link and flow control.

import * as k from './igb-constants.ts';
import { addressOf, isUnicast } from './igb-mailbox.ts';
import { IgbError, type IgbRegisters } from './igb-registers.ts';
import { lookFor, PHY_ADVERTISE, PHY_ADVERTISE_PAUSE, PHY_AUTONEG_ENABLE, PHY_AUTONEG_RESTART, PHY_CONTROL, PHY_ID1 } from './intel-registers.ts';

const { REG } = k;
/** PAUSE when this many bytes of the receive packet buffer are taken, and go on at that. */
const PAUSE_ABOVE = 0xa000;
const PAUSE_BELOW = 0x8000;
const PAUSE_QUANTA = 0x0680;
const PAUSE_LOW = 0x00c2_8001;
const PAUSE_HIGH = 0x0100;
const PAUSE_TYPE = 0x8808;
const TAG_TYPE = 0x8100;

/** 4.5.3, 4.6.3: causes off, no more requests on the bus, reset, and wait for what the EEPROM loads. @throws IgbError */
export function resetDevice(registers: IgbRegisters): void {
  registers.write(REG.IMC, k.INTERRUPT_ALL);
  registers.write(REG.EIMC, k.INTERRUPT_ALL);
  registers.write(REG.RCTL, 0);
  registers.write(REG.TCTL, k.TCTL_PSP);
  registers.flush();
  registers.change(REG.CTRL, k.CTRL_GIO_MASTER_DISABLE);
  if (!lookFor(registers, REG.STATUS, k.STATUS_GIO_MASTER, 0)) throw new IgbError('ERR_IGB_RESET', 'requests on the bus do not end (STATUS.GIO Master Enable)');
  registers.change(REG.CTRL, k.CTRL_RST);
  if (!lookFor(registers, REG.CTRL, k.CTRL_RST, 0)) throw new IgbError('ERR_IGB_RESET', 'CTRL.RST does not clear itself');
  if (!lookFor(registers, REG.EECD, k.EECD_AUTO_RD, k.EECD_AUTO_RD)) throw new IgbError('ERR_IGB_RESET', 'the EEPROM is not loaded (EECD.Auto_RD)');
  const done = k.EEMNGCTL_CFG_DONE << registers.port;
  if (!lookFor(registers, REG.EEMNGCTL, done, done)) throw new IgbError('ERR_IGB_RESET', 'the PHY is not configured (EEMNGCTL.CFG_DONE)');
  registers.write(REG.IMC, k.INTERRUPT_ALL);
  registers.write(REG.EIMC, k.INTERRUPT_ALL);
  registers.read(REG.ICR);
  registers.write(REG.EICR, k.INTERRUPT_ALL);
}

/** What the reset loaded into the first receive address (8.10.16). @throws IgbError */
export function permanentAddress(registers: IgbRegisters): Uint8Array {
  const high = registers.read(REG.RAH);
  const mac = addressOf(registers.read(REG.RAL), high);
  if ((high & k.RAH_AV) === 0 || !isUnicast(mac)) throw new IgbError('ERR_IGB_MAC', 'the EEPROM holds no station address');
  return mac;
}

/** 4.5.7, 8.2.1: speed and duplex from the PHY, flow control as both ends agree. With VME clear no tag is inserted (7.4.3): what is taken out, pools say for themselves. @throws IgbError */
export function setUpLink(registers: IgbRegisters, options: { readonly flowControl: boolean; readonly tags: boolean }): void {
  const { flowControl, tags } = options;
  const pause = k.CTRL_RFCE | k.CTRL_TFCE;
  const set = k.CTRL_SLU | k.CTRL_FD | (flowControl ? pause : 0) | (tags ? k.CTRL_VME : 0);
  registers.change(REG.CTRL, set, k.CTRL_ILOS | k.CTRL_FRCSPD | k.CTRL_FRCDPLX | k.CTRL_PHY_RST | pause | k.CTRL_VME);
  registers.write(REG.FCAL, PAUSE_LOW);
  registers.write(REG.FCAH, PAUSE_HIGH);
  registers.write(REG.FCT, PAUSE_TYPE);
  registers.write(REG.FCTTV, flowControl ? PAUSE_QUANTA : 0);
  registers.write(REG.FCRTH, flowControl ? PAUSE_ABOVE : 0);
  registers.write(REG.FCRTL, flowControl ? PAUSE_BELOW : 0);
  // The inner tag's type in the lower half (8.2.7).
  registers.change(REG.VET, TAG_TYPE, 0xffff);
  registers.withPhy((phy) => {
    if (phy.read(PHY_ID1) === 0xffff) throw new IgbError('ERR_IGB_PHY', 'no PHY answers');
    phy.write(PHY_ADVERTISE, (phy.read(PHY_ADVERTISE) & ~PHY_ADVERTISE_PAUSE) | (flowControl ? PHY_ADVERTISE_PAUSE : 0));
    phy.write(PHY_CONTROL, phy.read(PHY_CONTROL) | PHY_AUTONEG_ENABLE | PHY_AUTONEG_RESTART);
  });
}
