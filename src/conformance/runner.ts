// Runs cases against a target, one after the other, each on a device that was just opened, and judges clauses by what the cases checked.

import { Bench, type Variant } from './bench.ts';
import { type Case, nameOf, variantsOf } from './case.ts';
import { CLAUSES, findClause, isBinding } from './catalogue.ts';
import { type Check, Session, SetupFailure, Skip } from './session.ts';
import type { Target, TargetSource } from './target.ts';

export type Verdict = 'pass' | 'fail' | 'skip';

export interface CaseResult {
  readonly case: string;
  /** With ring format and features: what `--case` takes. */
  readonly name: string;
  readonly clauses: readonly string[];
  readonly verdict: Verdict;
  /** Keys of the clauses that were checked, and held. */
  readonly held: readonly string[];
  /** Checks that did not hold. */
  readonly failures: readonly Check[];
  /** Of a skip; or of a failure that is no clause's: what stood in the way. */
  readonly reason?: string;
  /** Of a failure: the accesses that led there. */
  readonly trace?: readonly string[];
  readonly milliseconds: number;
}

export interface RunOptions {
  /** Only cases whose name, with or without ring format, begins with this. */
  readonly case?: string;
  /** Only these areas. */
  readonly areas?: readonly string[];
  /** Only cases that check this clause. */
  readonly clause?: string;
  /** Runs in an order drawn from this number. Default: the catalogue's. */
  readonly seed?: number;
  /** What one case may take, in milliseconds of real time. */
  readonly limit?: number;
  readonly signal?: AbortSignal;
  /** Told before and after each. */
  readonly onCase?: (done: number, total: number, name: string) => void;
  readonly onResult?: (result: CaseResult) => void;
}

export interface ClauseVerdict {
  readonly key: string;
  /** 'none': no case checks it. */
  readonly verdict: Verdict | 'none';
  /** Cases that checked it. */
  readonly cases: readonly string[];
  /** What failed, or why it was skipped. */
  readonly evidence: readonly string[];
}

export interface Report {
  readonly target: string;
  readonly seed?: number;
  readonly results: readonly CaseResult[];
  readonly milliseconds: number;
}

const LIMIT = 20_000;
/** Milliseconds of cases between two turns of the event loop: cases of a target in this process never wait, and a signal would not be heard before the last. */
const BREATH = 50;

export interface Planned {
  readonly test: Case;
  readonly variant: Variant;
  readonly name: string;
}

/** What `options` select, in order. */
export function plan(cases: readonly Case[], options: RunOptions = {}): Planned[] {
  const clause = options.clause === undefined ? undefined : (findClause(options.clause)?.key ?? options.clause);
  const place = new Map(CLAUSES.map(({ key }, i) => [key, i]));
  const first = (test: Case): number => Math.min(...test.clauses.map((key) => place.get(key) ?? Infinity));
  const planned = cases
    .filter((test) => clause === undefined || test.clauses.includes(clause))
    .filter(
      (test) => options.areas === undefined || options.areas.length === 0 || test.clauses.some((key) => options.areas?.includes(findClause(key)?.area ?? '')),
    )
    .map((test, i) => ({ test, i }))
    .sort((a, b) => first(a.test) - first(b.test) || a.i - b.i)
    .flatMap(({ test }) => variantsOf(test).map((variant) => ({ test, variant, name: nameOf(test, variant) })))
    .filter(({ name, test }) => options.case === undefined || name === options.case || test.name === options.case);
  return options.seed === undefined ? planned : shuffled(planned, options.seed);
}

function shuffled<T>(items: readonly T[], seed: number): T[] {
  const out = [...items];
  let state = seed >>> 0 || 1;
  for (let i = out.length - 1; i > 0; i--) {
    // xorshift32: the same order for the same seed, everywhere.
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const j = (state >>> 0) % (i + 1);
    [out[i], out[j]] = [out[j] as T, out[i] as T];
  }
  return out;
}

