// What Grafana's web application does at its start and its packages leave to it: the registries.
import {
  FieldConfigOptionsRegistry,
  FieldConfigPropertyItem,
  FieldConfigSource,
  booleanOverrideProcessor,
  dataLinksOverrideProcessor,
  displayNameOverrideProcessor,
  identityOverrideProcessor,
  numberOverrideProcessor,
  standardEditorsRegistry,
  standardFieldConfigEditorRegistry,
  standardTransformers,
  standardTransformersRegistry,
  stringOverrideProcessor,
  thresholdsOverrideProcessor,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from '@grafana/data';

const PROPERTIES: Record<string, any> = {
  unit: unitOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  decimals: numberOverrideProcessor,
  displayName: displayNameOverrideProcessor,
  color: identityOverrideProcessor,
  noValue: stringOverrideProcessor,
  links: dataLinksOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  filterable: booleanOverrideProcessor,
};

function property(id: string, process: any, custom = ''): FieldConfigPropertyItem {
  const path = custom || id;
  const rest = { shouldApply: () => true, override: () => null, editor: () => null, settings: {}, getItemsCount: () => 0 };
  return { id, path, name: id, process, isCustom: custom !== '', ...rest } as unknown as FieldConfigPropertyItem;
}

const standard = Object.entries(PROPERTIES).map(([id, process]) => property(id, process));

export function setUp() {
  const transformers = new Map(Object.values(standardTransformers).map((one) => [one.id, one]));
  standardTransformersRegistry.setInit(() =>
    [...transformers.values()].map((one: any) => ({
      id: one.id, name: one.name, transformation: () => Promise.resolve(one), editor: () => null, imageDark: '', imageLight: '',
    })) as any
  );
  standardEditorsRegistry.setInit(() => []);
  standardFieldConfigEditorRegistry.setInit(() => standard);
}

// Every custom property that the panel's JSON names; each panel plugin would register its own.
export function registryOf(config: FieldConfigSource<any>): FieldConfigOptionsRegistry {
  const names = new Set(Object.keys(config.defaults.custom ?? {}));
  for (const override of config.overrides) {
    for (const { id } of override.properties) {
      if (id.startsWith('custom.')) names.add(id.slice('custom.'.length));
      else if (!(id in PROPERTIES)) throw new Error(`an override of ${id}, which no panel knows`);
    }
  }
  const custom = [...names].map((name) => property(`custom.${name}`, identityOverrideProcessor, name));
  return new FieldConfigOptionsRegistry(() => [...standard, ...custom]);
}
