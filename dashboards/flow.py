"""Flow: one flow in depth. Delay by percentile, loss by direction, and whether its probes left on schedule."""

from . import series
from .board import annotations, board, flow_variables
from .panels import graph, queries, stat, steps, table, timeline, values
from .series import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    STATE_CODES,
    STATE_COLOURS,
    UTC_MS,
    VERDICT_CODES,
    VERDICT_COLOURS,
    YELLOW,
    flow,
    ms,
    rate,
)

PERCENTILES = {0.5: BLUE, 0.9: GREEN, 0.99: YELLOW, 0.999: RED}
STATES = values({code: (state, STATE_COLOURS[state]) for state, code in STATE_CODES.items()})
VERDICTS = values({code: (verdict, VERDICT_COLOURS[verdict]) for verdict, code in VERDICT_CODES.items()})


def total(name):
    return f"sum by (flow) ({rate(flow(name))})"


def over_range(name):
    return f"sum(increase({flow(name)}[$__range]))"


def percentile(share, window="$__rate_interval"):
    return f"histogram_quantile({share}, sum by (flow, le) (rate({flow('haprobe_rtt_seconds_bucket')}[{window}])))"


def now():
    verdict = series.codes("haprobe_flow_verdict", "verdict", VERDICT_CODES)
    lost, sent = over_range("haprobe_probes_lost_total"), over_range("haprobe_probes_sent_total")
    return [
        stat(
            "State",
            "Live state of the flow: suspect has lost its last probes, but fewer than an outage needs.",
            f"max({series.LIVE_STATES})",
            (4, 3, 0, 0),
            mappings=STATES,
            noValue="unknown",
        ),
        stat(
            "Verdict",
            "What became of the flow's session so far; a kept flow is judged together with its fresh twin.",
            f"max({verdict})",
            (4, 3, 4, 0),
            mappings=VERDICTS,
            noValue="unknown",
        ),
        stat(
            "Lost in range",
            "Share of the probes sent in the time range shown that were lost, in either direction.",
            f"{lost} / {sent} > 0 or vector(0)",
            (4, 3, 8, 0),
            unit="percentunit",
            decimals=2,
            thresholds=steps((None, BLUE), (0.000001, ORANGE), (0.01, RED)),
        ),
        stat(
            "Longest bound of last outage",
            "The upper bound of the last outage: it surely was not longer than this. 0 before any outage.",
            "max(" + flow("haprobe_last_outage_duration_seconds", 'bound="upper"') + ")",
            (4, 3, 12, 0),
            unit="s",
            decimals=6,
            thresholds=steps((None, BLUE), (0.000001, ORANGE)),
        ),
        stat(
            "Median delay",
            "Median round-trip delay of the probes answered in the time range shown.",
            percentile(0.5, "$__range"),
            (4, 3, 16, 0),
            unit="s",
            noValue="no answer",
        ),
        stat(
            "Rate set",
            "Probes per second that the flow is set to send, from its nominal interval.",
            f"1 / max({flow('haprobe_flow_interval_seconds')})",
            (4, 3, 20, 0),
            unit="pps",
        ),
    ]


