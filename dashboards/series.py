"""Metric names, selectors, words and colours that the dashboards share.

Names are looked up in the exporter's tables, so that a renamed metric fails here and not on a screen.
"""

from probe.core.events import VERDICTS
from probe.export.flow_text import FLOW_STATES
from probe.export.metrics import FAMILIES
from probe.export.run_metrics import RUN_FAMILIES

# Written remotely and nowhere scraped, hence in no table of families.
REMOTE = ("haprobe_ha_event_timestamp_seconds",)

AGENT = 'instance=~"$instance"'
FLOWS = f'{AGENT},path=~"$path",flow=~"$flow"'
FLOW_LABELS = "instance, path, flow, protocol, session"
UTC_MS = "time:YYYY-MM-DD HH:mm:ss.SSS"

# Okabe and Ito's colours, the calm ones darkened so that only trouble shines. Words stand beside them everywhere.
# CALM is for areas, BLUE for figures on the dark ground.
CALM, BLUE, GREY, DIM = "#2F5D80", "#6CA9D6", "#6E7681", "#454B54"
ORANGE, RED, YELLOW, GREEN, SKY = "#E69F00", "#D55E00", "#F0E442", "#009E73", "#56B4E9"
# Of legends, as regular expressions.
BY_DIRECTION = (("forward$", ORANGE), ("reverse$", SKY), ("unattributed$", GREY))
STATE_CODES = {state: code for code, state in enumerate(FLOW_STATES, start=1)}
STATE_COLOURS = {"up": CALM, "suspect": ORANGE, "down": RED, "connecting": YELLOW, "ended": GREY}
VERDICT_COLOURS = {
    **{"unaffected": CALM, "survived": CALM, "recovered": CALM, "rebound": YELLOW, "half": ORANGE},
    **{"lost": RED, "reset": RED, "dark": RED, "unobserved": GREY},
}
# Worst last: of several flows in one cell of the matrix, the worst is shown.
VERDICT_RANK = ("unaffected", "survived", "recovered", "unobserved", "rebound", "half", "lost", "reset", "dark")
VERDICT_CODES = {verdict: code for code, verdict in enumerate(VERDICT_RANK, start=1)}
assert set(VERDICTS) <= set(VERDICT_CODES)


def metric(name: str, labels: str = AGENT) -> str:
    """A selector of a declared series; raises KeyError for any other name."""
    if name not in {*FAMILIES, *RUN_FAMILIES, *REMOTE}:
        FAMILIES[name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")]
    return f"{name}{{{labels}}}"


def flow(name: str, more: str = "") -> str:
    return metric(name, ",".join(filter(None, (FLOWS, more))))


def ms(seconds: str) -> str:
    """Epoch ms of an instant, as remote samples are stamped: whole, but for the noise of a double's last digit."""
    return f"floor({seconds} * 1000 + 0.0005)"


def rate(selector: str) -> str:
    return f"rate({selector}[$__rate_interval])"


def codes(name: str, label: str, words: dict[str, int], selector=flow) -> str:
    """One-hot series as one number: each word's series times its code, without those that are 0."""
    series = ((selector(name, f'{label}="{word}"'), code) for word, code in words.items())
    return " or ".join(f"({one} * {code} > 0)" for one, code in series)


START = flow("haprobe_last_outage_start_timestamp_seconds")
END = flow("haprobe_last_outage_end_timestamp_seconds")
OPEN = flow("haprobe_last_outage_open")
HAD_OUTAGE = f"and on (instance, flow) ({START} > 0)"
LIVE_STATES = f"max by (instance, path, flow) ({codes('haprobe_flow_state', 'state', STATE_CODES)})"

# Written remotely, with samples at the very edges of outages; the scraped series of this name have no direction, which
# is what a variable without any choice, where nobody writes remotely, would match.
EXACT = flow("haprobe_flow_state", 'direction=~"$direction",direction!=""')
ANY_EXACT = flow("haprobe_flow_state", 'direction!=""')
EVER_EXACT = f"last_over_time({ANY_EXACT}[$__range] @ end())"

# Agents may share a flow's name, and one may write remotely under another name than it is scraped by. What is written
# under a name that nobody is scraped by is the flow's of that name, where one scraped agent alone has such a flow.
SEEN = f"group by (instance, path, flow) (last_over_time({flow('haprobe_flow_up')}[$__range] @ end()))"
OF_ONE_AGENT = f"count by (flow) (group by (instance, flow) ({SEEN})) == 1"
EXACT_ELSEWHERE = f"({EVER_EXACT} unless on (instance, flow) {SEEN}) and on (flow) ({OF_ONE_AGENT})"
SHARED = f"(count by (path, flow) ({SEEN}) > 1)"


def edges(of: dict[tuple[str, str], str]) -> str:
    """Instants as values in ms: {(edge, state that begins there): expression in epoch seconds}.

    Both are labels of the rows, the edge because rows of one query must differ in some label.
    """
    return " or ".join(
        f'label_replace(label_replace({ms(expr)}, "edge", "{edge}", "", ""), "begins", "{state}", "", "")'
        for (edge, state), expr in of.items()
    )


def edges_from_gauges() -> str:
    """Outages of flows without exact samples, as `edges`.

    A flow begins as up where it was first seen up in the range, at the latest right before its last outage. While that
    is open its end is not known yet.
    """
    up = flow("haprobe_flow_up")
    seen_up = f"min_over_time((timestamp({up}) and {up} == 1)[$__range:$__interval] @ end())"
    first_up = f'{seen_up} or label_replace(({START} > 0) - 0.001, "by", "outage", "", "")'
    rows = edges(
        {
            ("start", "0"): f"max by (instance, path, flow) ({START} > 0)",
            ("end", "1"): f"max by (instance, path, flow) ({END} > 0 and {OPEN} == 0)",
            ("first", "1"): f"min by (instance, path, flow) ({first_up})",
        }
    )
    return named_rows(f"({rows}) unless on (instance, flow) {EVER_EXACT} unless on (flow) ({EXACT_ELSEWHERE})")


def named_rows(rows: str) -> str:
    """The label `row` for `panels.lanes`: a lane for each flow; where agents share its name, for each agent's."""
    alone, shared = (f"({rows}) {how} on (path, flow) {SHARED}" for how in ("unless", "and"))
    with_agent = f'label_join({shared}, "row", " · ", "path", "flow", "instance")'
    return f'label_join({alone}, "row", " · ", "path", "flow") or {with_agent}'
