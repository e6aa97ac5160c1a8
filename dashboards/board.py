"""A dashboard in current JSON: variables, annotations, links, and what grafanalib writes nobody reads any more."""

import json

from grafanalib._gen import DashboardEncoder
from grafanalib.core import Annotations, Dashboard, Template, Templating, Time

from .panels import DATASOURCE
from .series import ORANGE, RED, SKY, metric, ms

SCHEMA_VERSION = 41  # of Grafana 11 and 12; grafanalib's own default of 12 would be migrated, and half of it lost

LEGACY = {
    *("rows", "sharedCrosshair", "hideControls", "style", "__inputs", "gnetId", "time_options"),
    *("editable", "error", "span", "minSpan", "height", "hideTimeOverride", "transparent", "cacheTimeout"),
    *("useTags", "tagsQuery", "tagValuesQuery", "auto", "auto_min", "auto_count"),
}
PANEL_LEGACY = {"color", "columns", "fontSize", "mappings"}
ROW_FIELDS = {"collapsed", "gridPos", "id", "panels", "title", "type"}
ALL = {"text": "All", "value": "$__all"}


class Board(Dashboard):
    """A dashboard whose JSON holds current forms only."""

    def to_json_data(self):
        made = pruned(json.loads(json.dumps(super().to_json_data(), cls=DashboardEncoder)))
        for one in made["panels"]:
            for key in (set(one) - ROW_FIELDS) if one["type"] == "row" else PANEL_LEGACY & set(one):
                del one[key]
            if one["type"] == "table":
                # The old form, "auto", would win over every `cellOptions`.
                one["fieldConfig"]["defaults"]["custom"].pop("displayMode", None)
        for template in made["templating"]["list"]:
            if template.get("includeAll"):
                template["current"] = ALL
            elif template["type"] == "textbox":
                template["current"].pop("tags")
            else:
                template.pop("current", None)
        return made


def pruned(value):
    """Without nulls and legacy keys; a threshold's null is kept, where it stands for minus infinity."""
    if isinstance(value, dict):
        is_step = set(value) == {"color", "value"}
        return {k: pruned(v) for k, v in value.items() if (v is not None or is_step) and k not in LEGACY}
    return [pruned(item) for item in value] if isinstance(value, list) else value


def as_json(board) -> str:
    return json.dumps(board.to_json_data(), cls=DashboardEncoder, indent=2, sort_keys=True) + "\n"


def variable(name, label, query, *, several=True, everything=".*"):
    """One chosen among a label's values; `several` also offers All, and starts with it.

    With `everything`, All is no list of the values but matches an absent label, too.
    """
    more = {"includeAll": several, "multi": several, "refresh": 2, "allValue": everything or None if several else None}
    regex = '/direction="([^"]+)"/' if query.startswith("query_result") else None
    return Template(name=name, label=label, query=query, type="query", dataSource=DATASOURCE, regex=regex, **more)


def text_variable(name, label, default):
    return Template(name=name, label=label, query=default, default=default, type="textbox")


def flow_variables(*, several=True):
    """Agent, path and flow, each among what the ones before leave."""
    return [
        variable("instance", "Agent", "label_values(haprobe_build_info, instance)"),
        variable("path", "Path", 'label_values(haprobe_flow_up{instance=~"$instance"}, path)'),
        variable(
            "flow",
            "Flow",
            'label_values(haprobe_flow_up{instance=~"$instance",path=~"$path"}, flow)',
            several=several,
        ),
    ]


def annotation(name, expr, colour, text):
    """Marks at the instant that the metric's value names, in milliseconds, rather than at the scrape."""
    at = {"useValueForTime": "on", "step": "1s", "titleFormat": name, "textFormat": text}
    return {"name": name, "enable": True, "iconColor": colour, "datasource": DATASOURCE, "expr": expr, **at}


def annotations(flows: str):
    """Outages of the selected flows and HA events: what a graph is read against."""
    begun = metric("haprobe_last_outage_start_timestamp_seconds", flows)
    changed = metric("haprobe_aws_last_change_timestamp_seconds")
    moved = ms(f"max by (kind, address, route_table, destination) ({changed} > 0)")
    told = ms(f"max by (source, event, unit, subject) ({metric('haprobe_ha_event_timestamp_seconds')})")
    return [
        annotation("Outage begins", ms(f"max by (instance, path, flow) ({begun} > 0)"), RED, "{{path}} {{flow}}"),
        annotation("AWS change", moved, ORANGE, "{{kind}} {{address}}{{route_table}} {{destination}}"),
        annotation("HA event", told, SKY, "{{source}}: {{event}} {{unit}} {{subject}}"),
    ]


def board(name, title, description, variables, panels, *, last="now-15m", refresh="5s", notes=()):
    """A dashboard; its data source is a variable, and the others are one click away with time and choices kept."""
    others = {
        "title": "haprobe",
        "type": "dashboards",
        "tags": ["haprobe"],
        "icon": "dashboard",
        "tooltip": "The other dashboards of haprobe, at the same time",
        "url": "",
        "asDropdown": False,
        "targetBlank": False,
        "includeVars": True,
        "keepTime": True,
    }
    source = Template(name="ds", label="Prometheus", query="prometheus", type="datasource")
    return Board(
        title=title,
        description=description,
        uid=f"haprobe-{name}",
        tags=["haprobe"],
        schemaVersion=SCHEMA_VERSION,
        timezone="utc",
        refresh=refresh,
        time=Time(last, "now"),
        links=[others],
        templating=Templating([source, *variables]),
        annotations=Annotations(list(notes)),
        panels=list(panels),
    ).auto_panel_ids()
