// The errors PCI Express knows, by their bit in the AER status registers, and what happens when a function detects one: PCIe 4.0 6.2.5 (the flow of
// detection, logging and signalling), 6.2.3.2.4 (advisory non-fatal errors) and 6.2.4.2 (multiple header recording). Pure decisions over register values;
// aer.ts holds the registers. Left out: TLP prefix logs, ECRC (no TLPs here to check), AtomicOp and multicast errors.

export const UncorrectableError = {
  dataLinkProtocol: 4,
  surpriseDown: 5,
  poisonedTlp: 12,
  flowControlProtocol: 13,
  completionTimeout: 14,
  completerAbort: 15,
  unexpectedCompletion: 16,
  receiverOverflow: 17,
  malformedTlp: 18,
  ecrc: 19,
  unsupportedRequest: 20,
  acsViolation: 21,
  uncorrectableInternal: 22,
} as const;
export type UncorrectableError = (typeof UncorrectableError)[keyof typeof UncorrectableError];

export const CorrectableError = {
  receiver: 0,
  badTlp: 6,
  badDllp: 7,
  replayRollover: 8,
  replayTimeout: 12,
  advisoryNonFatal: 13,
  correctedInternal: 14,
  headerLogOverflow: 15,
} as const;
export type CorrectableError = (typeof CorrectableError)[keyof typeof CorrectableError];

const bits = (list: readonly number[]): number => list.reduce((all, bit) => all | (1 << bit), 0) >>> 0;

export const UNCORRECTABLE_BITS = bits(Object.values(UncorrectableError));
export const CORRECTABLE_BITS = bits(Object.values(CorrectableError));
/** PCIe 4.0 7.8.4.4 defaults: link, flow control, overflow, malformed and internal errors are fatal. */
export const SEVERITY_DEFAULT = bits([4, 5, 13, 17, 18, 22]);
/** 7.8.4.3: only the internal error is masked out of reset. */
export const UNCORRECTABLE_MASK_DEFAULT = bits([22]);
/** 7.8.4.6: advisory, corrected internal and header log overflow are masked out of reset. */
export const CORRECTABLE_MASK_DEFAULT = bits([13, 14, 15]);

/** What travels up to the root port. */
export type ErrorMessage = 'correctable' | 'non-fatal' | 'fatal';

export type DetectedError =
  | { readonly kind: 'correctable'; readonly error: CorrectableError }
  | {
      readonly kind: 'uncorrectable';
      readonly error: UncorrectableError;
      /** The four header dwords of the TLP that carried it, first byte in the top bits. */
      readonly header?: readonly [number, number, number, number];
      /**
       * The detecting agent is not the one to judge (6.2.3.2.4: a completer of a non-posted unsupported request, an intermediate receiver of a poisoned
       * TLP, ...): with non-fatal severity it is then only advised with a correctable message.
       */
      readonly advisory?: boolean;
    };

/** The registers the decision looks at. */
export interface ErrorControls {
  readonly severity: number;
  readonly uncorrectableMask: number;
  readonly correctableMask: number;
  /** Command register bit 8. */
  readonly serrEnable: boolean;
  /** Device Control bits 3:0: correctable, non-fatal, fatal, unsupported request reporting. */
  readonly deviceControl: number;
  /** False without an AER capability: nothing is masked, severities are the defaults. */
  readonly hasAer: boolean;
}

/** What is to be done about one detected error. */
export interface ErrorOutcome {
  /** Device Status bits 3:0 to set. */
  readonly deviceStatus: number;
  readonly uncorrectableStatus: number;
  readonly correctableStatus: number;
  /** Whether the header and first error pointer are to be recorded. */
  readonly record: boolean;
  readonly message: ErrorMessage | undefined;
  /** Status bit 14, Signaled System Error. */
  readonly signaledSystemError: boolean;
}

const DETECTED_CORRECTABLE = 1;
const DETECTED_NON_FATAL = 2;
const DETECTED_FATAL = 4;
const DETECTED_UNSUPPORTED = 8;
const REPORT_UNSUPPORTED = 8;
const ADVISORY = 1 << CorrectableError.advisoryNonFatal;