def passing():
    # Of each agent by itself: start and end of two would be a window that neither saw.
    edges = [
        (ms(f"max by (instance) ({flow(f'haprobe_last_outage_{edge}_timestamp_seconds')} > 0)"), "")
        for edge in ("start", "end")
    ]
    return [
        timeline(
            "Live state",
            "As scraped, on the grid of scrapes; Drill shows outages at their own milliseconds.",
            queries((series.LIVE_STATES, "{{flow}}")),
            (16, 5, 0, 3),
            STATES,
        ),
        table(
            "Last outage",
            "Send times of the first probe lost and of the first one answered again, to the millisecond.",
            queries(*edges, instant=True, table=True),
            (8, 5, 16, 3),
            names={"instance": "Agent", "Value #A": "Start", "Value #B": "End"},
            overrides=[
                {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": UTC_MS}]}
                for name in ("Start", "End")
            ],
        ),
        graph(
            "Round-trip delay by percentile",
            "Of answered probes: the median, and how far the slowest of ten, a hundred and a thousand lie above it.",
            queries(*((percentile(share), f"p{100 * share:g}") for share in PERCENTILES)),
            (12, 9, 0, 8),
            "s",
            colours=tuple((f"^p{100 * share:g}$", colour) for share, colour in PERCENTILES.items()),
            legend="bottom",
            min=0,
        ),
        graph(
            "Loss by direction",
            "Lost probes per second on the way there (forward), back (reverse), or on either (unattributed).",
            queries(
                (
                    f"sum by (direction) ({rate(flow('haprobe_probes_lost_by_direction_total'))})",
                    "{{direction}}",
                )
            ),
            (12, 9, 12, 8),
            "pps",
            colours=series.BY_DIRECTION,
            legend="bottom",
            min=0,
        ),
    ]


def health():
    sending = (("scheduled", "due"), ("sent", "sent"), ("received", "answered"), ("unsent", "due, never sent"))
    odd = ("dropped_locally", "late", "duplicate", "reordered", "corrupt")
    unobserved = f"max({rate(flow('haprobe_unobserved_seconds_total'))})"
    stalled = f"max({rate(flow('haprobe_stream_stall_seconds_total'))})"
    resets = f"sum by (cause) ({rate(flow('haprobe_resets_total'))})"
    return [
        graph(
            "Send health",
            "Probes due, sent and answered per second. Due but never sent is this host's fault: neither up nor down.",
            queries(*((total(f"haprobe_probes_{what}_total"), legend) for what, legend in sending)),
            (12, 9, 0, 17),
            "pps",
            colours=(("^due$", GREY), ("^sent$", BLUE), ("^answered$", GREEN), ("never", RED)),
            legend="bottom",
            min=0,
        ),
        graph(
            "Answers out of the ordinary",
            "Dropped by this host's own ring, after the loss threshold, twice, out of order, or not verifying.",
            queries(*((total(f"haprobe_probes_{what}_total"), what.replace("_", " ")) for what in odd)),
            (12, 9, 12, 17),
            "pps",
            legend="bottom",
            min=0,
        ),
        graph(
            "Resets and ICMP errors",
            "Resets and FINs of a kept session by cause, and ICMP errors that quoted a probe of this flow.",
            queries((resets, "{{cause}}"), (total("haprobe_icmp_errors_total"), "ICMP errors")),
            (8, 8, 0, 26),
            "cps",
            legend="bottom",
            min=0,
        ),
        graph(
            "Unobserved, and stalls of a stream",
            "Share of time in which this host did not probe on schedule, or dropped answers itself. Of a stream also:"
            " in which what was typed did not come back.",
            queries((unobserved, "unobserved"), (f"{stalled} or 0 * {unobserved}", "stream stalled")),
            (8, 8, 8, 26),
            "percentunit",
            colours=(("^unobserved$", GREY), ("^stream", ORANGE)),
            legend="bottom",
            min=0,
        ),
        table(
            "Addresses",
            "Where the flow's probes go and from which interface; a new address does not start new series.",
            queries((flow("haprobe_flow_info"), ""), instant=True, table=True),
            (8, 8, 16, 26),
            names={
                **{"flow": "Flow", "target": "Target", "address": "Address", "port": "Port"},
                **{"interface": "Interface", "source": "Source"},
            },
            hidden=("Value", "path", "protocol", "session", "instance"),
        ),
    ]


dashboard = board(
    "flow",
    "haprobe: Flow",
    "One flow in depth: delay by percentile, loss by direction, and whether its probes left on schedule.",
    flow_variables(several=False),
    [*now(), *passing(), *health()],
    notes=annotations(series.FLOWS),
)
