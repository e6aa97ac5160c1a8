"""Fleet: many agents and pairs. Which are there, which see trouble, and which cannot be trusted."""

from .board import annotations, board, variable
from .panels import graph, link, named, queries, row, stat, steps, table, timeline, values
from .series import AGENT, BLUE, CALM, DIM, ORANGE, RED, metric, rate

PATHS = f'{AGENT},path=~"$path"'
DRILL = "/d/haprobe-drill?var-instance=${__value.raw}&${ds:queryparam}&${__url_time_range}"


def of_path(name, more=""):
    return metric(name, ",".join(filter(None, (PATHS, more))))


ENDED = of_path("haprobe_flow_state", 'state="ended"')


def now():
    return [
        stat(
            "Agents",
            "Agents that Prometheus reaches now, of those chosen above.",
            f"count({metric('haprobe_ready')}) or vector(0)",
            (4, 3, 0, 0),
            thresholds=steps((None, ORANGE), (1, BLUE)),
        ),
        stat(
            "Not ready",
            "Agents of which some flow or watcher has not started yet.",
            f"count({metric('haprobe_ready')} == 0) or vector(0)",
            (4, 3, 4, 0),
            thresholds=steps((None, BLUE), (1, ORANGE)),
        ),
        stat(
            "Flows",
            "Flows of all chosen agents and paths.",
            f"count({of_path('haprobe_flow_up')}) or vector(0)",
            (4, 3, 8, 0),
        ),
        stat(
            "Flows not up",
            "Flows whose answers do not arrive now, but for sessions that have ended: those stay ended.",
            f"count({of_path('haprobe_flow_up')} == 0 unless on (instance, flow) {ENDED} == 1) or vector(0)",
            (4, 3, 12, 0),
            thresholds=steps((None, BLUE), (1, RED)),
        ),
        stat(
            "Watchers blind",
            "HA watchers whose last poll failed: a failover now would have no cause in the timeline.",
            f"count({metric('haprobe_watcher_up')} == 0) or vector(0)",
            (4, 3, 16, 0),
            thresholds=steps((None, BLUE), (1, ORANGE)),
        ),
        stat(
            "Worst clock",
            "The widest bound on an agent's offset from UTC. Durations do not depend on it.",
            f"max({metric('haprobe_clock_max_error_seconds')})",
            (4, 3, 20, 0),
            unit="s",
            decimals=3,
            thresholds=steps((None, BLUE), (0.05, ORANGE)),
        ),
    ]


def agents():
    columns = {
        "Version": f"max by (instance, version) ({metric('haprobe_build_info')})",
        "Flows": f"count by (instance) ({of_path('haprobe_flow_up')})",
        "Not up": f"sum by (instance) (1 - {of_path('haprobe_flow_up')})",
        "Outages": f"sum by (instance) (round(increase({of_path('haprobe_outages_total')}[$__range])))",
        "Unobserved": f"max by (instance) (increase({of_path('haprobe_unobserved_seconds_total')}[$__range]))",
        "Clock": f"max by (instance) ({metric('haprobe_clock_max_error_seconds')})",
        "Config": f"min by (instance) ({metric('haprobe_config_last_reload_successful')})",
    }
    letters = {column: f"Value #{chr(65 + i)}" for i, column in enumerate(columns)}
    names = {"instance": "Agent", "version": "Version", **{v: k for k, v in letters.items() if k != "Version"}}
    cell = {"custom__cellOptions": {"type": "color-text"}}
    return [
        table(
            "Agents",
            "One row per agent; its name leads to Drill. Outages and unobserved time are those of the range shown.",
            queries(*((expr, "") for expr in columns.values()), instant=True, table=True),
            (14, 9, 0, 3),
            names=names,
            hidden=(letters["Version"],),
            overrides=[
                named(
                    "Agent", links=[link("Drill", DRILL), link("Its own page", "http://${__value.raw}/", new_tab=True)]
                ),
                named("Not up", thresholds=steps((None, BLUE), (1, RED)), **cell),
                named("Outages", thresholds=steps((None, BLUE), (1, ORANGE)), **cell),
                named("Unobserved", unit="s", decimals=3, thresholds=steps((None, BLUE), (0.001, ORANGE)), **cell),
                named("Clock", unit="s", decimals=3, thresholds=steps((None, BLUE), (0.05, ORANGE)), **cell),
                named("Config", mappings=values({1: ("current", BLUE), 0: ("OLD", ORANGE)}), **cell),
            ],
        ),
        table(
            "Firewalls",
            "Firmware of each unit that answers, and the HA role that it gives itself.",
            queries(
                (f"max by (unit, version, build, serial) ({metric('haprobe_fortigate_info')})", ""),
                instant=True,
                table=True,
            ),
            (10, 9, 14, 3),
            names={"unit": "Unit", "version": "FortiOS", "build": "Build", "serial": "Serial"},
            hidden=("Value", "instance"),
        ),
        timeline(
            "Paths",
            "A path is up at an agent while all its flows are, but for sessions that have ended.",
            queries(
                (
                    f"min by (instance, path) ({of_path('haprobe_flow_up')} unless on (instance, flow) {ENDED} == 1)",
                    "{{instance}} · {{path}}",
                )
            ),
            (14, 9, 0, 12),
            values({1: ("up", CALM), 0: ("DOWN", RED)}),
        ),
        timeline(
            "Active unit of each pair",
            "The unit that AWS points at, by agent that watches the pair. Two units by turns are a failover.",
            queries((f"max by (instance, unit) ({metric('haprobe_aws_active_unit')})", "{{unit}} · {{instance}}")),
            (10, 9, 14, 12),
            values({1: ("active", CALM), 0: ("not active", DIM)}),
        ),
    ]