/** To be called between cases. */
export function breather(): () => Promise<void> {
  let last = performance.now();
  return async () => {
    if (performance.now() - last < BREATH) return;
    await new Promise((resolve) => setTimeout(resolve, 0));
    last = performance.now();
  };
}

/** After `options.signal` the report is of the cases that were run by then. */
export async function runCases(cases: readonly Case[], source: TargetSource, options: RunOptions = {}): Promise<Report> {
  const planned = plan(cases, options);
  const results: CaseResult[] = [];
  const started = performance.now();
  const breathe = breather();
  for (const [i, item] of planned.entries()) {
    await breathe();
    if (options.signal?.aborted) break;
    options.onCase?.(i, planned.length, item.name);
    const result = await runOne(item, source, options.limit ?? LIMIT);
    results.push(result);
    options.onResult?.(result);
  }
  return { target: source.name, ...(options.seed !== undefined && { seed: options.seed }), results, milliseconds: performance.now() - started };
}

export async function runOne({ test, variant, name }: Planned, source: TargetSource, limit = LIMIT): Promise<CaseResult> {
  const started = performance.now();
  let session: Session | undefined;
  let target: Target | undefined;
  let reason: string | undefined;
  let outcome: Verdict = 'pass';
  let timer: ReturnType<typeof setTimeout> | undefined;
  const work = async (): Promise<void> => {
    target = await source.open(test.model);
    session = new Session(target);
    const bench = new Bench(session, variant);
    await bench.discover();
    await test.run(bench, session);
  };
  try {
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new SetupFailure(`not done after ${limit} ms`)), limit);
    });
    await Promise.race([work(), late]);
  } catch (error) {
    if (error instanceof Skip) outcome = 'skip';
    else if (error instanceof SetupFailure) outcome = 'fail';
    else throw error;
    reason = error.message;
  } finally {
    clearTimeout(timer);
    await target?.close();
  }
  const failures = session?.checks.filter((check) => !check.holds) ?? [];
  if (failures.length > 0) outcome = 'fail';
  const broken = new Set(failures.map((check) => check.clause));
  const held = [...new Set(session?.checks.filter((check) => check.holds && !broken.has(check.clause)).map((check) => check.clause))];
  if (outcome === 'pass' && held.length === 0) throw new Error(`case ${name} checked nothing`);
  return {
    case: test.name,
    name,
    clauses: test.clauses,
    verdict: outcome,
    held,
    failures,
    ...(reason !== undefined && { reason }),
    ...(outcome === 'fail' && session && { trace: [...session.trace] }),
    milliseconds: performance.now() - started,
  };
}

/** Judges each clause that some case is about: failed when a check of it failed or its case could not come to it, passed when one held and none failed, else skipped. */
export function judge(report: Report): Map<string, ClauseVerdict> {
  const verdicts = new Map<string, ClauseVerdict>();
  for (const { key } of CLAUSES) {
    const about = report.results.filter((result) => result.clauses.includes(key));
    const failed = about.filter(
      (result) =>
        result.failures.some((check) => check.clause === key) || (result.verdict === 'fail' && result.failures.length === 0 && !result.held.includes(key)),
    );
    const passed = about.filter((result) => result.held.includes(key));
    const evidence = (failed.length > 0 ? failed : passed.length > 0 ? [] : about).flatMap((result) => {
      const own = result.failures
        .filter((check) => check.clause === key)
        .map((check) => `${result.name}: ${check.what}: expected ${check.expected}, saw ${check.seen}`);
      return own.length > 0 ? own : [`${result.name}: ${result.reason ?? 'failed before it was looked at'}`];
    });
    const verdict = failed.length > 0 ? 'fail' : passed.length > 0 ? 'pass' : about.length > 0 ? 'skip' : 'none';
    verdicts.set(key, { key, verdict, cases: [...new Set(about.map((result) => result.case))], evidence });
  }
  return verdicts;
}

/** Whether the target breaks a MUST or a MUST NOT. */
export function breaksMust(report: Report): boolean {
  const verdicts = judge(report);
  return CLAUSES.some((clause) => isBinding(clause) && verdicts.get(clause.key)?.verdict === 'fail');
}
