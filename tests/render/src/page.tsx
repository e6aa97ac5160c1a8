// One dashboard: every panel queried, transformed and drawn by Grafana's own code, in Grafana's grid.
import React from 'react';
import { createRoot } from 'react-dom/client';
import { firstValueFrom } from 'rxjs';
import {
  DataFrame, EventBusSrv, FieldType, GrafanaTheme2, TimeRange, applyFieldOverrides, cacheFieldDisplayNames, createTheme, dateTime,
  getFieldDisplayName, getFieldDisplayValues, transformDataFrame,
} from '@grafana/data';
import { BigValue, GlobalStyles, PanelChrome, PanelContextProvider, ThemeContext, TimeSeries } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { Job, Mark, filled, marks, query, stepMs } from './prometheus';
import { registryOf, setUp } from './setup';
import { StateTimeline } from './timeline';

const [CELL, MARGIN] = [30, 8];

interface Drawn {
  panel: any;
  frames: DataFrame[];
  answered: Record<string, number>;
  error: string;
}

async function load(job: Job, panel: any, range: TimeRange, theme: GrafanaTheme2, width: number): Promise<Drawn> {
  const answered: Record<string, number> = {};
  try {
    const step = stepMs(job, range, width);
    const tables = panel.targets.filter((target: any) => target.format === 'table').length;
    const raw: DataFrame[] = [];
    for (const target of panel.targets) {
      const frames = await query(job, target, range, step, tables);
      answered[target.refId] = frames.reduce((sum, frame) => sum + frame.length, 0);
      raw.push(...frames);
    }
    const context = { interpolate: (text: string) => text };
    const data = await firstValueFrom(transformDataFrame(panel.transformations ?? [], raw, context as any));
    const replaceVariables = (text: string, scoped: any = {}) =>
      text.replace(/\$\{__field\.labels\.(\w+)\}/g, (_, name) => scoped.__dataContext?.value?.field?.labels?.[name] ?? scoped.__field?.value?.labels?.[name] ?? '');
    const frames = applyFieldOverrides({
      data, fieldConfig: panel.fieldConfig, fieldConfigRegistry: registryOf(panel.fieldConfig), replaceVariables, theme, timeZone: 'utc',
    });
    cacheFieldDisplayNames(frames);
    return { panel, frames, answered, error: '' };
  } catch (error) {
    return { panel, frames: [], answered, error: String((error as Error).stack ?? error) };
  }
}

function Stat({ panel, frames, width, height, theme }: any) {
  const shown = getFieldDisplayValues({
    fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: (text: string) => text,
    theme, data: frames, timeZone: 'utc',
  });
  const { colorMode, graphMode, justifyMode, textMode, text, wideLayout } = panel.options;
  return (
    <div style={{ display: 'flex' }}>
      {shown.map((one: any, i: number) => (
        <BigValue key={i} value={one.display} width={width / shown.length} height={height} theme={theme}
          colorMode={colorMode} graphMode={graphMode} justifyMode={justifyMode} textMode={textMode} text={text} wideLayout={wideLayout} />
      ))}
    </div>
  );
}

function Visual({ drawn, width, height, range, theme, notes }: any) {
  const { panel, frames } = drawn;
  if (drawn.error) throw new Error(drawn.error);
  if (panel.type === 'stat') return <Stat panel={panel} frames={frames} width={width} height={height} theme={theme} />;
  if (!frames.length) return <div style={{ padding: 16 }}>No data</div>;
  switch (panel.type) {
    case 'state-timeline':
      return <StateTimeline frames={frames} range={range} width={width} height={height} theme={theme} marks={notes} />;
    case 'timeseries':
      return (
        <PanelContextProvider value={{ eventBus: new EventBusSrv() } as any}>
          <TimeSeries frames={frames} structureRev={1} timeRange={range} timeZone="utc" width={width} height={height}
            legend={panel.options.legend} options={panel.options} />
        </PanelContextProvider>
      );
    case 'table':
      return (
        <TableNG data={frames[0]} width={width} height={height} cellHeight={panel.options.cellHeight} initialSortBy={panel.options.sortBy}
          timeRange={range} structureRev={1} noHeader={!panel.options.showHeader} />
      );
  }
  throw new Error(`a panel of type ${panel.type}`);
}

