"""Whole evaluations of an edit: pictures, frames or views against their sources, measure by measure."""

from csd_core.evaluation.measures import MEASURES, Measure, Measured, measured
from csd_core.evaluation.measuring import (
    Again,
    Borders,
    PanoramaPair,
    measure_panorama,
    measure_panoramas,
    measure_video,
    measure_views,
)
from csd_core.evaluation.tools import Captions, Tools

__all__ = [
    "MEASURES",
    "Again",
    "Borders",
    "Captions",
    "Measure",
    "Measured",
    "PanoramaPair",
    "Tools",
    "measure_panorama",
    "measure_panoramas",
    "measure_video",
    "measure_views",
    "measured",
]
