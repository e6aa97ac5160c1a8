"""The drill dashboard: flow states, outage windows, losses, delay, verdicts and what the cloud did meanwhile.

    generate-dashboard -o dashboards/haprobe-drill.json dashboards/haprobe.dashboard.py

The JSON beside this file is generated, and a test holds it to this source. Metric names are looked up in the
exporter's table, so that a renamed metric fails here and not on a screen.
"""

import json

from grafanalib._gen import DashboardEncoder
from grafanalib.core import (
    Annotations,
    Dashboard,
    GridPos,
    RowPanel,
    Stat,
    StateTimeline,
    Table,
    Target,
    Template,
    Templating,
    Time,
    TimeSeries,
)

from probe.core.events import VERDICTS
from probe.export.flow_text import BOUNDS, FLOW_STATES
from probe.export.metrics import FAMILIES

SCHEMA_VERSION = 41  # of Grafana 11 and 12; grafanalib's own default of 12 would be migrated, and half of it lost
DATASOURCE = {"type": "prometheus", "uid": "${ds}"}
AGENT = 'instance=~"$instance"'
FLOWS = f'{AGENT},path=~"$path",flow=~"$flow"'
FLOW_LABELS = "instance, path, flow, protocol, session"
UTC_MS = "time:YYYY-MM-DD HH:mm:ss.SSS"

# Okabe and Ito's colours: told apart by colour-blind eyes. Words stand beside them everywhere.
BLUE, ORANGE, RED, GREY, YELLOW, GREEN = "#0072B2", "#E69F00", "#D55E00", "#999999", "#F0E442", "#009E73"
STATE_CODES = {state: code for code, state in enumerate(FLOW_STATES, start=1)}
STATE_COLOURS = {"up": BLUE, "suspect": ORANGE, "down": RED, "connecting": YELLOW, "ended": GREY}
VERDICT_COLOURS = {
    **{"unaffected": BLUE, "survived": GREEN, "rebound": YELLOW, "half": ORANGE},
    **{"lost": RED, "reset": RED, "dark": RED, "unobserved": GREY},
}


def metric(name: str, labels: str = AGENT) -> str:
    """A selector of a declared series; raises KeyError for any other name."""
    if name not in FAMILIES:
        FAMILIES[name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")]
    return f"{name}{{{labels}}}"


def flow(name: str, more: str = "") -> str:
    return metric(name, ",".join(filter(None, (FLOWS, more))))


class Query(Target):
    """A Prometheus query without grafanalib's doubled step, and with the fields current Grafana writes."""

    def to_json_data(self):
        kind = {"instant": self.instant, "range": not self.instant, "editorMode": "code"}
        wanted = {"refId": self.refId, "expr": self.expr, "legendFormat": self.legendFormat, "format": self.format}
        return {"datasource": DATASOURCE, **wanted, **kind}


def queries(*pairs, instant=False, table=False):
    """Targets A, B, … of (expression, legend)."""
    shape = "table" if table else "time_series"
    return [
        Query(expr=expr, legendFormat=legend, refId=chr(65 + i), instant=instant, format=shape)
        for i, (expr, legend) in enumerate(pairs)
    ]


def values(words: dict) -> list:
    """Value mappings of {value: (text, colour)}."""
    options = {
        str(value): {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(words.items())
    }
    return [{"type": "value", "options": options}]


def steps(*pairs) -> dict:
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for value, colour in pairs]}


def defaults(unit="none", *, mappings=(), thresholds=None, colour="thresholds", **more) -> dict:
    return {
        "unit": unit,
        "mappings": list(mappings),
        "thresholds": thresholds or steps((None, BLUE)),
        "color": {"mode": colour},
        **more,
    }


