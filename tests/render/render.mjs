// node render.mjs < JOB: draws dashboards in headless Chromium and prints, as JSON, what stands on each.
//
// JOB: {chromium, prometheus, scrapeMs, out, pages: [{name, board, from, to, variables, width, height}]}
// Each page becomes out/NAME.png; of a state timeline the rectangles are told with their instants in ms.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));
const job = JSON.parse(readFileSync(0, 'utf8'));
mkdirSync(job.out, { recursive: true });
await build({
  entryPoints: [join(here, 'src/page.tsx')],
  outdir: job.out,
  bundle: true,
  format: 'iife',
  define: { 'process.env.NODE_ENV': '"development"', global: 'window' },
  loader: { '.svg': 'dataurl', '.woff2': 'dataurl', '.ttf': 'dataurl' },
  logLevel: 'error',
});
const page_html = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css"><div id="root"></div><script src="page.js"></script>';
writeFileSync(join(job.out, 'page.html'), page_html);

const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const browser = await chromium.launch({ executablePath: job.chromium, args });
const results = {};
try {
  for (const { name, width, height, ...one } of job.pages) {
    // As high as the whole dashboard: what is out of sight, Grafana's tables do not draw.
    const rows = Math.max(...one.board.panels.map(({ gridPos: { y, h } }) => y + h));
    const page = await browser.newPage({ viewport: { width, height: Math.max(height, 64 + rows * 38) } });
    const complaints = [];
    page.on('pageerror', (error) => complaints.push(String(error.stack)));
    await page.addInitScript((given) => (window.job = given), { prometheus: job.prometheus, scrapeMs: job.scrapeMs, ...one });
    await page.goto(pathToFileURL(join(job.out, 'page.html')).href);
    await page.waitForFunction(() => window.result, null, { timeout: 300000 });
    const drawn = await page.evaluate(() =>
      [...document.querySelectorAll('[data-panel]')].map((panel) => ({
        title: panel.dataset.panel,
        text: panel.innerText,
        graphs: panel.querySelectorAll('canvas').length,
        lanes: [...panel.querySelectorAll('[data-lane]')].map((lane) => ({
          name: lane.dataset.lane,
          spans: [...lane.querySelectorAll('rect')].map(({ dataset: { from, to, text, color } }) => ({ from: Number(from), to: Number(to), text, color })),
        })),
      }))
    );
    await page.screenshot({ path: join(job.out, `${name}.png`), clip: { x: 0, y: 0, width, height } });
    if (job.whole) await page.screenshot({ path: join(job.out, `${name}-whole.png`) });
    results[name] = { ...(await page.evaluate(() => window.result)), drawn, complaints };
    await page.close();
  }
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(results));
