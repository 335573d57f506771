"""What the dashboards are made of: queries that keep to the chosen job and instances, and a few kinds of panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    FieldColorModeId,
    Panel,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, AMBER, RED = "green", "orange", "red"
# (value from which on, colour); the first one has no value: it is that of everything below.
Steps = Sequence[tuple[float | None, str]]
PanelBuilder = Builder[Panel]
P = TypeVar("P", timeseries.Panel, stat.Panel, bargauge.Panel, heatmap.Panel)


def select(metric: str, matchers: str = "") -> str:
    """A metric of the chosen job and instances; ``matchers`` narrow it further."""
    also = f", {matchers}" if matchers else ""
    return f'{metric}{{job=~"$job", instance=~"$instance"{also}}}'


def select_server(metric: str) -> str:
    """The same for a metric that other programs have too, where all jobs are chosen."""
    return select(metric, 'job=~"spikeseg.*"')


def of_job(metric: str) -> str:
    """A recorded metric of the chosen job, which its instances share."""
    return f'{metric}{{job=~"$job"}}'


def rate(metric: str, matchers: str = "") -> str:
    """Growth of a counter in a second."""
    return f"rate({select(metric, matchers)}[$__rate_interval])"


def total(what: str, by: str = "") -> str:
    """The sum, by labels."""
    return f"sum by ({by}) ({what})" if by else f"sum({what})"


def quantile(q: float, histogram: str, by: str = "", matchers: str = "") -> str:
    """A quantile of a histogram, by labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {total(rate(f'{histogram}_bucket', matchers), labels)})"


def query(expression: str, legend: str, *, instant: bool = False) -> prometheus.Dataquery:
    """What a panel asks, and what its answers are called."""
    asked = prometheus.Dataquery().expr(expression).legend_format(legend).datasource(SOURCE)
    return asked.instant() if instant else asked.range()


def thresholds(steps: Steps) -> builders.ThresholdsConfig:
    """Colours of values."""
    return (
        builders.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=color) for value, color in steps])
    )


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    width: int = 8,
    stack: bool = False,
    log: bool = False,
    least: float | None = 0.0,
    marks: Steps = (),
) -> PanelBuilder:
    """Values over time; ``marks`` are drawn as lines."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .line_width(1)
        .fill_opacity(60 if stack else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if stack:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("all"))
    if log:
        panel = panel.scale_distribution(
            common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LOG).log(10)
        )
    elif least is not None:
        panel = panel.min(least)
    if marks:
        panel = panel.thresholds(thresholds(marks)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    return _with_targets(panel, queries)


def number(
    title: str,
    description: str,
    unit: str,
    asked: prometheus.Dataquery,
    *,
    width: int = 4,
    steps: Steps = ((None, "blue"),),
    decimals: int | None = None,
    text: common_models.BigValueTextMode = common_models.BigValueTextMode.AUTO,
) -> PanelBuilder:
    """One value, large."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .thresholds(thresholds(steps))
        .color_scheme(builders.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .text_mode(text)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    return _with_targets(panel, [asked])


def bars(
    title: str,
    description: str,
    unit: str,
    asked: prometheus.Dataquery,
    *,
    width: int = 8,
    steps: Steps = ((None, "blue"),),
    most: float | None = None,
) -> PanelBuilder:
    """A bar for each value, of now."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .min(0)
        .thresholds(thresholds(steps))
        .color_scheme(builders.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if most is not None:
        panel = panel.max(most)
    return _with_targets(panel, [asked])


def heat(
    title: str, description: str, unit: str, asked: prometheus.Dataquery, *, width: int = 12, buckets: bool
) -> PanelBuilder:
    """Colours over time, a row for each series; with ``buckets`` the rows are those of a histogram, in seconds."""
    rows = heatmap.YAxisConfig().unit("s") if buckets else heatmap.YAxisConfig()
    panel = (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .span(width)
        .height(8)
        .calculate(False)
        .y_axis(rows.axis_placement(common_models.AxisPlacement.LEFT))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(common_models.HeatmapCellLayout.AUTO))
        .cell_values(heatmap.CellValues().unit(unit))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .show_value(common_models.VisibilityMode.NEVER)
        .cell_gap(1)
    )
    if buckets:
        asked = asked.format(prometheus_models.PromQueryFormat.HEATMAP)
    return _with_targets(panel, [asked])


def dashboard(
    uid: str, title: str, description: str, panels: Sequence[PanelBuilder | str], *, by_model: bool = False
) -> Dashboard:
    """A dashboard; a text among the panels begins a new row of that title.

    Parameters
    ----------
    uid : str
        Name that links keep to.
    title, description : str
    panels : sequence of panel builder or str
    by_model : bool
        Whether one can choose models, as ``$model``.
    """
    board = (
        builders.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["spikeseg"])
        .readonly()
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            builders.DashboardLink("Spikeseg")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["spikeseg"])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_choice("job", "label_values(spikeseg_build_info, job)"))
        .with_variable(_choice("instance", 'label_values(spikeseg_build_info{job=~"$job"}, instance)'))
    )
    if by_model:
        board = board.with_variable(_choice("model", f"label_values({select('spikeseg_windows_total')}, model)"))
    for panel in panels:
        board = board.with_row(builders.Row(panel)) if isinstance(panel, str) else board.with_panel(panel)
    built = board.build()
    for number, each in enumerate(built.panels or [], start=1):
        each.id_val = number
    return built


def _choice(name: str, asked: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(name.title())
        .query(asked)
        .datasource(SOURCE)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(VariableOption(selected=True, text="All", value="$__all"))
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def _with_targets(panel: P, queries: Sequence[prometheus.Dataquery]) -> P:
    for letter, asked in zip("ABCDEFGH", queries, strict=False):
        panel.with_target(asked.ref_id(letter))
    return panel