def panel(kind, title, description, targets, where, *, fields, overrides=(), options=None, **more):
    """One panel; everything that grafanalib writes in an old form is given in the current one."""
    width, height, x, y = where
    extra = {"fieldConfig": {"defaults": fields, "overrides": list(overrides)}, "options": options or {}}
    return kind(
        title=title,
        description=description,
        dataSource=DATASOURCE,
        targets=targets,
        gridPos=GridPos(h=height, w=width, x=x, y=y),
        maxDataPoints=None,
        thresholds=[],
        extraJson=extra,
        **more,
    )


def row(title, y):
    return RowPanel(title=title, gridPos=GridPos(h=1, w=24, x=0, y=y))


def stat(title, description, expr, where, *, legend="", text="auto", **more):
    options = {"colorMode": "value", "graphMode": "none", "textMode": text}
    return panel(
        *(Stat, title, description, queries((expr, legend), instant=True), where),
        fields=defaults(**more),
        options=options,
        reduceCalc="lastNotNull",
    )


def timeline(title, description, targets, where, mappings):
    options = {"legend": {"showLegend": False, "displayMode": "list", "placement": "bottom"}}
    custom = {"lineWidth": 0, "fillOpacity": 80, "spanNulls": False}
    fields = defaults(mappings=mappings, colour="thresholds", custom=custom, thresholds=steps((None, GREY)))
    return panel(StateTimeline, title, description, targets, where, fields=fields, options=options)


def graph(title, description, targets, where, unit, **more):
    options = {
        "legend": {"showLegend": True, "displayMode": "table", "placement": "right", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": False}
    fields = defaults(unit, colour="palette-classic", custom=custom, **more)
    return panel(TimeSeries, title, description, targets, where, fields=fields, options=options)


def column(name, **properties):
    """An override of one table column; dots in property names are written as `__`."""
    wanted = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": wanted}


def table(title, description, targets, where, *, names, hidden=(), overrides=(), sort=None):
    """A table with columns renamed and ordered as in `names`."""
    organize = {
        "excludeByName": dict.fromkeys(("Time", "__name__", "job", *hidden), True),
        "renameByName": names,
        "indexByName": {name: index for index, name in enumerate(names)},
    }
    options = {"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": sort, "desc": True}] if sort else []}
    return panel(
        *(Table, title, description, targets, where),
        fields=defaults(custom={"align": "auto", "filterable": True}),
        overrides=overrides,
        options=options,
        transformations=[{"id": "merge", "options": {}}, {"id": "organize", "options": organize}],
    )


COLOURED_CELL = {"custom__cellOptions": {"type": "color-background", "mode": "basic"}}
CODES = " or ".join(f'{flow("haprobe_flow_state", f"""state="{s}" """.strip())} * {c}' for s, c in STATE_CODES.items())
HAD_OUTAGE = f"and on (instance, flow) ({flow('haprobe_last_outage_start_timestamp_seconds')} > 0)"


def last_outage(name, factor="", more=""):
    return f"max by ({FLOW_LABELS}) ({flow(name, more)}){factor} {HAD_OUTAGE}"


def overview():
    return [
        row("Now", 0),
        stat(
            "Flows not up",
            "Flows whose answers do not arrive now, of those chosen above.",
            f"count({flow('haprobe_flow_up')} == 0) or vector(0)",
            (4, 4, 0, 1),
            thresholds=steps((None, BLUE), (1, RED)),
        ),
        stat(
            "Outages",
            "Outages begun in the time range shown, over all chosen flows and both directions.",
            f"sum(ceil(increase({flow('haprobe_outages_total')}[$__range])))",
            (4, 4, 4, 1),
            thresholds=steps((None, BLUE), (1, ORANGE)),
        ),
        stat(
            "Longest last outage",
            "The longest among each flow's last outage: the estimate, half way between its bounds.",
            "max(" + flow("haprobe_last_outage_duration_seconds", 'bound="estimate"') + ")",
            (4, 4, 8, 1),
            unit="s",
            decimals=3,
            thresholds=steps((None, BLUE), (1, ORANGE), (10, RED)),
        ),
        stat(
            "Active unit by AWS",
            "The unit that every watched address and route points at; empty mid-failover or while AWS cannot be seen.",
            f"max by (unit) ({metric('haprobe_aws_active_unit')}) == 1",
            (4, 4, 12, 1),
            legend="{{unit}}",
            text="name",
            noValue="unknown",
        ),
        stat(
            "Watchers blind",
            "HA watchers whose last poll failed: HA state is unknown, which says nothing about the traffic.",
            f"count({metric('haprobe_watcher_up')} == 0) or vector(0)",
            (4, 4, 16, 1),
            thresholds=steps((None, BLUE), (1, ORANGE)),
        ),
        stat(
            "Unobserved",
            "Time in which the agent itself did not probe on schedule, worst flow: neither up nor down.",
            f"max(increase({flow('haprobe_unobserved_seconds_total')}[$__range]))",
            (4, 4, 20, 1),
            unit="s",
            decimals=3,
            thresholds=steps((None, BLUE), (0.001, ORANGE)),
        ),
    ]


