// node types.mjs BOARD.json ...: compile dashboards, as typed literals, against Grafana's own schema.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const OPTIONS = {
  'state-timeline': ['statetimeline', 'StateTimeline', true],
  timeseries: ['timeseries', 'TimeSeries', true],
  table: ['table', 'Table', true],
  stat: ['stat', 'Stat', false],
};
const here = dirname(fileURLToPath(import.meta.url));
const folder = mkdtempSync(join(here, 'node_modules/.types-'));

function source(board) {
  const panels = board.panels.filter(({ type }) => type !== 'row');
  const kinds = [...new Set(panels.map(({ type }) => type))];
  const unknown = kinds.filter((kind) => !(kind in OPTIONS));
  if (unknown.length) throw new Error(`no types for panels of ${unknown}`);
  const imports = kinds.map((kind) => {
    const [name, prefix, own] = OPTIONS[kind];
    return `import type * as ${prefix} from '@grafana/schema/dist/esm/raw/composable/${name}/panelcfg/x/${prefix}PanelCfg_types.gen';
      type ${prefix}Panel = Bare & { options: Loose<Partial<${prefix}.Options>>; fieldConfig: Loose<FieldConfigSource<${own ? `Partial<${prefix}.FieldConfig>` : 'object'}>> };`;
  });
  const { panels: _, annotations, ...rest } = board;
  // What the Prometheus data source reads beside the general fields; Grafana ships no type of it.
  const notes = annotations.list.map(({ expr, step, titleFormat, textFormat, useValueForTime, ...note }) => note);
  return `import type { AnnotationQuery, Dashboard, FieldConfigSource, Panel, RowPanel } from '@grafana/schema';
    // JSON has the texts of enums, and any text where a union of literals would be inferred.
    type Loose<T> = T extends string ? \`\${T}\` : T extends (infer U)[] ? Loose<U>[] : T extends object ? { [K in keyof T]: Loose<T[K]> } : T;
    type Bare = Loose<Omit<Panel, 'options' | 'fieldConfig' | 'targets'>> & { targets: object[] };
    ${imports.join('\n')}
    export const board: Loose<Omit<Dashboard, 'panels' | 'annotations'>> = ${JSON.stringify(rest, null, 1)};
    export const notes: Loose<AnnotationQuery>[] = ${JSON.stringify(notes, null, 1)};
    ${panels.map((panel) => `export const panel${panel.id}: ${OPTIONS[panel.type][1]}Panel = ${JSON.stringify(panel, null, 1)};`).join('\n')}
    ${board.panels.filter(({ type }) => type === 'row').map((row) => `export const row${row.id}: Loose<RowPanel> = ${JSON.stringify(row, null, 1)};`).join('\n')}`;
}

try {
  const files = process.argv.slice(2).map((file, i) => {
    const made = join(folder, `board${i}.ts`);
    writeFileSync(made, source(JSON.parse(readFileSync(file, 'utf8'))));
    return made;
  });
  const program = ts.createProgram(files, {
    noEmit: true, skipLibCheck: true, strict: true, types: [],
    module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler, target: ts.ScriptTarget.ES2022,
  });
  const found = ts.getPreEmitDiagnostics(program);
  for (const one of found) {
    const line = one.file?.text.split('\n')[one.file.getLineAndCharacterOfPosition(one.start).line].trim();
    console.log(`${line}\n    ${ts.flattenDiagnosticMessageText(one.messageText, '\n    ')}`);
  }
  process.exitCode = found.length ? 1 : 0;
} finally {
  rmSync(folder, { recursive: true });
}