class Guard extends React.Component<{ onError: (text: string) => void; children: React.ReactNode }, { failed: boolean }> {
  state = { failed: false };
  static getDerivedStateFromError() {
    return { failed: true };
  }
  componentDidCatch(error: Error) {
    this.props.onError(String(error.stack ?? error));
  }
  render() {
    return this.state.failed ? <div>failed</div> : this.props.children;
  }
}

function Dashboard({ board, all, range, theme, notes, width, errors }: any) {
  const column = (width - MARGIN) / 24;
  return (
    <div style={{ position: 'relative' }}>
      {board.panels.map((panel: any) => {
        const { x, y, w, h } = panel.gridPos;
        const place = { left: MARGIN + x * column, top: 48 + y * (CELL + MARGIN), width: w * column - MARGIN, height: h * (CELL + MARGIN) - MARGIN };
        const drawn = all.get(panel.id);
        return (
          <div key={panel.id} data-panel={panel.title} data-type={panel.type} style={{ position: 'absolute', ...place }}>
            {panel.type === 'row' ? <h4 style={{ margin: 4 }}>{panel.title}</h4> : (
              <PanelChrome title={panel.title} description={panel.description} width={place.width} height={place.height}>
                {(inner: number, tall: number) => (
                  <Guard onError={(text) => (errors[panel.title] = text)}>
                    <Visual drawn={drawn} width={inner} height={tall} range={range} theme={theme} notes={notes} />
                  </Guard>
                )}
              </PanelChrome>
            )}
          </div>
        );
      })}
      <h3 style={{ position: 'absolute', left: MARGIN * 2, top: 10 }}>{board.title}</h3>
    </div>
  );
}

function described(drawn: Drawn) {
  return {
    title: drawn.panel.title,
    type: drawn.panel.type,
    answered: drawn.answered,
    error: drawn.error,
    fields: drawn.frames.map((frame) =>
      frame.fields.map((field) => ({
        name: getFieldDisplayName(field, frame, drawn.frames),
        texts: field.type === FieldType.time && drawn.panel.type !== 'table' ? [] : field.values.slice(0, 50).map((value) => {
          const shown = field.display!(value);
          return `${shown.prefix ?? ''}${shown.text}${shown.suffix ?? ''}`;
        }),
      }))
    ),
  };
}

async function main() {
  setUp();
  const job = (window as any).job as Job & { board: any; from: number; to: number };
  const theme = createTheme({ colors: { mode: 'dark' } });
  document.body.style.cssText = `margin:0;background:${theme.colors.background.canvas};color:${theme.colors.text.primary};font:${theme.typography.fontSize}px ${theme.typography.fontFamily}`;
  const range: TimeRange = { from: dateTime(job.from), to: dateTime(job.to), raw: { from: dateTime(job.from), to: dateTime(job.to) } };
  const width = window.innerWidth;
  const panels = job.board.panels.filter((panel: any) => panel.type !== 'row');
  const all = new Map<number, Drawn>();
  const column = (width - MARGIN) / 24;
  for (const panel of panels) all.set(panel.id, await load(job, panel, range, theme, Math.round(panel.gridPos.w * column)));
  const notes: Mark[] = [];
  for (const annotation of job.board.annotations.list) notes.push(...(await marks(job, annotation, range)));
  const errors: Record<string, string> = {};
  const dashboard = <Dashboard board={job.board} all={all} range={range} theme={theme} notes={notes} width={width} errors={errors} />;
  createRoot(document.getElementById('root')!).render(<ThemeContext.Provider value={theme}><GlobalStyles hackNoBackdropBlur={false} isExtensionSidebarOpen={false} />{dashboard}</ThemeContext.Provider>);
  await document.fonts.ready;
  // Twice: the second frame begins when what the first one laid out is on the screen.
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 200))));
  (window as any).result = { panels: [...all.values()].map(described), errors, marks: notes };
}

main().catch((error) => ((window as any).result = { fatal: String(error.stack ?? error) }));
