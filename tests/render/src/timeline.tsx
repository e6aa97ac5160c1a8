// The state timeline: Grafana ships this panel in no package, so its drawing is ours; values, texts and colours are not.
import React from 'react';
import { DataFrame, Field, FieldType, GrafanaTheme2, TimeRange, dateTimeFormat, getFieldDisplayName } from '@grafana/data';
import { Mark } from './prometheus';

interface Span {
  from: number;
  to: number;
  text: string;
  color: string;
}
interface Lane {
  name: string;
  spans: Span[];
}

// As Grafana's own: sorted by time, a second time field ends a state, null ends one, equal neighbours are one.
export function lanes(frames: DataFrame[], range: TimeRange): Lane[] {
  const found: Lane[] = [];
  for (const frame of frames) {
    const [start, end] = frame.fields.filter((field) => field.type === FieldType.time);
    if (!start) throw new Error('a state timeline needs a time field');
    for (const field of frame.fields.filter((one) => one.type === FieldType.number || one.type === FieldType.string)) {
      found.push({ name: getFieldDisplayName(field, frame, frames), spans: spans(start, end, field, range.to.valueOf()) });
    }
  }
  if (!found.length && frames.length) throw new Error('no value to draw');
  return found;
}

function spans(start: Field, end: Field | undefined, field: Field, last: number): Span[] {
  const points = start.values.map((at, row) => [at, field.values[row]]);
  if (end) points.push(...end.values.filter((at) => at != null && !start.values.includes(at)).map((at) => [at, null]));
  // `Connect null values: always`
  const kept = field.config.custom?.spanNulls === true ? points.filter(([, value]) => value != null) : points;
  kept.sort((one, other) => one[0] - other[0]);
  const made: Span[] = [];
  kept.forEach(([at, value], row) => {
    const to = row + 1 < kept.length ? kept[row + 1][0] : Math.max(last, at);
    if (value == null || to === at) return;
    const shown = field.display!(value);
    const text = `${shown.prefix ?? ''}${shown.text}${shown.suffix ?? ''}`;
    const before = made[made.length - 1];
    if (before && before.to === at && before.text === text) before.to = to;
    else made.push({ from: at, to, text, color: shown.color ?? 'grey' });
  });
  return made;
}

interface Props {
  frames: DataFrame[];
  range: TimeRange;
  width: number;
  height: number;
  theme: GrafanaTheme2;
  marks: Mark[];
}

export function StateTimeline({ frames, range, width, height, theme, marks }: Props) {
  const rows = lanes(frames, range);
  const [from, to] = [range.from.valueOf(), range.to.valueOf()];
  const left = Math.min(width * 0.3, 24 + 7.2 * Math.max(0, ...rows.map((row) => row.name.length)));
  const lane = (height - 22) / Math.max(1, rows.length);
  const x = (at: number) => left + ((Math.min(Math.max(at, from), to) - from) / (to - from)) * (width - left);
  const count = Math.max(2, Math.floor((width - left) / 140));
  const ticks = Array.from({ length: count }, (_, i) => from + ((to - from) * (i + 0.5)) / count);
  const text = { fill: theme.colors.text.primary, fontSize: 13, dominantBaseline: 'central' as const };
  return (
    <svg width={width} height={height} fontFamily={theme.typography.fontFamily}>
      {rows.map((row, i) => (
        <g key={i} data-lane={row.name}>
          <text x={left - 8} y={lane * (i + 0.5)} textAnchor="end" {...text}>{row.name}</text>
          {row.spans.filter((span) => span.color !== 'transparent' && span.to > from && span.from < to).map((span, k) => (
            <g key={k}>
              <rect x={x(span.from)} width={Math.max(1, x(span.to) - x(span.from))} y={lane * i + lane * 0.1} height={lane * 0.8}
                fill={span.color} data-from={span.from} data-to={span.to} data-text={span.text} data-color={span.color} />
              {x(span.to) - x(span.from) > 8 * span.text.length && (
                <text x={x(span.from) + 6} y={lane * (i + 0.5)} {...text} fill={theme.colors.getContrastText(span.color)}>{span.text}</text>
              )}
            </g>
          ))}
        </g>
      ))}
      {marks.map((mark, i) => (
        <line key={i} x1={x(mark.at)} x2={x(mark.at)} y1={0} y2={height - 22} stroke={mark.color} strokeDasharray="3 3" data-mark={mark.at} data-name={mark.name} />
      ))}
      {ticks.map((at) => (
        <text key={at} x={x(at)} y={height - 8} textAnchor="middle" {...text} fill={theme.colors.text.secondary} fontSize={12}>
          {dateTimeFormat(at, { format: to - from > 86400000 ? 'MM-DD' : 'HH:mm:ss', timeZone: 'utc' })}
        </text>
      ))}
    </svg>
  );
}