/** PCIe 4.0 6.2.5, figure 6-2. */
export function judge(detected: DetectedError, controls: ErrorControls): ErrorOutcome {
  if (detected.kind === 'correctable') {
    const bit = 1 << detected.error;
    const silent = (controls.correctableMask & bit) !== 0 || (controls.deviceControl & DETECTED_CORRECTABLE) === 0;
    return outcome(DETECTED_CORRECTABLE, 0, bit, false, silent ? undefined : 'correctable', false);
  }
  const bit = 1 << detected.error;
  const unsupported = detected.error === UncorrectableError.unsupportedRequest;
  const requestBit = unsupported ? DETECTED_UNSUPPORTED : 0;
  const fatal = (controls.severity & bit) !== 0;
  const masked = (controls.uncorrectableMask & bit) !== 0;
  // An unsupported request is reported only if its own enable is on too, except by way of SERR#.
  const reportable = !unsupported || (controls.deviceControl & REPORT_UNSUPPORTED) !== 0;

  if (detected.advisory === true && !fatal) {
    const quiet = (controls.correctableMask & ADVISORY) !== 0;
    // 6.2.3.2.4: with the advisory mask set, neither the uncorrectable status nor the header log changes.
    const status = quiet && controls.hasAer ? 0 : bit;
    const send = !quiet && !masked && reportable && (controls.deviceControl & DETECTED_CORRECTABLE) !== 0;
    return outcome(DETECTED_CORRECTABLE | requestBit, status, ADVISORY, status !== 0 && !masked, send ? 'correctable' : undefined, false);
  }

  const detectedBit = fatal ? DETECTED_FATAL : DETECTED_NON_FATAL;
  const send = !masked && (controls.serrEnable || (reportable && (controls.deviceControl & detectedBit) !== 0));
  return outcome(detectedBit | requestBit, bit, 0, !masked, send ? (fatal ? 'fatal' : 'non-fatal') : undefined, send && controls.serrEnable);
}

function outcome(
  deviceStatus: number,
  uncorrectableStatus: number,
  correctableStatus: number,
  record: boolean,
  message: ErrorMessage | undefined,
  signaledSystemError: boolean,
): ErrorOutcome {
  return { deviceStatus, uncorrectableStatus: uncorrectableStatus >>> 0, correctableStatus, record, message, signaledSystemError };
}

export interface HeaderRecord {
  readonly error: number;
  readonly header: readonly [number, number, number, number];
}

/**
 * The header log. One record is shown; with multiple header recording on, later ones wait behind it and come forward as software clears the shown
 * error's status bit.
 */
export class HeaderLog {
  readonly depth: number;
  #records: HeaderRecord[] = [];

  constructor(depth: number) {
    this.depth = depth;
  }

  get records(): readonly HeaderRecord[] {
    return this.#records;
  }

  get shown(): HeaderRecord | undefined {
    return this.#records[0];
  }

  /** Returns false when there is no room: the header is lost, which is the header log overflow error. */
  add(record: HeaderRecord, multiple: boolean): boolean {
    if (this.#records.length >= (multiple ? this.depth : 1)) return false;
    this.#records.push(record);
    return true;
  }

  /**
   * Software cleared `cleared` status bits. Returns the bits that stay set because an unserviced record of that kind is still waiting: only the record
   * shown was serviced (6.2.4.2).
   */
  clear(cleared: number): number {
    const shown = this.#records[0];
    if (shown !== undefined && ((cleared >>> shown.error) & 1) !== 0) this.#records.shift();
    return this.#records.reduce((left, r) => left | (1 << r.error), 0) & cleared;
  }

  /** Multiple recording was switched off: only the record shown is kept. */
  truncate(): void {
    this.#records.length = Math.min(this.#records.length, 1);
  }

  reset(records: readonly HeaderRecord[] = []): void {
    this.#records = [...records];
  }
}
