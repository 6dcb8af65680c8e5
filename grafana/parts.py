"""What all dashboards share: panels with one look, variables, links, and PromQL for histograms.

The builders come from Grafana's own grafana-foundation-sdk, so a name it does not know is an error
here and not in somebody's browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as choices
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Panel = Builder[model.Panel]
Query = prometheus.Dataquery
_Any = TypeVar("_Any", timeseries.Panel, stat.Panel, table.Panel, heatmap.Panel)

TAG = "hvtrace"
WIDTH = 24  # columns of Grafana's grid
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
WINDOW = "[$__rate_interval]"
DURATION = "hvtrace_hypercall_duration_seconds"

JOB = 'job=~"$job"'
HOST = f'{JOB},instance=~"$instance"'
CALLS = f'{HOST},vm=~"$vm",code=~"$code"'

_KEPT = "${datasource:queryparam}&${job:queryparam}&${__url_time_range}"
HOST_LINK = f"/d/hvtrace-host?{_KEPT}&var-instance="
VM_LINK = f"/d/hvtrace-vm?{_KEPT}&${{instance:queryparam}}&var-vm="
VALUE = "${__value.raw}"
VCPUS = "suffix:vCPUs"  # a unit of our own: seconds of service time in a second

# Of output in registers: those of calls that want any. What is wrong is seen at once.
WANTED = 'verdict!~"memory|none"'
VERDICTS = {"claimed": "red", "refused": "orange", "used-gpr": "blue", "used-xmm": "green"}


def query(expr: str, legend: str = "", ref: str = "A") -> Query:
    """One range query; `legend` is a template such as ``{{code}}``."""
    one = Query().expr(" ".join(expr.split())).range().ref_id(ref).legend_format(legend)
    return one.datasource(SOURCE)


def now(expr: str, ref: str, legend: str = "") -> Query:
    """One instant query, as rows of a table."""
    return query(expr, legend, ref).instant().format(PromQueryFormat.TABLE)


def rate(metric: str, selector: str, by: str = "") -> str:
    """Events a second of a counter, summed up by the labels `by`."""
    return f"sum{_by(by)} (rate({metric}{{{selector}}}{WINDOW}))"


def occurring(metric: str, selector: str, by: str) -> str:
    """As `rate`, without those that are 0: a fault of long ago is not to be a line for ever."""
    return f"{rate(metric, selector, by)} > 0"


def seconds_rate(selector: str, by: str = "", metric: str = DURATION) -> str:
    """Seconds of a histogram in a second, from whichever form of it is there.

    A series is classic or native, so `or` within the sum adds hosts of both forms.
    """
    return (
        f"sum{_by(by)} (rate({metric}_sum{{{selector}}}{WINDOW})"
        f" or histogram_sum(rate({metric}{{{selector}}}{WINDOW})))"
    )


def quantile(q: float, selector: str, by: str = "", metric: str = DURATION) -> str:
    """The `q` quantile (0..1) of a histogram in seconds, from whichever form of it is there.

    Classic and native ones cannot be added: where a group has both, the classic ones count.
    """
    labels = f"{by}, le" if by else "le"
    return (
        f"histogram_quantile({q}, sum{_by(labels)} (rate({metric}_bucket{{{selector}}}{WINDOW})))"
        f" or histogram_quantile({q}, sum{_by(by)} (rate({metric}{{{selector}}}{WINDOW})))"
    )


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def series(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    stack: choices.StackingMode | None = None,
    log: bool = False,
    link: str = "",
    nothing: str = "",
    colors: dict[str, str] | None = None,
) -> timeseries.Panel:
    """Lines over time, their mean and maximum in a table below.

    `log` is a logarithmic axis (latencies), `link` is where a click on a line leads, `nothing` is
    what stands there without data, `colors` are those of lines that have always the same.
    """
    legend = (
        common.VizLegendOptions()
        .display_mode(choices.LegendDisplayMode.TABLE)
        .placement(choices.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["mean", "max"])
        .sort_by("Max")
        .sort_desc(True)
    )
    tooltip = common.VizTooltipOptions().mode(choices.TooltipDisplayMode.MULTI)
    panel = timeseries.Panel().legend(legend).line_width(1).fill_opacity(40 if stack else 0)
    panel.tooltip(tooltip.sort(choices.SortOrder.DESCENDING))
    panel.show_points(choices.VisibilityMode.AUTO)  # a value alone, such as a rare call's p99
    if stack:
        panel.stacking(common.StackingConfig().mode(stack))
    if log:
        scale = common.ScaleDistributionConfig().type(choices.ScaleDistribution.LOG).log(10)
        panel.scale_distribution(scale)
    else:
        panel.min(0)
    if link:
        panel.data_links([build.DashboardLink("Show").url(link)])
    for name, color in (colors or {}).items():
        fixed = model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})
        panel.override_by_name(name, [fixed])
    panel.title(title).description(_text(description)).unit(unit).datasource(SOURCE)
    return _finish(panel, queries, width, 10, nothing)


def figure(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 6,
    bad_from: float | None = None,
) -> stat.Panel:
    """Numbers as they are now, with their course behind them; red from `bad_from` on."""
    steps = [model.Threshold(value=None, color="green" if bad_from is not None else "text")]
    if bad_from is not None:
        steps.append(model.Threshold(value=bad_from, color="red"))
    panel = (
        stat.Panel()
        .title(title)
        .description(_text(description))
        .unit(unit)
        .datasource(SOURCE)
        .thresholds(build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
        .graph_mode(choices.BigValueGraphMode.AREA)
        .color_mode(choices.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )
    return _finish(panel, queries, width, 4)


def rows(
    title: str,
    description: str,
    columns: Sequence[tuple[str, str, str]],
    *queries: Query,
    links: dict[str, str] | None = None,
    hidden: Sequence[str] = (),
    most: str = "",
    width: int = WIDTH,
    height: int = 8,
    nothing: str = "",
) -> table.Panel:
    """Rows by label, from instant queries that are merged.

    `columns` are (field, name, unit) in their order; the field of a query is ``Value #REF``.
    `links` are addresses by field, `hidden` are labels, `most` is the column to sort by, most
    first. Queries must keep no metric's name: Grafana would not merge their rows.
    """
    organize = {
        "indexByName": {field: place for place, (field, _, _) in enumerate(columns)},
        "renameByName": {field: name for field, name, _ in columns},
        "excludeByName": {name: True for name in ("Time", "Value", *hidden)},
    }
    panel = (
        table.Panel()
        .title(title)
        .description(_text(description))
        .unit("short")
        .datasource(SOURCE)
        .align(choices.FieldTextAlignment.AUTO)
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(model.DataTransformerConfig(id_val="organize", options=organize))
    )
    if most:
        panel.sort_by([common.TableSortByFieldState().display_name(most).desc(True)])
    for field, name, unit in columns:
        properties = [model.DynamicConfigValue(id_val="unit", value=unit)]
        if links and field in links:
            link = {"title": "Show", "url": links[field]}
            properties.append(model.DynamicConfigValue(id_val="links", value=[link]))
        panel.override_by_name(name, properties)
    return _finish(panel, queries, width, height, nothing)


def latencies(title: str, description: str, selector: str) -> heatmap.Panel:
    """A heatmap of service times.

    Grafana draws native histograms as cells only where the format is not "heatmap", which is for
    the buckets of classic ones: so there is a query for each form, and one of them has data.
    """
    classic = query(f"sum by (le) (rate({DURATION}_bucket{{{selector}}}{WINDOW}))", "{{le}}")
    native = query(f"sum (rate({DURATION}{{{selector}}}{WINDOW}))", "", "native")
    colors = (
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Turbo")
        .scale(HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
    )
    panel = (
        heatmap.Panel()
        .title(title)
        .description(_text(description))
        .unit("cps")
        .datasource(SOURCE)
        .calculate(False)
        .color(colors)
        .cell_gap(1)
        .cell_values(heatmap.CellValues().unit("cps"))
        .y_axis(heatmap.YAxisConfig().unit("s").axis_placement(choices.AxisPlacement.LEFT))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .hide_from(common.HideSeriesConfig().legend(False).tooltip(False).viz(False))
        .show_y_histogram()
        .show_legend()
    )
    queries = (classic.ref_id("classic").format(PromQueryFormat.HEATMAP), native)
    return _finish(panel, queries, WIDTH, 10)


def _finish(
    panel: _Any, queries: Sequence[Query], width: int, height: int, nothing: str = ""
) -> _Any:
    if nothing:
        panel.no_value(nothing)
    for one in queries:
        panel.with_target(one)
    return panel.span(width).height(height)


def _text(description: str) -> str:
    return " ".join(description.split())


def dashboard(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[Builder[model.VariableModel]],
    sections: Sequence[tuple[str, Sequence[Panel]]],
    *,
    hours: int,
) -> model.Dashboard:
    """A dashboard of titled rows of panels, with links to the others that keep the variables."""
    link = (
        build.DashboardLink("hvtrace")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(_text(description))
        .tags([TAG])
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time(f"now-{hours}h", "now")
        .refresh("1m")
        .link(link)
    )
    for variable in variables:
        made.with_variable(variable)
    for name, panels in sections:
        made.with_row(build.Row(name))
        for panel in panels:
            made.with_panel(panel)
    result = made.build()
    for number, one in enumerate(result.panels or (), 1):
        one.id_val = number  # links to a panel go by it
    return result


def datasource() -> build.DatasourceVariable:
    """Which Prometheus."""
    return build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def variable(name: str, label: str, values: str, multi: bool = True) -> build.QueryVariable:
    """The values that the label `name` has in series `values`; all of them at first, if `multi`."""
    made = (
        build.QueryVariable(name)
        .label(label)
        .query(f"label_values({values}, {name})")
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NATURAL_ASC)
        .multi(multi)
        .include_all(multi)
    )
    if multi:  # .+ in place of a pattern with a thousand names
        everything: Any = model.VariableOption(text="All", value="$__all")
        made.all_value(".+").current(everything)
    return made


def job(multi: bool = True) -> build.QueryVariable:
    """Which scrape job: it names a fleet."""
    return variable("job", "Job", "hvtrace_build_info", multi)


def instance(multi: bool = True) -> build.QueryVariable:
    """Which host."""
    return variable("instance", "Host", f"hvtrace_build_info{{{JOB}}}", multi)
