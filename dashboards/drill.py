"""Drill: one failover, live and afterwards. What each flow saw, and what the cloud and the firewalls did meanwhile."""

from probe.core.events import VERDICTS
from probe.export.collector import ROLES
from probe.export.flow_text import BOUNDS
from probe.export.metrics import FAMILIES

from . import series
from .board import annotations, board, flow_variables, text_variable, variable
from .panels import (
    graph,
    lanes,
    link,
    matrix,
    named,
    queries,
    query,
    row,
    stat,
    steps,
    table,
    timeline,
    transform,
    values,
)
from .series import (
    BLUE,
    CALM,
    DIM,
    FLOW_LABELS,
    GREEN,
    GREY,
    HAD_OUTAGE,
    ORANGE,
    RED,
    SKY,
    UTC_MS,
    flow,
    metric,
    ms,
    rate,
)

RUN = 'fortios=~"$fortios",scenario=~"$scenario"'
ROLE_CODES = {role: code for code, role in enumerate(ROLES, start=1)}
ROLE_COLOURS = {"primary": CALM, "secondary": GREY, "standalone": ORANGE, "unknown": DIM}
PHASE_COLOURS = {
    **{"detect": ORANGE, "role_change": SKY, "cloud_api": CALM},
    **{"data_plane": GREEN, "full_recovery": GREY},
}
FLOW_LINKS = [
    link("This flow in depth", "/d/haprobe-flow?var-flow=${__field.labels.flow}&${ds:queryparam}&${__url_time_range}"),
]
ROW_LINK = [link("This flow in depth", "/d/haprobe-flow?var-flow=${__value.raw}&${ds:queryparam}&${__url_time_range}")]


LANE = "{{path}} · {{flow}} {{direction}}"
# One lane per flow if its agent tells of any direction at once; else of those with an outage in the range, or of one.
AT_ONCE, BOTH_WAYS = (
    f"group by (direction) (last_over_time({flow('haprobe_flow_state', 'direction=' + way)}[$__range]))"
    for way in ('"any"', '"round_trip"')
)
WITH_OUTAGE = f"group by (direction) (min_over_time({series.ANY_EXACT}[$__range]) == 0)"
DIRECTIONS = (
    f"query_result({AT_ONCE} or (({WITH_OUTAGE}) or {BOTH_WAYS} unless on () ({WITH_OUTAGE})) unless on () {AT_ONCE})"
)


def now():
    return [
        stat(
            "Flows not up",
            "Flows whose answers do not arrive now, of those chosen above.",
            f"count({flow('haprobe_flow_up')} == 0) or vector(0)",
            (3, 3, 0, 0),
            thresholds=steps((None, BLUE), (1, RED)),
        ),
        stat(
            "Outages",
            "Outages begun in the time range shown, over all chosen flows and both directions.",
            f"sum(round(increase({flow('haprobe_outages_total')}[$__range])))",
            (3, 3, 3, 0),
            thresholds=steps((None, BLUE), (1, ORANGE)),
        ),
        stat(
            "Longest last outage",
            "The longest among each flow's last outage: the estimate, half way between its bounds.",
            "max(" + flow("haprobe_last_outage_duration_seconds", 'bound="estimate"') + ")",
            (4, 3, 6, 0),
            unit="s",
            decimals=3,
            thresholds=steps((None, BLUE), (0.001, ORANGE)),
        ),
        stat(
            "Active unit by AWS",
            "The unit that every watched address and route points at; unknown mid-failover or while AWS is not seen.",
            f"max by (unit) ({metric('haprobe_aws_active_unit')}) == 1",
            (4, 3, 10, 0),
            legend="{{unit}}",
            text="name",
            noValue="unknown",
        ),
        stat(
            "Primary by FortiGate",
            "The unit that calls itself primary. Two names are a split brain; none while no unit answers.",
            "max by (unit) (" + metric("haprobe_fortigate_role", f'{series.AGENT},role="primary"') + ") == 1",
            (4, 3, 14, 0),
            legend="{{unit}}",
            text="name",
            noValue="unknown",
        ),
        stat(
            "Watchers blind",
            "HA watchers whose last poll failed: HA state is unknown, which says nothing about the traffic.",
            f"count({metric('haprobe_watcher_up')} == 0) or vector(0)",
            (3, 3, 18, 0),
            thresholds=steps((None, BLUE), (1, ORANGE)),
        ),
        stat(
            "Unobserved",
            "Time in which the agent itself did not probe on schedule, worst flow: neither up nor down.",
            f"max(increase({flow('haprobe_unobserved_seconds_total')}[$__range]))",
            (3, 3, 21, 0),
            unit="s",
            decimals=3,
            thresholds=steps((None, BLUE), (0.001, ORANGE)),
        ),
    ]


