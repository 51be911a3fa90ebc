// Pictures of the pages that build.mjs made: `node shoot.mjs PAGES PICTURES`, with Chromium and no network.

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import UPNG from 'upng-js';

const [pages, pictures] = process.argv.slice(2);
mkdirSync(pictures, { recursive: true });
for (const page of readdirSync(pages).filter((name) => name.endsWith('.html'))) {
  const name = page.replace('.html', '');
  const [, height] = readFileSync(join(pages, page), 'utf-8').match(/<meta name="height" content="(\d+)">/);
  const profile = mkdtempSync(join(tmpdir(), 'chromium-'));
  const picture = resolve(pictures, `${name}.png`);
  execFileSync(process.env.CHROMIUM ?? 'chromium', [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
    '--disable-sync', '--no-first-run', '--hide-scrollbars', `--user-data-dir=${profile}`,
    '--virtual-time-budget=15000', `--window-size=1496,${height}`, `--screenshot=${picture}`,
    `file://${resolve(pages, page)}`,
  ], { stdio: 'ignore', timeout: 120_000 });
  rmSync(profile, { recursive: true, force: true });
  // 128 colours are enough for lines on a dark ground, and a quarter of the bytes.
  const shot = UPNG.decode(readFileSync(picture));
  const small = Buffer.from(UPNG.encode(UPNG.toRGBA8(shot), shot.width, shot.height, 128));
  writeFileSync(picture, small);
  process.stdout.write(`${picture} ${Math.round(small.length / 1000)} kB\n`);
}