def windows():
    edges = {
        "Start (ms)": {"unit": UTC_MS, "custom__width": 210},
        "End (ms)": {"unit": UTC_MS, "custom__width": 210},
        **{name: {"unit": "s", "decimals": 6} for name in ("At least", "Estimate", "At most")},
        "Still open": {"mappings": values({0: ("no", BLUE), 1: ("OPEN", RED)}), **COLOURED_CELL},
    }
    names = {
        **{"path": "Path", "flow": "Flow", "protocol": "Protocol", "session": "Session", "instance": "Agent"},
        **{"Value #A": "Start (ms)", "Value #B": "End (ms)", "Value #C": "At least", "Value #D": "Estimate"},
        **{"Value #E": "At most", "Value #F": "Lost", "Value #G": "Still open"},
    }
    bounds = [last_outage("haprobe_last_outage_duration_seconds", "", f'bound="{bound}"') for bound in BOUNDS]
    return [
        row("Flows", 5),
        timeline(
            "Flow states",
            "Live state of each flow, on the grid of scrapes; the exact windows are in the table below.",
            queries((f"max by (instance, path, flow) ({CODES})", "{{path}} · {{flow}}")),
            (24, 10, 0, 6),
            values({code: (state, STATE_COLOURS[state]) for state, code in STATE_CODES.items()}),
        ),
        table(
            "Last outage of each flow, with bounds",
            "Edges and bounds come from the probes' own send times, whatever the scrape interval.",
            queries(
                (last_outage("haprobe_last_outage_start_timestamp_seconds", " * 1000"), ""),
                (last_outage("haprobe_last_outage_end_timestamp_seconds", " * 1000"), ""),
                *((expr, "") for expr in bounds),
                (last_outage("haprobe_last_outage_lost_probes"), ""),
                (last_outage("haprobe_last_outage_open"), ""),
                instant=True,
                table=True,
            ),
            (24, 9, 0, 16),
            names=names,
            overrides=[column(name, **properties) for name, properties in edges.items()],
            sort="Start (ms)",
        ),
        table(
            "Verdict per flow",
            "What became of each flow's session so far; a kept flow is judged together with its fresh twin.",
            queries(
                (f"max by ({FLOW_LABELS}, verdict) ({flow('haprobe_flow_verdict')}) == 1", ""), instant=True, table=True
            ),
            (12, 9, 0, 25),
            names={
                **{"path": "Path", "flow": "Flow", "protocol": "Protocol", "session": "Session"},
                **{"verdict": "Verdict", "instance": "Agent"},
            },
            hidden=("Value",),
            overrides=[
                column("Verdict", mappings=values({v: (v, VERDICT_COLOURS[v]) for v in VERDICTS}), **COLOURED_CELL)
            ],
        ),
        graph(
            "Loss by direction",
            "Share of the probes sent that were lost on the way there (forward), back (reverse), or on either "
            "(unattributed).",
            queries(
                (
                    "sum by (flow, direction) "
                    f"(rate({flow('haprobe_probes_lost_by_direction_total')}[$__rate_interval]))"
                    " / on (flow) group_left"
                    f" sum by (flow) (rate({flow('haprobe_probes_sent_total')}[$__rate_interval]))",
                    "{{flow}} {{direction}}",
                )
            ),
            (12, 9, 12, 25),
            "percentunit",
            min=0,
        ),
        graph(
            "Round-trip delay",
            "Median and 99th percentile of answered probes.",
            queries(
                *(
                    (
                        f"histogram_quantile({q}, sum by (flow, le) "
                        f"(rate({flow('haprobe_rtt_seconds_bucket')}[$__rate_interval])))",
                        f"{{{{flow}}}} p{round(q * 100)}",
                    )
                    for q in (0.5, 0.99)
                )
            ),
            (24, 9, 0, 34),
            "s",
            min=0,
        ),
    ]


