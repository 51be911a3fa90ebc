// Each type of panel, by the component of @grafana/ui that Grafana itself draws it with, where the package has it.
// Bar charts, heat maps and the dial belong to Grafana's application and are in no package: they are drawn in
// charts.jsx from the same options and data, so colours and figures are right, and looks are nearly Grafana's.

import { dateTime, getDisplayValueAlignmentFactors, getFieldDisplayValues, renderMarkdown } from '@grafana/data';
import { BarGauge, BigValue, Table, TimeSeries, VizRepeater } from '@grafana/ui';
import { BarChart, Dial, HeatMap } from './charts.jsx';

function displayed(panel, data, place) {
  return getFieldDisplayValues({
    data, fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: place.replaced,
    theme: place.theme, timeZone: 'utc', sparkline: false,
  });
}

const Nothing = ({ panel }) => (
  <div style={{ opacity: 0.6, display: 'flex', height: '100%', alignItems: 'center', justifyContent: 'center' }}>
    {panel.fieldConfig.defaults.noValue ?? 'No data'}
  </div>
);

function Stat({ panel, data, place }) {
  const values = displayed(panel, data, place);
  return (
    <VizRepeater
      source={data} getValues={() => values} orientation="auto" width={place.width} height={place.height} renderCounter={0}
      autoGrid getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, count, alignmentFactors }) => (
        <BigValue
          alignmentFactors={alignmentFactors}
          value={value.display} colorMode={panel.options.colorMode} graphMode="none" textMode="auto" justifyMode="auto"
          width={width} height={height} count={count} theme={place.theme}
        />
      )}
    />
  );
}

function Ranking({ panel, data, place }) {
  const values = displayed(panel, data, place);
  return (
    <VizRepeater
      source={data} getValues={() => values} orientation="horizontal" width={place.width} height={place.height}
      renderCounter={0} itemSpacing={8} minVizHeight={16} maxVizHeight={28}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, alignmentFactors }) => (
        <BarGauge
          alignmentFactors={alignmentFactors}
          value={value.display} field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex)}
          displayMode={panel.options.displayMode} namePlacement="left" orientation="horizontal" showUnfilled={false}
          width={width} height={height} itemSpacing={8} theme={place.theme}
          text={{ titleSize: 12, valueSize: 12 }}
        />
      )}
    />
  );
}

function Lines({ panel, data, place }) {
  const [from, to] = place.range;
  const timeRange = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
  return (
    <TimeSeries
      frames={data} structureRev={1} width={place.width} height={place.height} timeRange={timeRange} timeZone="utc"
      legend={panel.options.legend} options={{}}
    />
  );
}

const Rows = ({ data, place }) => (
  <Table data={data[0]} width={place.width} height={place.height} resizable={false} columnMinWidth={50} />
);

const Words = ({ panel, place }) => (
  <div className="markdown-html" dangerouslySetInnerHTML={{ __html: renderMarkdown(place.replaced(panel.options.content)) }} />
);

const COMPONENTS = {
  stat: Stat, bargauge: Ranking, timeseries: Lines, table: Rows, text: Words, gauge: Dial, barchart: BarChart, heatmap: HeatMap,
};

export function drawn(panel, data, place) {
  const Component = COMPONENTS[panel.type];
  const isEmpty = panel.type !== 'text' && !data.some((frame) => frame.length);
  return isEmpty ? <Nothing panel={panel} /> : <Component panel={panel} data={data} place={place} displayed={displayed} />;
}
