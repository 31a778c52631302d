"""Metric Depth."""

from __future__ import annotations

from comfy_api.latest import io

from ..marigold_core import DepthMap, KnownDepths, MarigoldError, fit_metric
from ..marigold_core.metric.report import fit_report
from .sockets import CATEGORY, Depth, DepthBatch, Known, schema

FIT_IN = {"auto": None, "depth": False, "inverse depth": True}
REPORT = io.String.Output(
    "report",
    display_name="report",
    tooltip="Scale, shift, the error to expect, points that do not fit, and what to look at. "
    "Connect Preview as Text.",
)


class MetricDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_MetricDepth",
            display_name="Metric Depth (Marigold)",
            category=CATEGORY,
            description="Turns depth into metres by what is known of the picture. Wrong points are "
            "found and left out.",
            search_aliases=["marigold", "metres", "scale depth", "align depth", "absolute depth"],
            inputs=[
                Depth.Input("depth", tooltip="The depth map of the picture, from any model."),
                Known.Input("known", tooltip="From Known Depths, of the same picture."),
                io.Combo.Input(
                    "fit_in",
                    options=list(FIT_IN),
                    default="auto",
                    tooltip="What is scaled and shifted. auto: what predicts points that were left "
                    "out better; inverse depth suits models that estimate disparity.",
                ),
            ],
            outputs=[
                Depth.Output(
                    "metres",
                    display_name="depth",
                    tooltip="In metres, with its uncertainty: for Save Depth, Mesh from Depth, "
                    "Points from Depth, Normals from Depth.",
                ),
                REPORT,
                io.Float.Output(
                    "scale", display_name="scale", tooltip="depth in metres = scale * d + shift."
                ),
                io.Float.Output("shift", display_name="shift", tooltip="In metres; see scale."),
                io.Float.Output(
                    "error",
                    display_name="error",
                    tooltip="The mean relative error to expect, 0.05 is 5 %. -1: unknown, with "
                    "fewer than three points.",
                ),
            ],
        )

    @classmethod
    def execute(cls, depth: DepthBatch, known: KnownDepths, fit_in: str) -> io.NodeOutput:
        fitted = fit_metric(one_of(depth), known, inverse=FIT_IN[fit_in])
        fit = fitted.fit
        assert fit is not None
        error = -1.0 if fit.relative_error is None else fit.relative_error
        report = "\n".join(fit_report(fitted, known))
        return io.NodeOutput([fitted], report, fit.scale, fit.shift, error)


def one_of(depth: DepthBatch) -> DepthMap:
    """The only map of a batch."""
    if len(depth) > 1:
        raise MarigoldError(
            f"There are {len(depth)} depth maps, and known depths belong to one picture; estimate "
            "that picture alone."
        )
    return depth[0]
