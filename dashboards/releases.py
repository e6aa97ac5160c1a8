"""Releases: FortiOS versions side by side over time, from the runs that `haprobe report --openmetrics` has told."""

from .board import board, text_variable, variable
from .panels import graph, link, matrix, named, queries, stat, steps, table, values
from .series import BLUE, ORANGE, RED, UTC_MS, VERDICT_CODES, VERDICT_COLOURS, metric, ms

RUN = 'fortios=~"$fortios",scenario=~"$scenario"'
KIND = f'{RUN},path=~"$path"'
SURVIVED = 'verdict=~"unaffected|survived"'
COLOURS = values({code: (verdict, VERDICT_COLOURS[verdict]) for verdict, code in VERDICT_CODES.items()})


def run(name, more=""):
    return metric(name, ",".join(filter(None, (RUN, more))))


def kind(name, more=""):
    return metric(name, ",".join(filter(None, (KIND, more))))


def in_range(selector, how="last"):
    """Over the range shown: a textfile may have gone since, and a backfilled run is one sample."""
    return f"{how}_over_time({selector}[$__range])"


ESTIMATE = kind("haprobe_drill_outage_seconds", 'bound="estimate"')
KEPT = kind("haprobe_drill_flows", 'session="kept"')
KEPT_SURVIVED = kind("haprobe_drill_flows", f'session="kept",{SURVIVED}')
RUN_END = in_range(run("haprobe_drill_end_timestamp_seconds"))


def share(kept_well, kept):
    return f"sum by (fortios) ({kept_well}) / (sum by (fortios) ({kept}) > 0)"


def summary():
    columns = {
        "Last run (UTC)": ms(f"max by (fortios, scenario) ({RUN_END})"),
        "Last": f"max by (fortios, scenario) ({in_range(ESTIMATE)})",
        # Not the best run: of which run each minimum is, nobody knows. But no run's longest outage was shorter.
        "No run below": f"max by (fortios, scenario) ({in_range(ESTIMATE, 'min')})",
        "Worst": f"max by (fortios, scenario) ({in_range(ESTIMATE, 'max')})",
        "Recovery": "max by (fortios, scenario) ("
        + in_range(run("haprobe_drill_phase_seconds", 'phase="full_recovery"'))
        + ")",
        "Sessions kept": f"sum by (fortios, scenario) ({in_range(KEPT_SURVIVED)})"
        f" / (sum by (fortios, scenario) ({in_range(KEPT)}) > 0)",
        "Budgets": f"min by (fortios, scenario) ({in_range(run('haprobe_drill_budget_ok'))})",
    }
    names = {"fortios": "FortiOS", "scenario": "Scenario"}
    names |= {f"Value #{chr(65 + i)}": column for i, column in enumerate(columns)}
    seconds = {"unit": "s", "decimals": 3}
    return [
        table(
            "Releases",
            "The longest outage of the chosen paths in the last run, a length below which it stayed in no run in the "
            "range shown, and the longest of all; the time to full recovery, and the share of kept sessions that "
            "survived.",
            queries(*((expr, "") for expr in columns.values()), instant=True, table=True),
            (24, 8, 0, 3),
            names=names,
            overrides=[
                named("Last run (UTC)", unit=UTC_MS, custom__width=200),
                *(named(name, **seconds) for name in ("Last", "No run below", "Worst", "Recovery")),
                named("Sessions kept", unit="percentunit", decimals=0),
                named("Budgets", mappings=values({1: ("kept", BLUE), 0: ("BROKEN", RED)})),
            ],
            sort="FortiOS",
        ),
    ]


def now():
    return [
        stat(
            "Releases",
            "FortiOS releases with a run in the time range shown.",
            f"count(count by (fortios) ({RUN_END})) or vector(0)",
            (6, 3, 0, 0),
        ),
        stat(
            "Worst outage",
            "The longest outage of any run in the time range shown, on the chosen paths.",
            f"max({in_range(ESTIMATE, 'max')})",
            (6, 3, 6, 0),
            unit="s",
            decimals=3,
            noValue="no run",
        ),
        stat(
            "Sessions kept",
            "Share of the kept sessions that survived, over the last run of each chosen release and scenario.",
            f"sum({in_range(KEPT_SURVIVED)}) / (sum({in_range(KEPT)}) > 0)",
            (6, 3, 12, 0),
            unit="percentunit",
            decimals=0,
            noValue="no run",
            thresholds=steps((None, ORANGE), (1, BLUE)),
        ),
        stat(
            "Budgets broken",
            "Budgets that the last run of a chosen release and scenario did not keep.",
            f"count({in_range(run('haprobe_drill_budget_ok'))} == 0) or vector(0)",
            (6, 3, 18, 0),
            thresholds=steps((None, BLUE), (1, RED)),
        ),
    ]


def over_time():
    verdict = " or ".join(
        "(" + in_range(kind("haprobe_drill_flows", f'verdict="{word}"')) + f" > 0) * 0 + {code}"
        for word, code in VERDICT_CODES.items()
        if word != "recovered"
    )
    cell = f'label_join({verdict}, "probe", " ", "path", "protocol", "session")'
    phase = f"max by (fortios, phase) ({in_range(run('haprobe_drill_phase_seconds'))})"
    return [
        graph(
            "Longest outage by release",
            "The longest outage of each run on the chosen paths, at the time of the run.",
            queries((f"max by (fortios) (last_over_time({ESTIMATE}[$__interval]))", "{{fortios}}")),
            (12, 9, 0, 11),
            "s",
            points=True,
            legend="bottom",
            min=0,
        ),
        graph(
            "Kept sessions that survived, by release",
            "Share of the kept sessions that survived each run on the chosen paths.",
            queries((share(*(f"last_over_time({one}[$__interval])" for one in (KEPT_SURVIVED, KEPT))), "{{fortios}}")),
            (12, 9, 12, 11),
            "percentunit",
            points=True,
            legend="bottom",
            min=0,
            max=1,
        ),
        matrix(
            "Survival, release by release",
            "What became of each kind of session in the last run; of several flows or scenarios the worst.",
            f"max by (fortios, probe) ({cell})",
            (24, 10, 0, 20),
            rows="probe",
            columns="fortios",
            mappings=COLOURS,
        ),
        matrix(
            "Phases, release by release",
            "How long each phase of the failover took in the last run; of several scenarios the longest.",
            phase,
            (12, 8, 0, 30),
            rows="phase",
            columns="fortios",
            unit="s",
            decimals=3,
            coloured=False,
        ),
        table(
            "Runs",
            "The last run of each release and scenario; the link opens its report below the address given above.",
            queries((in_range(run("haprobe_drill_info")), ""), instant=True, table=True),
            (12, 8, 12, 30),
            names={
                **{"fortios": "FortiOS", "scenario": "Scenario", "trigger": "Trigger", "run": "Run"},
                "version": "haprobe",
            },
            hidden=("Value", "instance", "host"),
            overrides=[named("Run", links=[link("Report", "${reports}/${__value.raw}/report.html", new_tab=True)])],
        ),
    ]


dashboard = board(
    "releases",
    "haprobe: Releases",
    "FortiOS releases side by side: outages, surviving sessions and phases of their failovers over time.",
    [
        variable("fortios", "FortiOS", "label_values(haprobe_drill_info, fortios)"),
        variable("scenario", "Scenario", "label_values(haprobe_drill_info, scenario)"),
        variable("path", "Path", "label_values(haprobe_drill_outages, path)"),
        text_variable("reports", "Reports at", "/runs"),
    ],
    [*now(), *summary(), *over_time()],
    last="now-90d",
    refresh="",
)
