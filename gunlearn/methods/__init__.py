"""Unlearning methods: one file each, all through one loop."""

from __future__ import annotations

from gunlearn.methods.auto import Auto
from gunlearn.methods.base import Method, Outcome, Problem, build
from gunlearn.methods.baselines import FineTune, GradDiff, GradientAscentMethod, UtU
from gunlearn.methods.callbacks import Callback, EarlyStopping, TrainControl, TrainState
from gunlearn.methods.certified import CGU
from gunlearn.methods.ceu import CEU
from gunlearn.methods.cognac import Cognac
from gunlearn.methods.etr import ETR
from gunlearn.methods.gif import GIF, IF
from gunlearn.methods.gnndelete import GNNDelete, GNNDeleteNI
from gunlearn.methods.graph_editor import GraphEditor
from gunlearn.methods.grapheraser import GraphEraser
from gunlearn.methods.head_training import fit_linear_head
from gunlearn.methods.idea import IDEA
from gunlearn.methods.imu import IMU
from gunlearn.methods.inpo import INPO
from gunlearn.methods.inpo_s import INPOS
from gunlearn.methods.loop import TrainArguments, fit
from gunlearn.methods.megu import MEGU
from gunlearn.methods.npo import NPOMethod
from gunlearn.methods.result import Result
from gunlearn.methods.run import run_method, run_training
from gunlearn.methods.scalegun import ScaleGUN
from gunlearn.methods.scrub import Scrub, ScrubR
from gunlearn.methods.ssd import SSD
from gunlearn.methods.teachers import D2DGN, BadTeacher, RandomLabel
from gunlearn.methods.training import Retrain, reset_model, train_from_scratch

#: Every method by its name.
METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in (
        Retrain,
        FineTune,
        UtU,
        GradientAscentMethod,
        GradDiff,
        NPOMethod,
        INPO,
        GNNDelete,
        GNNDeleteNI,
        INPOS,
        Scrub,
        ScrubR,
        IMU,
        RandomLabel,
        BadTeacher,
        D2DGN,
        SSD,
        ETR,
        MEGU,
        Cognac,
        GraphEraser,
        GIF,
        IF,
        CEU,
        IDEA,
        GraphEditor,
        CGU,
        ScaleGUN,
        Auto,
    )
}

__all__ = [
    "CEU",
    "CGU",
    "D2DGN",
    "ETR",
    "GIF",
    "IDEA",
    "IF",
    "IMU",
    "INPO",
    "INPOS",
    "MEGU",
    "METHODS",
    "SSD",
    "Auto",
    "BadTeacher",
    "Callback",
    "Cognac",
    "EarlyStopping",
    "FineTune",
    "GNNDelete",
    "GNNDeleteNI",
    "GradDiff",
    "GradientAscentMethod",
    "GraphEditor",
    "GraphEraser",
    "Method",
    "NPOMethod",
    "Outcome",
    "Problem",
    "RandomLabel",
    "Result",
    "Retrain",
    "ScaleGUN",
    "Scrub",
    "ScrubR",
    "TrainArguments",
    "TrainControl",
    "TrainState",
    "UtU",
    "build",
    "fit",
    "fit_linear_head",
    "reset_model",
    "run_method",
    "run_training",
    "train_from_scratch",
]
