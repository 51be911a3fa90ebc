// From answers to what a panel shows: Grafana's transformations, field defaults and overrides.

import {
  applyFieldOverrides, FieldConfigOptionsRegistry, standardTransformers, standardTransformersRegistry, toDataFrame,
  transformDataFrame,
} from '@grafana/data';
import { lastValueFrom } from 'rxjs';

const STANDARD = [
  'unit', 'decimals', 'min', 'max', 'displayName', 'noValue', 'color', 'thresholds', 'mappings', 'links', 'fieldMinMax',
];
const CUSTOM = [
  'drawStyle', 'lineWidth', 'fillOpacity', 'showPoints', 'stacking', 'thresholdsStyle', 'scaleDistribution', 'hidden',
  'cellOptions', 'axisPlacement', 'hideFrom', 'lineInterpolation', 'spanNulls', 'gradientMode', 'barAlignment',
  'axisColorMode', 'axisBorderShow', 'axisCenteredZero', 'axisLabel', 'insertNulls', 'pointSize', 'align', 'inspect',
  'width', 'minWidth', 'filterable',
];
const item = (name, isCustom) => ({
  id: isCustom ? `custom.${name}` : name, path: name, name, isCustom,
  process: (value) => value, shouldApply: () => true, getItemsCount: () => 0,
});
const REGISTRY = new FieldConfigOptionsRegistry(() => [
  ...STANDARD.map((name) => item(name, false)), ...CUSTOM.map((name) => item(name, true)),
]);

export function setUp() {
  standardTransformersRegistry.setInit(() =>
    [standardTransformers.joinByFieldTransformer, standardTransformers.organizeFieldsTransformer].map((each) => ({
      id: each.id, aliasIds: each.aliasIds, transformation: () => Promise.resolve(each), name: each.name, editor: () => null,
    })));
}

// What a line over time has by default in Grafana's editor, which is not in the files.
const LINE_DEFAULTS = {
  drawStyle: 'line', lineInterpolation: 'linear', barAlignment: 0, lineWidth: 1, fillOpacity: 0, gradientMode: 'none',
  spanNulls: false, insertNulls: false, showPoints: 'auto', pointSize: 5, stacking: { mode: 'none', group: 'A' },
  axisPlacement: 'auto', axisColorMode: 'text', axisBorderShow: false, axisCenteredZero: false, axisLabel: '',
  scaleDistribution: { type: 'linear' }, hideFrom: { legend: false, tooltip: false, viz: false },
  thresholdsStyle: { mode: 'off' },
};

export async function shown(panel, answers, theme, replaced) {
  let frames = Object.keys(answers).sort().flatMap((ref) => answers[ref].map((frame) => toDataFrame({ ...frame, refId: ref })));
  for (const frame of frames) {
    for (const field of frame.fields) {
      // A series is called as its query's legend says.
      if (field.type === 'number' && field.labels) { field.config = { ...field.config, displayNameFromDS: field.name }; }
    }
  }
  if (panel.transformations?.length) {
    frames = await lastValueFrom(transformDataFrame(panel.transformations, frames));
  }
  const fieldConfig = structuredClone({ defaults: {}, overrides: [], ...panel.fieldConfig });
  if (panel.type === 'timeseries') {
    fieldConfig.defaults.custom = { ...LINE_DEFAULTS, ...fieldConfig.defaults.custom };
  }
  return applyFieldOverrides({
    data: frames, theme, timeZone: 'utc', replaceVariables: replaced, fieldConfig, fieldConfigRegistry: REGISTRY,
  });
}
