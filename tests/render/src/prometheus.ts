// Queries as Grafana's Prometheus data source sends them, and answers as the frames it makes of them.
import { DataFrame, FieldType, Labels, TimeRange, rangeUtil, renderLegendFormat, toDataFrame } from '@grafana/data';

export interface Job {
  prometheus: string;
  scrapeMs: number;
  variables: Record<string, string>;
}
export interface Target {
  refId: string;
  expr: string;
  format?: string;
  instant?: boolean;
  legendFormat?: string;
}
type Sample = [number, string];
interface Series {
  metric: Labels;
  value?: Sample;
  values?: Sample[];
}

export function stepMs(job: Job, range: TimeRange, pixels: number): number {
  const spanMs = range.to.valueOf() - range.from.valueOf();
  const wanted = rangeUtil.calculateInterval(range, pixels, `${job.scrapeMs}ms`).intervalMs;
  return Math.max(wanted, rangeUtil.roundInterval(Math.ceil(spanMs / 11000)));
}

export function filled(text: string, job: Job, range: TimeRange, step: number): string {
  const seconds = (ms: number) => `${Math.max(1, Math.round(ms / 1000))}s`;
  const known: Record<string, string> = {
    ...job.variables,
    __range: seconds(range.to.valueOf() - range.from.valueOf()),
    __interval: seconds(step),
    __rate_interval: seconds(Math.max(step + job.scrapeMs, 4 * job.scrapeMs)),
  };
  return text.replace(/\$([a-z_]\w*)/g, (whole, name) => {
    if (!(name in known)) throw new Error(`no variable ${whole} on this dashboard`);
    return known[name];
  });
}

async function ask(job: Job, path: string, parameters: Record<string, string | number>): Promise<Series[]> {
  const body = new URLSearchParams(Object.entries(parameters).map(([key, value]) => [key, String(value)]));
  const answer = await (await fetch(`${job.prometheus}/api/v1/${path}`, { method: 'POST', body })).json();
  if (answer.status !== 'success') throw new Error(`${answer.error} in ${parameters.query}`);
  return answer.data.result;
}

export async function query(job: Job, target: Target, range: TimeRange, step: number, tables: number): Promise<DataFrame[]> {
  const expr = filled(target.expr, job, range, step);
  const [from, to] = [range.from.valueOf(), range.to.valueOf()];
  const aligned = (ms: number) => (Math.floor(ms / step) * step) / 1000;
  const series = target.instant
    ? await ask(job, 'query', { query: expr, time: to / 1000 })
    : await ask(job, 'query_range', { query: expr, start: aligned(from), end: aligned(to), step: step / 1000 });
  if (target.format === 'table') return series.length ? [table(target, series, tables)] : [];
  return series.map((one) => line(target, one, target.instant ? 0 : step));
}

function line(target: Target, one: Series, step: number): DataFrame {
  const samples = one.values ?? [one.value!];
  const times: number[] = [];
  const values: Array<number | null> = [];
  for (const [at, text] of samples) {
    const ms = Math.round(at * 1000);
    if (step && times.length && ms - times[times.length - 1] > step) {
      times.push(times[times.length - 1] + step);
      values.push(null);
    }
    times.push(ms);
    values.push(number(text));
  }
  const { __name__, ...labels } = one.metric;
  const plain = `${__name__ ?? ''}{${Object.entries(labels).map(([k, v]) => `${k}="${v}"`).join(', ')}}`;
  const displayNameFromDS = target.legendFormat ? renderLegendFormat(target.legendFormat, one.metric) : plain;
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: times, config: step ? { interval: step } : {} },
      { name: 'Value', type: FieldType.number, labels: one.metric, values, config: { displayNameFromDS } },
    ],
  });
}

function table(target: Target, series: Series[], tables: number): DataFrame {
  const labels = [...new Set(series.flatMap((one) => Object.keys(one.metric)))].sort();
  const rows = series.flatMap((one) => (one.values ?? [one.value!]).map((sample) => ({ sample, metric: one.metric })));
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: rows.map(({ sample }) => Math.round(sample[0] * 1000)) },
      ...labels.map((name) => ({ name, type: FieldType.string, values: rows.map(({ metric }) => metric[name] ?? '') })),
      {
        name: tables > 1 ? `Value #${target.refId}` : 'Value',
        type: FieldType.number,
        values: rows.map(({ sample }) => number(sample[1])),
      },
    ],
  });
}

function number(text: string): number {
  return text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text);
}

export interface Mark {
  name: string;
  at: number;
  color: string;
}

// With useValueForTime a mark stands where the value says, in ms.
export async function marks(job: Job, annotation: any, range: TimeRange): Promise<Mark[]> {
  const step = stepMs({ ...job, scrapeMs: 1000 }, range, 11000);
  const parameters = { start: range.from.valueOf() / 1000, end: range.to.valueOf() / 1000, step: step / 1000 };
  const series = await ask(job, 'query_range', { query: filled(annotation.expr, job, range, step), ...parameters });
  const instants = new Set(series.flatMap((one) => one.values!.map(([, value]) => Math.round(Number(value)))));
  const shown = [...instants].filter((at) => at >= range.from.valueOf() && at <= range.to.valueOf());
  return shown.map((at) => ({ name: annotation.name, at, color: annotation.iconColor }));
}
