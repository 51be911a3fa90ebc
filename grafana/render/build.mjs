// Bundles what is drawn, with Grafana's own components, into one page: `node build.mjs ANSWERS FOLDER`.
//
// ANSWERS is what `tests/grafana/answers.py` gives, by name of a picture. FOLDER gets one page per picture, which needs no
// server: data, script and styles are in it.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { build } from 'esbuild';

const [answersPath, folder] = process.argv.slice(2);
const dashboards = new URL('../dashboards/msgmeter/', import.meta.url).pathname;
const answers = JSON.parse(readFileSync(answersPath, 'utf-8'));

// Grafana's modules end in .mjs, and from such a file a bundler takes the whole of a CommonJS module for its default
// export, as Node does. Modules that say what their default is (`__esModule`) are therefore imported by a file of ours.
const interop = {
  name: 'interop',
  setup(building) {
    building.onResolve({ filter: /^[^./]/ }, async ({ path, importer, resolveDir, kind, pluginData }) => {
      if (pluginData === 'resolved' || kind !== 'import-statement' || !importer.endsWith('.mjs')) return undefined;
      const found = await building.resolve(path, { resolveDir, importer, kind, pluginData: 'resolved' });
      if (found.errors.length || !/\.c?js$/.test(found.path)) return found;
      return readFileSync(found.path, 'utf-8').includes('__esModule') ? { path: found.path, namespace: 'interop' } : found;
    });
    building.onLoad({ filter: /.*/, namespace: 'interop' }, ({ path }) => ({
      contents: `import found from ${JSON.stringify(path)}; export * from ${JSON.stringify(path)}; export default found;`,
      resolveDir: dirname(path),
    }));
  },
};

const bundled = await build({
  plugins: [interop],
  entryPoints: [new URL('./main.jsx', import.meta.url).pathname],
  bundle: true,
  format: 'esm',
  write: false,
  outdir: 'out',
  minify: true,
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"', global: 'globalThis' },
  loader: { '.svg': 'dataurl', '.woff2': 'dataurl', '.woff': 'dataurl', '.ttf': 'dataurl', '.png': 'dataurl' },
  logLevel: 'error',
});
const output = (ending) => bundled.outputFiles.filter((each) => each.path.endsWith(ending)).map((each) => each.text);

// The rows that are asked for, moved up to where the others were; all, where none is asked for.
function cut(dashboard, titles) {
  if (!titles.length) return dashboard;
  const rows = dashboard.panels.filter(({ type }) => type === 'row');
  const missing = titles.filter((title) => !rows.some((row) => row.title === title));
  if (missing.length) throw new Error(`${dashboard.title} has no row ${missing}`);
  let removed = 0;
  const panels = rows.flatMap((row, index) => {
    const [from, to] = [row.gridPos.y, rows[index + 1]?.gridPos.y ?? Infinity];
    if (!titles.includes(row.title)) {
      removed += to - from;
      return [];
    }
    return dashboard.panels
      .filter(({ gridPos: { y } }) => from <= y && y < to)
      .map((panel) => ({ ...panel, gridPos: { ...panel.gridPos, y: panel.gridPos.y - removed } }));
  });
  return { ...dashboard, panels };
}

rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
for (const [name, asked] of Object.entries(answers)) {
  const whole = JSON.parse(readFileSync(join(dashboards, `${asked.dashboard}.json`), 'utf-8'));
  const dashboard = cut(whole, asked.rows);
  const height = 72 + 38 * Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  const text = JSON.stringify({ ...asked, dashboard }).replaceAll('<', '\\u003c');
  writeFileSync(
    join(folder, `${name}.html`),
    `<!doctype html><meta charset="utf-8"><meta name="height" content="${height}"><title>${name}</title>`
      + `<style>${output('.css').join('\n')}</style><div id="root"></div><script>window.screen_data = ${text};</script>`
      + `<script type="module">${output('.js').join('\n').replaceAll('</script', '<\\/script')}</script>`,
  );
}