def exact():
    """The flows' states at their own milliseconds: written remotely, else from edges that the gauges hold as values."""
    words = {1: ("up", CALM), 0: ("OUTAGE", RED), 2: ("unobserved", GREY)}
    return timeline(
        "Outage windows",
        "Each flow's state at the very milliseconds of its probes, whatever the scrape interval: from samples written "
        "remotely, one row per direction; for agents that do not, or under another name than chosen above, the last "
        "outage known at each scrape.",
        [
            query(f"{series.EXACT}[$__range]", LANE, ref="Samples", instant=True),
            query(series.edges_from_gauges(), ref="Edges", table=True),
        ],
        (24, 11, 0, 3),
        values(words),
        gaps=False,
        transformations=[*lanes("row", only="Edges"), transform("renameByRegex", regex="(.*) any", renamePattern="$1")],
        links=FLOW_LINKS,
    )


def of_run(name):
    """The last run's in the range shown: a backfilled one is a single sample."""
    return f"last_over_time({metric(name, RUN)}[$__range])"


def phases():
    begins, ends, took = (
        f"max by (phase) ({of_run(f'haprobe_drill_phase_{what}seconds')})"
        for what in ("start_timestamp_", "end_timestamp_", "")
    )
    begun = f'label_replace(label_replace({ms(begins)}, "edge", "start", "", ""), "begins", "$1", "phase", "(.+)")'
    words = {**{phase: (phase, colour) for phase, colour in PHASE_COLOURS.items()}, "over": ("", "transparent")}
    return [
        stat(
            "Length of the phases",
            "Of the last run in the range of the chosen release and scenario, once `haprobe report --openmetrics` has "
            "told it: detection, role change, calls to the cloud, data plane, and all of it to full recovery.",
            took,
            (12, 4, 0, 14),
            legend="{{phase}}",
            text="value_and_name",
            sizes=(14, 20),
            unit="s",
            decimals=3,
            noValue="no run",
        ),
        timeline(
            "Phases of the failover",
            "When each phase of that run began and ended, to the millisecond.",
            [query(f"sort({begun} or {series.edges({('end', 'over'): ends})})", instant=True, table=True)],
            (12, 5, 0, 18),
            values(words),
            gaps=False,
            transformations=lanes("phase", text=True),
        ),
    ]


def cloud():
    roles = series.codes("haprobe_fortigate_role", "role", ROLE_CODES, selector=_of_agents)
    return [
        timeline(
            "Active unit by AWS",
            "Where all watched addresses and routes point. No unit is active mid-failover; gaps: AWS was not seen.",
            queries((f"max by (unit) ({metric('haprobe_aws_active_unit')})", "{{unit}}")),
            (6, 9, 12, 14),
            values({1: ("active", CALM), 0: ("not active", DIM)}),
        ),
        timeline(
            "Role by FortiGate",
            "The HA role that each unit gives itself, as last polled.",
            queries((f"min by (unit) ({roles})", "{{unit}}")),
            (6, 9, 18, 14),
            values({code: (role, ROLE_COLOURS[role]) for role, code in ROLE_CODES.items()}),
        ),
    ]


def _of_agents(name, more):
    return metric(name, f"{series.AGENT},{more}")


def last_outage(name, more=""):
    return f"max by ({FLOW_LABELS}) ({flow(name, more)})"


def results():
    edges = {
        "Path": {"custom__width": 100},
        "Start (UTC)": {"unit": UTC_MS, "custom__width": 190},
        "End (UTC)": {"unit": UTC_MS, "custom__width": 190},
        "Lost": {"custom__width": 80},
        **{name: {"unit": "s", "decimals": 3, "custom__width": 95} for name in ("At least", "Estimate", "At most")},
        "Open": {"mappings": values({0: ("no", BLUE), 1: ("OPEN", RED)}), "custom__width": 70},
        "Flow": {"links": ROW_LINK},
    }
    names = {
        **{"path": "Path", "flow": "Flow"},
        **{"Value #A": "Start (UTC)", "Value #B": "End (UTC)", "Value #C": "At least", "Value #D": "Estimate"},
        **{"Value #E": "At most", "Value #F": "Lost", "Value #G": "Open"},
    }
    bounds = [last_outage("haprobe_last_outage_duration_seconds", f'bound="{bound}"') for bound in BOUNDS]
    code = series.codes("haprobe_flow_verdict", "verdict", {v: series.VERDICT_CODES[v] for v in VERDICTS})
    survival = f'max by (path, probe) (label_join({code}, "probe", " ", "protocol", "session"))'
    return [
        table(
            "Last outage of each flow, with bounds",
            "Edges and bounds come from the probes' own send times, whatever the scrape interval.",
            queries(
                (f"{ms(last_outage('haprobe_last_outage_start_timestamp_seconds'))} {HAD_OUTAGE}", ""),
                (f"{ms(last_outage('haprobe_last_outage_end_timestamp_seconds'))} {HAD_OUTAGE}", ""),
                *((f"{expr} {HAD_OUTAGE}", "") for expr in bounds),
                (f"{last_outage('haprobe_last_outage_lost_probes')} {HAD_OUTAGE}", ""),
                (f"{last_outage('haprobe_last_outage_open')} {HAD_OUTAGE}", ""),
                instant=True,
                table=True,
            ),
            (14, 9, 0, 23),
            names=names,
            hidden=("instance", "protocol", "session"),
            overrides=[named(name, **properties) for name, properties in edges.items()],
            sort="Start (UTC)",
        ),
        matrix(
            "Survival",
            "What became of the sessions on each path; where several flows share a cell, the worst of them.",
            survival,
            (10, 9, 14, 23),
            rows="path",
            columns="probe",
            mappings=values({c: (v, series.VERDICT_COLOURS[v]) for v, c in series.VERDICT_CODES.items()}),
        ),
    ]


