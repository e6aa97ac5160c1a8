"""Panels in the form that current Grafana writes, over grafanalib's classes.

grafanalib 0.7.1 ends with Grafana 9: it doubles steps, writes thresholds and table options in old forms, and knows no
current query fields. Every such gap is closed here and nowhere else. A place is (width, height, x, y) in grid cells.
"""

from grafanalib.core import GridPos, RowPanel, Stat, StateTimeline, Table, Target, TimeSeries

from .series import BLUE, GREY

DATASOURCE = {"type": "prometheus", "uid": "${ds}"}


class Query(Target):
    """A Prometheus query without grafanalib's doubled step, and with the fields current Grafana writes."""

    def to_json_data(self):
        kind = {"instant": self.instant, "range": not self.instant, "editorMode": "code"}
        wanted = {"refId": self.refId, "expr": self.expr, "legendFormat": self.legendFormat, "format": self.format}
        return {"datasource": DATASOURCE, **wanted, **kind}


def query(expr, legend="", *, ref="A", instant=False, table=False):
    shape = "table" if table else "time_series"
    return Query(expr=expr, legendFormat=legend, refId=ref, instant=instant, format=shape)


def queries(*pairs, instant=False, table=False):
    """Targets A, B, … of (expression, legend)."""
    return [
        query(expr, legend, ref=chr(65 + i), instant=instant, table=table) for i, (expr, legend) in enumerate(pairs)
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


def fields(unit="none", *, mappings=(), thresholds=None, colour="thresholds", **more) -> dict:
    return {
        "unit": unit,
        "mappings": list(mappings),
        "thresholds": thresholds or steps((None, BLUE)),
        "color": {"mode": colour},
        **more,
    }


def panel(kind, title, description, targets, where, *, defaults, overrides=(), options=None, **more):
    """One panel; everything that grafanalib writes in an old form is given in the current one."""
    width, height, x, y = where
    extra = {"fieldConfig": {"defaults": defaults, "overrides": list(overrides)}, "options": options or {}}
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


def link(title, url, *, new_tab=False) -> dict:
    return {"title": title, "url": url, "targetBlank": new_tab}


def stat(title, description, expr, where, *, legend="", text="auto", sizes=None, **more):
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "textMode": text,
        "justifyMode": "center",
        "orientation": "auto",
        "wideLayout": False,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    if sizes:
        options["text"] = dict(zip(("titleSize", "valueSize"), sizes, strict=True))
    targets = queries((expr, legend), instant=True)
    return panel(Stat, title, description, targets, where, defaults=fields(**more), options=options)


def timeline(title, description, targets, where, mappings, *, gaps=True, transformations=(), **more):
    """A state timeline; with `gaps` nothing seen is not the state before."""
    options = {
        "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
        "mergeValues": True,
        "showValue": "auto",
        "rowHeight": 0.8,
        "alignValue": "left",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    custom = {"lineWidth": 0, "fillOpacity": 90, "spanNulls": not gaps}
    more = {"thresholds": steps((None, GREY)), **more}
    return panel(
        *(StateTimeline, title, description, targets, where),
        defaults=fields(mappings=mappings, custom=custom, **more),
        options=options,
        transformations=list(transformations),
    )


def graph(title, description, targets, where, unit, *, legend="right", points=False, colours=(), **more):
    """A graph; `colours` are pairs of (regular expression of legends, colour), the others are Grafana's."""
    options = {
        "legend": {"showLegend": True, "displayMode": "table", "placement": legend, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    drawn = {"drawStyle": "points", "pointSize": 8} if points else {"drawStyle": "line", "showPoints": "never"}
    custom = {"lineWidth": 2, "fillOpacity": 6, "spanNulls": False, **drawn}
    defaults = fields(unit, colour="palette-classic", custom=custom, **more)
    overrides = [
        {
            "matcher": {"id": "byRegexp", "options": f"/{pattern}/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for pattern, colour in colours
    ]
    return panel(
        TimeSeries, title, description, targets, where, defaults=defaults, overrides=overrides, options=options
    )


def named(name, **properties):
    """An override of one field or table column; dots in property names are written as `__`."""
    wanted = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": wanted}


def table(title, description, targets, where, *, names, hidden=(), overrides=(), sort=None):
    """A table with columns renamed and ordered as in `names`; rows of several queries are joined by their labels."""
    organize = {
        "excludeByName": dict.fromkeys(("Time", "__name__", "job", *hidden), True),
        "renameByName": names,
        "indexByName": {name: index for index, name in enumerate(names)},
    }
    return panel(
        *(Table, title, description, targets, where),
        defaults=fields(custom={"align": "auto", "filterable": True}),
        overrides=overrides,
        options=table_options(sort),
        transformations=[transform("merge"), transform("organize", **organize)],
    )


def matrix(title, description, expr, where, *, rows, columns, mappings=(), coloured=True, **more):
    """A table of one query: the values of one label down, of another across."""
    grid = transform("groupingToMatrix", columnField=columns, rowField=rows, valueField="Value", emptyValue="null")
    cells = {"type": "color-background", "mode": "basic"} if coloured else {"type": "auto"}
    corner = named(f"{rows}\\{columns}", displayName=rows, custom__cellOptions={"type": "auto"}, custom__align="left")
    custom = {"align": "center", "cellOptions": cells, "minWidth": 80}
    return panel(
        *(Table, title, description, [query(expr, instant=True, table=True)], where),
        defaults=fields(mappings=mappings, custom=custom, thresholds=steps((None, "transparent")), **more),
        overrides=[corner],
        options=table_options(None),
        transformations=[grid],
    )


def table_options(sort) -> dict:
    return {"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": sort, "desc": True}] if sort else []}


def lanes(row, *, only=None, text=False):
    """Transformations of `series.edges` to a lane for each value of the label `row`."""
    begins = [] if text else [{"targetField": "begins", "destinationType": "number"}]
    kinds = [{"targetField": "Value", "destinationType": "time"}, *begins]
    return [
        transform("convertFieldType", only=only, fields={}, conversions=kinds),
        transform(
            "groupingToMatrix",
            only=only,
            rowField="Value",
            columnField=row,
            valueField="begins",
            emptyValue="null",
        ),
    ]


def transform(name, *, only=None, **options) -> dict:
    """A transformation, of the frames of query `only`."""
    which = {"filter": {"id": "byRefId", "options": only}} if only else {}
    return {"id": name, "options": options, **which}
