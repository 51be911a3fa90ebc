// What Grafana's application draws and its packages do not: stacked bars, heat maps and the dial.

import { interpolateTurbo } from 'd3-scale-chromatic';
import { getFieldDisplayName } from '@grafana/data';
import { VizLegend } from '@grafana/ui';

const AXIS = 56;
const FOOT = 22;
const TOP = 10;
const LEGEND = 28;

// At most so many steps of 1, 2 or 5 times a power of ten.
function ticks(most, count = 5) {
  const rough = most / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, at) => at * step);
}

export function BarChart({ data, place }) {
  const { width, height, theme } = place;
  const names = data[0].fields.find((field) => field.name === 'period').values;
  const series = data[0].fields.filter((field) => field.type === 'number');
  const color = (field) => theme.visualization.getColorByName(field.config.color?.fixedColor ?? 'blue');
  const sums = names.map((_, at) => series.reduce((sum, field) => sum + field.values[at], 0));
  const marks = ticks(Math.max(...sums, 1));
  const top = marks.at(-1);
  const [inner, high] = [width - AXIS, height - FOOT - LEGEND - TOP];
  const step = inner / names.length;
  const shownEvery = Math.ceil(74 / step);
  return (
    <div>
      <svg width={width} height={height - LEGEND} style={{ display: 'block', fontSize: 12 }}>
        {marks.map((mark) => (
          <g key={mark}>
            <line x1={AXIS} x2={width} y1={TOP + high * (1 - mark / top)} y2={TOP + high * (1 - mark / top)} stroke={theme.colors.border.weak} />
            <text x={AXIS - 8} y={TOP + 4 + high * (1 - mark / top)} fill={theme.colors.text.primary} textAnchor="end">
              {series[0].display(mark).text}
            </text>
          </g>
        ))}
        {names.map((name, at) => {
          let from = 0;
          return (
            <g key={name}>
              {series.map((field) => {
                const value = field.values[at];
                const y = TOP + high * (1 - (from + value) / top);
                from += value;
                return <rect key={field.name} x={AXIS + step * (at + 0.1)} width={step * 0.8} y={y} height={high * value / top} fill={color(field)} fillOpacity={0.85} />;
              })}
              {at % shownEvery === 0 && (
                <text x={AXIS + step * (at + 0.5)} y={TOP + high + FOOT - 4} fill={theme.colors.text.primary} textAnchor="middle">{name}</text>
              )}
            </g>
          );
        })}
      </svg>
      <Legend items={series.map((field) => [getFieldDisplayName(field, data[0]), color(field)])} />
    </div>
  );
}

const Legend = ({ items }) => (
  <div style={{ height: LEGEND, overflow: 'hidden' }}>
    <VizLegend placement="bottom" displayMode="list" items={items.map(([label, color]) => ({ label, color, yAxis: 1 }))} />
  </div>
);

export function HeatMap({ data, place }) {
  const { width, height, theme, range: [from, to] } = place;
  const bound = (frame) => Number((frame.fields[1].labels ?? {}).le?.replace('+Inf', 'Infinity') ?? Infinity);
  const frames = [...data].sort((one, other) => bound(one) - bound(other));
  // Buckets are cumulative: what is in one and not in the one below.
  const cells = frames.flatMap((frame, row) => {
    const below = new Map(row ? frames[row - 1].fields[0].values.map((at, index) => [at, frames[row - 1].fields[1].values[index]]) : []);
    return [...frame.fields[0].values].map((at, index) => ({ at, row, count: frame.fields[1].values[index] - (below.get(at) ?? 0) }));
  }).filter((cell) => cell.count > 0.01);
  const most = Math.max(...cells.map((cell) => cell.count), 1);
  const times = frames[0].fields[0].values;
  const spanned = times.length > 1 ? times[1] - times[0] : 1000;
  const [inner, high] = [width - AXIS, height - FOOT - 6];
  const line = high / frames.length;
  const x = (at) => AXIS + inner * (at - from) / (to - from);
  const clock = (at) => new Date(at).toISOString().slice(11, to - from < 600_000 ? 19 : 16);
  return (
    <svg width={width} height={height} style={{ display: 'block', fontSize: 12 }}>
      {frames.map((frame, row) => row % 2 === 1 && (
        <text key={row} x={AXIS - 8} y={4 + high - row * line - line / 2} fill={theme.colors.text.primary} textAnchor="end">
          {Number.isFinite(bound(frame)) ? frame.fields[1].display(bound(frame)).text + (frame.fields[1].display(bound(frame)).suffix ?? '') : '+Inf'}
        </text>
      ))}
      {cells.map(({ at, row, count }) => (
        <rect key={`${at} ${row}`} x={x(at)} width={Math.max(inner * spanned / (to - from) - 1, 1)} y={high - (row + 1) * line} height={line - 1}
          fill={interpolateTurbo(0.1 + 0.85 * Math.sqrt(count / most))} />
      ))}
      {[0, 0.25, 0.5, 0.75, 1].map((share) => (
        <text key={share} x={AXIS + inner * share} y={high + FOOT} fill={theme.colors.text.primary} textAnchor={share === 1 ? 'end' : 'middle'}>
          {clock(from + share * (to - from))}
        </text>
      ))}
    </svg>
  );
}

const arc = (radius, middle, from, to) => {
  const at = (share) => {
    const angle = Math.PI * (0.85 + 1.3 * share);
    return `${middle.x + radius * Math.cos(angle)} ${middle.y + radius * Math.sin(angle)}`;
  };
  return `M ${at(from)} A ${radius} ${radius} 0 ${(to - from) * 1.3 > 1 ? 1 : 0} 1 ${at(to)}`;
};

export function Dial({ panel, data, place, displayed }) {
  const { width, height, theme } = place;
  const [{ display }] = displayed(panel, data, place);
  const radius = Math.min(width / 2, height / 1.6) - 10;
  const middle = { x: width / 2, y: radius + 12 };
  const steps = panel.fieldConfig.defaults.thresholds.steps;
  const share = Math.min(Math.max(display.numeric / 100, 0.001), 1);
  return (
    <svg width={width} height={height} fill="none">
      <path d={arc(radius - 14, middle, 0, 1)} stroke={theme.colors.background.secondary} strokeWidth={20} />
      <path d={arc(radius - 14, middle, 0, share)} stroke={display.color} strokeWidth={20} />
      {steps.map((step, index) => (
        <path key={index} d={arc(radius, middle, (step.value ?? 0) / 100, (steps[index + 1]?.value ?? 100) / 100)}
          stroke={theme.visualization.getColorByName(step.color)} strokeWidth={4} />
      ))}
      <text x={middle.x} y={middle.y + 10} textAnchor="middle" fontSize={30} fill={display.color}>
        {display.text}{display.suffix}
      </text>
    </svg>
  );
}