def high_availability():
    owners = " or ".join(
        f"max by (address, route_table, destination, owner, unit, state) ({metric(name)})"
        for name in FAMILIES
        if name.endswith("_owner_info")
    )
    return [
        row("High availability", 43),
        timeline(
            "Active unit by AWS",
            "1 for the unit that all watched addresses and routes point at. Gaps: AWS could not be seen.",
            queries((f"max by (unit) ({metric('haprobe_aws_active_unit')})", "{{unit}}")),
            (12, 6, 0, 44),
            values({1: ("active", BLUE), 0: ("standby", GREY)}),
        ),
        timeline(
            "Watchers",
            "Whether each watcher's last poll succeeded. While blind, HA state is unknown.",
            queries((f"min by (instance, watcher) ({metric('haprobe_watcher_up')})", "{{watcher}} · {{instance}}")),
            (12, 6, 12, 44),
            values({1: ("sees", BLUE), 0: ("blind", RED)}),
        ),
        table(
            "Owners in AWS",
            "What each Elastic IP, route and secondary address points at, as last polled.",
            queries((owners, ""), instant=True, table=True),
            (12, 8, 0, 50),
            names={
                **{"address": "Address", "route_table": "Route table", "destination": "Destination"},
                **{"owner": "Network interface", "unit": "Unit", "state": "Route state"},
            },
            hidden=("Value",),
        ),
        table(
            "Last changes in AWS",
            "When each was last seen to change owner: the middle between two polls.",
            queries(
                (
                    "max by (kind, address, route_table, destination) "
                    f"({metric('haprobe_aws_last_change_timestamp_seconds')} > 0) * 1000",
                    "",
                ),
                instant=True,
                table=True,
            ),
            (12, 8, 12, 50),
            names={
                **{"kind": "Kind", "address": "Address", "route_table": "Route table", "destination": "Destination"},
                **{"Value": "Changed (ms)"},
            },
            overrides=[column("Changed (ms)", unit=UTC_MS, custom__width=210)],
            sort="Changed (ms)",
        ),
    ]


def trust():
    return [
        row("Can this measurement be trusted?", 58),
        graph(
            "Probes that never counted",
            "Due but unsent, answered but dropped by our own rings, corrupt: faults of the probe's own host.",
            queries(
                *(
                    (f"sum by (instance) (rate({flow(f'haprobe_probes_{what}_total')}[$__rate_interval]))", legend)
                    for what, legend in (
                        ("unsent", "{{instance}} unsent"),
                        ("dropped_locally", "{{instance}} dropped locally"),
                        ("corrupt", "{{instance}} corrupt"),
                    )
                )
            ),
            (8, 8, 0, 59),
            "pps",
            min=0,
        ),
        graph(
            "Clock error bound",
            "How far each host's clock can be from UTC; times of different hosts are comparable within the sum of two.",
            queries((metric("haprobe_clock_max_error_seconds"), "{{instance}}")),
            (8, 8, 8, 59),
            "s",
            min=0,
        ),
        graph(
            "AWS API calls by result",
            "Calls of the watcher; anything but ok makes it blind until the next good answer.",
            queries(
                (
                    f"sum by (operation, result) (rate({metric('haprobe_aws_api_requests_total')}[$__rate_interval]))",
                    "{{operation}} {{result}}",
                )
            ),
            (8, 8, 16, 59),
            "reqps",
            min=0,
        ),
    ]


