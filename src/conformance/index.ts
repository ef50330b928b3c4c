// The VIRTIO 1.4 conformance suite: a catalogue of clauses, cases that check them, and the port through which they reach a device.

export { type Case, nameOf, variantsOf } from './case.ts';
export { CASES } from './cases.ts';
export { AREAS, CLAUSES, type Clause, findClause, isBinding, type Party, type Strength } from './catalogue.ts';
export { Findings } from './driver/findings.ts';
export { DriverJudge } from './driver/judge.ts';
export { PciJudge } from './driver/pci-judge.ts';
export type { Peek } from './driver/pci-places.ts';
export { planScenarios, runScenarios, type ScenarioOptions } from './driver/run.ts';
export type { DriverControl, DriverHandle, DriverMaker, DriverScenario, DriverWish, FrameTaken, SendRequest } from './driver/scenario.ts';
export { SCENARIOS } from './driver/scenarios.ts';
export type { DriverEvents, DriverView, QueueSetup } from './driver/view.ts';
export { viewOf, WatchedBus } from './driver-watch.ts';
export { breaksMust, type CaseResult, type ClauseVerdict, judge, plan, type Report, type RunOptions, runCases, type Verdict } from './runner.ts';
export type { Check } from './session.ts';
export type { AccessBytes, Awaitable, Hands, Target, TargetSource, WireOffload } from './target.ts';
export { Cable } from './targets/cable.ts';
export { DATA_PLANE_NAMES, type DataPlaneName } from './targets/data-plane.ts';
export { inprocSource } from './targets/inproc.ts';
export { watchOwnDriver } from './targets/own-driver.ts';
export { type QemuOptions, qemuSource } from './targets/qemu.ts';
