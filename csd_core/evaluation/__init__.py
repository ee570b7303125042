"""Evaluations of an edit: images, frames or views against their sources."""

from csd_core.evaluation.measures import MEASURES, Measured, measured
from csd_core.evaluation.measuring import (
    Borders,
    PanoramaPair,
    Reiterable,
    measure_panorama,
    measure_panoramas,
    measure_video,
    measure_views,
)
from csd_core.evaluation.tools import Captions, Tools

__all__ = [
    "MEASURES",
    "Borders",
    "Captions",
    "Measured",
    "PanoramaPair",
    "Reiterable",
    "Tools",
    "measure_panorama",
    "measure_panoramas",
    "measure_video",
    "measure_views",
    "measured",
]
