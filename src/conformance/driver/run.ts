// Runs driver scenarios, one after the other, each on a device of its own, and says what the watch and the scenario found.

import { findClause } from '../catalogue.ts';
import { breather, type CaseResult, type Report } from '../runner.ts';
import { Skip } from '../session.ts';
import type { DriverMaker, DriverScenario } from './scenario.ts';
import { type BusWrap, Stage, type StageDeviceMaker } from './stage.ts';

export interface ScenarioOptions {
  /** Only scenarios whose name, with or without ring format, is this. */
  readonly case?: string;
  /** Only what is found about these areas, or this clause. */
  readonly areas?: readonly string[];
  readonly clause?: string;
  /** After it the report is of the scenarios that were run by then. */
  readonly signal?: AbortSignal;
  readonly onCase?: (done: number, total: number, name: string) => void;
}

export interface PlannedScenario {
  readonly scenario: DriverScenario;
  readonly ring: 'split' | 'packed';
  readonly name: string;
}

export function planScenarios(scenarios: readonly DriverScenario[], options: ScenarioOptions = {}): PlannedScenario[] {
  return scenarios
    .flatMap((scenario) => {
      const { rings = 'each' } = scenario;
      const over = rings === 'each' ? (['split', 'packed'] as const) : [rings === 'packed' ? ('packed' as const) : ('split' as const)];
      return over.map((ring) => ({ scenario, ring, name: rings === 'any' ? scenario.name : `${scenario.name} [${ring}]` }));
    })
    .filter(({ name, scenario }) => options.case === undefined || name === options.case || scenario.name === options.case);
}

export async function runScenarios(
  scenarios: readonly DriverScenario[],
  target: string,
  device: StageDeviceMaker,
  make: DriverMaker,
  options: ScenarioOptions = {},
  wrap?: BusWrap,
): Promise<Report> {
  const started = performance.now();
  const planned = planScenarios(scenarios, options);
  const results: CaseResult[] = [];
  const breathe = breather();
  for (const [i, item] of planned.entries()) {
    await breathe();
    if (options.signal?.aborted) break;
    options.onCase?.(i, planned.length, item.name);
    const result = await runScenario(item, device, make, wrap);
    const narrowed = narrow(result, options);
    if (narrowed) results.push(narrowed);
  }
  return { target, results, milliseconds: performance.now() - started };
}

async function runScenario({ scenario, ring, name }: PlannedScenario, device: StageDeviceMaker, make: DriverMaker, wrap?: BusWrap): Promise<CaseResult> {
  const started = performance.now();
  const stage = new Stage(scenario, ring, device, make, wrap);
  let reason: string | undefined;
  let skipped = false;
  try {
    scenario.run(stage);
  } catch (error) {
    // A driver that throws out of a situation it was brought into has not borne with it.
    reason = (error as Error).message;
    skipped = error instanceof Skip && stage.findings.failures.length === 0;
  }
  await stage.close();
  const { failures, held } = stage.findings;
  const seen = [...new Set([...scenario.clauses, ...stage.findings.looked.keys()])];
  return {
    case: scenario.name,
    name,
    clauses: seen,
    verdict: failures.length > 0 || (reason !== undefined && !skipped) ? 'fail' : skipped ? 'skip' : 'pass',
    held,
    failures,
    ...(reason !== undefined && { reason }),
    milliseconds: performance.now() - started,
  };
}

/** What of a result is about the clauses asked for; undefined: nothing. */
function narrow(result: CaseResult, { areas = [], clause }: ScenarioOptions): CaseResult | undefined {
  if (areas.length === 0 && clause === undefined) return result;
  const wanted = clause === undefined ? undefined : (findClause(clause)?.key ?? clause);
  const fits = (key: string): boolean => (wanted === undefined || key === wanted) && (areas.length === 0 || areas.includes(findClause(key)?.area ?? ''));
  const clauses = result.clauses.filter(fits);
  if (clauses.length === 0) return undefined;
  const failures = result.failures.filter((check) => fits(check.clause));
  const verdict = failures.length > 0 || (result.verdict === 'fail' && result.failures.length === 0) ? 'fail' : result.verdict === 'skip' ? 'skip' : 'pass';
  return { ...result, clauses, failures, held: result.held.filter(fits), verdict };
}