def details():
    lost = rate(flow("haprobe_probes_lost_by_direction_total"))
    sent = rate(flow("haprobe_probes_sent_total"))
    owners = " or ".join(
        f"max by (address, route_table, destination, owner, unit, state) ({metric(name)})"
        for name in FAMILIES
        if name.endswith("_owner_info")
    )
    changed = metric("haprobe_aws_last_change_timestamp_seconds")
    return [
        row("Details", 32),
        timeline(
            "Live state of each flow",
            "As scraped, on the grid of scrapes: what the agent says now, also about sessions that have ended.",
            queries((series.LIVE_STATES, "{{path}} · {{flow}}")),
            (24, 9, 0, 33),
            values({code: (state, series.STATE_COLOURS[state]) for state, code in series.STATE_CODES.items()}),
            links=FLOW_LINKS,
        ),
        graph(
            "Loss by direction",
            "Share of the probes sent that were lost on the way there (forward), back (reverse), or either.",
            queries(
                (
                    f"sum by (instance, flow, direction) ({lost})"
                    f" / on (instance, flow) group_left sum by (instance, flow) ({sent}) > 0",
                    "{{flow}} {{direction}}",
                )
            ),
            (12, 9, 0, 42),
            "percentunit",
            colours=series.BY_DIRECTION,
            min=0,
            max=1,
        ),
        graph(
            "Round-trip delay, 99th percentile",
            "Of answered probes, by flow; in depth on the flow's own dashboard.",
            queries(
                (
                    "histogram_quantile(0.99, sum by (instance, flow, le)"
                    f" ({rate(flow('haprobe_rtt_seconds_bucket'))}))",
                    "{{flow}}",
                )
            ),
            (12, 9, 12, 42),
            "s",
            min=0,
        ),
        table(
            "Owners in AWS",
            "What each Elastic IP, route and secondary address points at, as last polled.",
            queries((owners, ""), instant=True, table=True),
            (12, 8, 0, 51),
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
                (ms(f"max by (kind, address, route_table, destination) ({changed} > 0)"), ""),
                instant=True,
                table=True,
            ),
            (12, 8, 12, 51),
            names={
                **{"kind": "Kind", "address": "Address", "route_table": "Route table", "destination": "Destination"},
                **{"Value": "Changed (UTC)"},
            },
            overrides=[named("Changed (UTC)", unit=UTC_MS, custom__width=200)],
            sort="Changed (UTC)",
        ),
        timeline(
            "Watchers",
            "Whether each watcher's last poll succeeded. While blind, HA state is unknown.",
            queries((f"min by (instance, watcher) ({metric('haprobe_watcher_up')})", "{{watcher}} · {{instance}}")),
            (12, 7, 0, 59),
            values({1: ("sees", CALM), 0: ("BLIND", ORANGE)}),
        ),
        table(
            "Reports of the last runs",
            "The last run of each release and scenario; the link opens its report below the address given above.",
            queries((of_run("haprobe_drill_info"), ""), instant=True, table=True),
            (12, 7, 12, 59),
            names={"fortios": "FortiOS", "scenario": "Scenario", "trigger": "Trigger", "run": "Run"},
            hidden=("Value", "instance", "host", "version"),
            overrides=[named("Run", links=[link("Report", "${reports}/${__value.raw}/report.html", new_tab=True)])],
        ),
    ]


dashboard = board(
    "drill",
    "haprobe: Drill",
    "One failover: exact outage windows, surviving sessions, and what AWS and the FortiGates did meanwhile.",
    [
        *flow_variables(),
        variable("direction", "Direction", DIRECTIONS, everything=""),
        variable("fortios", "FortiOS", "label_values(haprobe_drill_info, fortios)"),
        variable("scenario", "Scenario", "label_values(haprobe_drill_info, scenario)"),
        text_variable("reports", "Reports at", "/runs"),
    ],
    [*now(), exact(), *phases(), *cloud(), *results(), *details()],
    notes=annotations(series.FLOWS),
)
