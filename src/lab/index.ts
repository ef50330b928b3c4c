// Experiments: lab files, the machines and guests they describe, and the tour.

export { inspectLab, type ListingFormat, listMachine } from './inspect.ts';
export { type DataPlane, Lab } from './lab.ts';
export { type DeviceDescription, type GuestDescription, type LabDescription, LabError, parseLab, readLab } from './lab-file.ts';
export { type PassOptions, type PassResult, runPass } from './replay.ts';
export { runSpread, type SpreadResult } from './spread.ts';
export { buildMachine, type LabDevice, type LabMachine, type TopologyOptions } from './topology.ts';
export { packFrames, runTour, type TourListener, type TourOptions, type TourResult } from './tour.ts';
export { TOUR_LAB } from './tour-lab.ts';