def trends():
    lost, sent = rate(of_path("haprobe_probes_lost_total")), rate(of_path("haprobe_probes_sent_total"))
    return [
        graph(
            "Loss by path",
            "Share of the probes sent by each agent on each path that were lost.",
            queries(
                (f"sum by (instance, path) ({lost}) / sum by (instance, path) ({sent}) > 0", "{{instance}} · {{path}}")
            ),
            (12, 8, 0, 21),
            "percentunit",
            min=0,
        ),
        graph(
            "Delay by path, 99th percentile",
            "Round-trip delay of answered probes, over all flows of an agent's path.",
            queries(
                (
                    "histogram_quantile(0.99, sum by (instance, path, le) "
                    f"({rate(of_path('haprobe_rtt_seconds_bucket'))}))",
                    "{{instance}} · {{path}}",
                )
            ),
            (12, 8, 12, 21),
            "s",
            min=0,
        ),
        row("Can these measurements be trusted?", 29),
        graph(
            "Probes that never counted",
            "Due but unsent, answered but dropped by our own rings, corrupt: faults of the probes' own hosts.",
            queries(
                *(
                    (
                        f"sum by (instance) ({rate(metric(f'haprobe_probes_{what}_total'))})",
                        f"{{{{instance}}}} {legend}",
                    )
                    for what, legend in (
                        ("unsent", "unsent"),
                        ("dropped_locally", "dropped locally"),
                        ("corrupt", "corrupt"),
                    )
                )
            ),
            (8, 8, 0, 30),
            "pps",
            legend="bottom",
            min=0,
        ),
        graph(
            "Clock error bound",
            "How far each host's clock can be from UTC; times of two hosts compare within the sum of theirs.",
            queries((metric("haprobe_clock_max_error_seconds"), "{{instance}}")),
            (8, 8, 8, 30),
            "s",
            legend="bottom",
            min=0,
        ),
        graph(
            "AWS API calls by result",
            "Calls of the watchers; anything but ok makes one blind until the next good answer.",
            queries(
                (
                    f"sum by (operation, result) ({rate(metric('haprobe_aws_api_requests_total'))}) > 0",
                    "{{operation}} {{result}}",
                )
            ),
            (8, 8, 16, 30),
            "reqps",
            legend="bottom",
            min=0,
        ),
    ]


dashboard = board(
    "fleet",
    "haprobe: Fleet",
    "Many agents and pairs: which are there, which see trouble, and which cannot be trusted.",
    [
        variable("instance", "Agent", "label_values(haprobe_build_info, instance)"),
        variable("path", "Path", 'label_values(haprobe_flow_up{instance=~"$instance"}, path)'),
    ],
    [*now(), *agents(), *trends()],
    last="now-1h",
    refresh="30s",
    notes=annotations(PATHS),
)
