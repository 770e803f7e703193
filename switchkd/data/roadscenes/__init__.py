"""The built-in task: pictures from a driving camera with dense captions and questions, made here from a seed.

`write_roadscenes` writes a data set in LLaVA's form, so that nothing else has to know of it; the rest is for use in
memory. No torch, no downloads.
"""

from .blind import BlindScore, blind_accuracy
from .draw import draw
from .language import caption
from .questions import QUESTION_KINDS, Examiner, Question, ask
from .records import corpus
from .scene import Pedestrian, Scene, Vehicle, sample_scene, scenes
from .splits import write_roadscenes

__all__ = [
    "QUESTION_KINDS",
    "BlindScore",
    "Examiner",
    "Pedestrian",
    "Question",
    "Scene",
    "Vehicle",
    "ask",
    "blind_accuracy",
    "caption",
    "corpus",
    "draw",
    "sample_scene",
    "scenes",
    "write_roadscenes",
]
