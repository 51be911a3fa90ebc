// One dashboard as a page: its panels on Grafana's grid, each in Grafana's panel frame.

import { createRoot } from 'react-dom/client';
import { createTheme, EventBusSrv, ThemeContext } from '@grafana/data';
import { GlobalStyles, PanelChrome, PanelContextProvider } from '@grafana/ui';
import { setUp, shown } from './frames.js';
import { drawn } from './panels.jsx';

const { dashboard, frames, range, variables } = window.screen_data;
const theme = createTheme({ colors: { mode: 'dark' } });
const WIDTH = 1480;
const COLUMN = (WIDTH - 8) / 24;
const LINE = 38; // 30 pixels and a gap of 8.

const replaced = (text) =>
  (text ?? '').replace(/\$\{(\w+)(?::\w+)?\}|\$(\w+)/g, (whole, braced, plain) => variables[braced ?? plain] ?? whole);

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const width = w * COLUMN - 8;
  const height = h * LINE - 8;
  const place = { position: 'absolute', left: 8 + x * COLUMN, top: 64 + y * LINE, width, height };
  if (panel.type === 'row') {
    return <div style={{ ...place, height: 30, paddingTop: 8, fontSize: 16, fontWeight: 500 }}>⌄ {replaced(panel.title)}</div>;
  }
  const data = prepared.get(panel.id);
  const padding = ['table'].includes(panel.type) ? 'none' : 'md';
  return (
    <div style={place}>
      <PanelChrome title={replaced(panel.title)} description={replaced(panel.description)} width={width} height={height} padding={padding}>
        {(innerWidth, innerHeight) => drawn(panel, data, { width: innerWidth, height: innerHeight, theme, range, replaced })}
      </PanelChrome>
    </div>
  );
}

function Dashboard() {
  const height = 72 + LINE * Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  const chosen = dashboard.templating.list.filter((each) => each.type !== 'datasource' && each.hide !== 2);
  return (
    <div style={{ position: 'relative', width: WIDTH, height, background: theme.colors.background.canvas }}>
      <div style={{ position: 'absolute', left: 16, top: 16, fontSize: 18, fontWeight: 500 }}>
        msgmeter / {dashboard.title}
        {chosen.map((each) => (
          <span key={each.name} style={{ marginLeft: 24, fontSize: 13, fontWeight: 400, color: theme.colors.text.secondary }}>
            {each.label}: <b style={{ color: theme.colors.text.primary }}>{variables[each.name] || '…'}</b>
          </span>
        ))}
      </div>
      {dashboard.panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
    </div>
  );
}

setUp();
const prepared = new Map();
for (const panel of dashboard.panels) {
  if (panel.type !== 'row') {
    prepared.set(panel.id, await shown(panel, frames[panel.title] ?? {}, theme, replaced));
  }
}
createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <PanelContextProvider value={{ eventsScope: 'page', eventBus: new EventBusSrv() }}>
      <Dashboard />
    </PanelContextProvider>
  </ThemeContext.Provider>,
);