def annotation(name, expr, colour, text):
    """Marks at the instant that the metric's value names, in milliseconds, rather than at the scrape."""
    at = {"useValueForTime": "on", "step": "1s", "titleFormat": name, "textFormat": text}
    return {"name": name, "enable": True, "iconColor": colour, "datasource": DATASOURCE, "expr": expr, **at}


def variable(name, label, query):
    return Template(
        name=name, label=label, query=query, type="query", dataSource=DATASOURCE, includeAll=True, multi=True, refresh=2
    )


LEGACY = {
    *("rows", "sharedCrosshair", "hideControls", "style", "__inputs", "gnetId", "time_options"),
    *("editable", "error", "span", "minSpan", "height", "hideTimeOverride", "transparent", "cacheTimeout"),
    *("useTags", "tagsQuery", "tagValuesQuery", "auto", "auto_min", "auto_count"),
}
PANEL_LEGACY = {"color", "columns", "fontSize", "mappings"}
ROW_FIELDS = {"collapsed", "gridPos", "id", "panels", "title", "type"}


class DrillDashboard(Dashboard):
    """A dashboard whose JSON holds current forms only."""

    def to_json_data(self):
        plain = json.loads(json.dumps(super().to_json_data(), cls=DashboardEncoder))
        made = pruned(plain)
        for one in made["panels"]:
            for key in (set(one) - ROW_FIELDS) if one["type"] == "row" else PANEL_LEGACY & set(one):
                del one[key]
        for template in made["templating"]["list"]:
            if template.get("includeAll"):
                template["current"] = {"text": "All", "value": "$__all"}
            else:
                template.pop("current", None)
        return made


def pruned(value):
    """Without nulls and legacy keys; a threshold's null is kept, where it stands for minus infinity."""
    if isinstance(value, dict):
        is_step = set(value) == {"color", "value"}
        return {k: pruned(v) for k, v in value.items() if (v is not None or is_step) and k not in LEGACY}
    return [pruned(item) for item in value] if isinstance(value, list) else value


START = flow("haprobe_last_outage_start_timestamp_seconds")
END = flow("haprobe_last_outage_end_timestamp_seconds")
CHANGED = metric("haprobe_aws_last_change_timestamp_seconds")

dashboard = DrillDashboard(
    title="haprobe: failover drill",
    description="Exact outage windows, surviving sessions and HA state of FortiGate pairs, measured by haprobe.",
    uid="haprobe-drill",
    tags=["haprobe", "high availability"],
    schemaVersion=SCHEMA_VERSION,
    timezone="utc",
    refresh="5s",
    time=Time("now-15m", "now"),
    templating=Templating(
        [
            Template(name="ds", label="Prometheus", query="prometheus", type="datasource"),
            variable("instance", "Agent", "label_values(haprobe_build_info, instance)"),
            variable("path", "Path", 'label_values(haprobe_flow_up{instance=~"$instance"}, path)'),
            variable("flow", "Flow", 'label_values(haprobe_flow_up{instance=~"$instance",path=~"$path"}, flow)'),
        ]
    ),
    annotations=Annotations(
        [
            annotation("Outage begins", f"max by (path, flow) ({START} > 0) * 1000", RED, "{{path}} {{flow}}"),
            annotation("Outage ends", f"max by (path, flow) ({END} > 0) * 1000", BLUE, "{{path}} {{flow}}"),
            annotation(
                "AWS change",
                f"max by (kind, address, route_table, destination) ({CHANGED} > 0) * 1000",
                ORANGE,
                "{{kind}} {{address}}{{route_table}} {{destination}}",
            ),
        ]
    ),
    panels=[*overview(), *windows(), *high_availability(), *trust()],
).auto_panel_ids()
