"""Unlearning methods, one file each; a name is imported on first use, so that no method needs what another needs."""

from gunlearn.core.lazy import lazy
from gunlearn.core.registry import Registry

_HERE = "gunlearn.methods"
_METHODS = {
    "retrain": f"{_HERE}.any_task.retrain:Retrain",
    "finetune": f"{_HERE}.any_task.baselines:FineTune",
    "l1_sparse": f"{_HERE}.any_task.l1_sparse:L1Sparse",
    "continued_training": f"{_HERE}.any_task.continued_training:ContinuedTraining",
    "replay": f"{_HERE}.any_task.replay:Replay",
    "utu": f"{_HERE}.any_task.baselines:UtU",
    "gradient_ascent": f"{_HERE}.any_task.baselines:GradientAscentMethod",
    "graddiff": f"{_HERE}.any_task.retained:GradDiff",
    "npo": f"{_HERE}.any_task.retained:NPOMethod",
    "inpo": f"{_HERE}.graph.inpo:INPO",
    "gnndelete": f"{_HERE}.operators.gnndelete:GNNDelete",
    "gnndelete_ni": f"{_HERE}.operators.gnndelete:GNNDeleteNI",
    "inpo_s": f"{_HERE}.operators.inpo_s:INPOS",
    "scrub": f"{_HERE}.any_task.scrub:Scrub",
    "scrub_r": f"{_HERE}.any_task.scrub:ScrubR",
    "imu": f"{_HERE}.any_task.imu:IMU",
    "random_label": f"{_HERE}.any_task.teachers:RandomLabel",
    "salun": f"{_HERE}.any_task.teachers:SalUn",
    "bad_teacher": f"{_HERE}.any_task.teachers:BadTeacher",
    "d2dgn": f"{_HERE}.any_task.teachers:D2DGN",
    "task_vector": f"{_HERE}.any_task.task_vector:TaskVector",
    "ssd": f"{_HERE}.any_task.ssd:SSD",
    "mcu": "gunlearn.connectivity.mcu:MCU",
    "etr": f"{_HERE}.graph.etr:ETR",
    "megu": f"{_HERE}.graph.megu:MEGU",
    "cognac": f"{_HERE}.graph.cognac:Cognac",
    "grapheraser": f"{_HERE}.shards.grapheraser:GraphEraser",
    "gif": f"{_HERE}.second_order.gif:GIF",
    "if": f"{_HERE}.second_order.gif:IF",
    "ceu": f"{_HERE}.second_order.ceu:CEU",
    "idea": f"{_HERE}.second_order.gif:IDEA",
    "graph_editor": f"{_HERE}.linear_head.graph_editor:GraphEditor",
    "cgu": f"{_HERE}.linear_head.certified:CGU",
    "scalegun": f"{_HERE}.linear_head.scalegun:ScaleGUN",
    "auto": f"{_HERE}.auto:Auto",
    "simnpo": "gunlearn.llm.recipes.methods:SimNPOMethod",
    "dpo": "gunlearn.llm.recipes.methods:DPOMethod",
    "kto": "gunlearn.llm.recipes.methods:KTOMethod",
    "wga": "gunlearn.llm.recipes.methods:WGAMethod",
    "satimp": "gunlearn.llm.recipes.methods:SatImpMethod",
    "undial": "gunlearn.llm.recipes.methods:UNDIALMethod",
    "ce_unlearning": "gunlearn.llm.recipes.methods:CEUnlearningMethod",
    "ihl": "gunlearn.llm.recipes.methods:IHLMethod",
    "jensun": "gunlearn.llm.recipes.methods:JensUnMethod",
    "rmu": "gunlearn.llm.recipes.methods:RMUMethod",
    "pdu": "gunlearn.llm.recipes.methods:PDUMethod",
    "dto": "gunlearn.llm.recipes.methods:DTOMethod",
    "influence_ascent": "gunlearn.llm.recipes.methods:InfluenceAscentMethod",
    "obliviate": "gunlearn.llm.recipes.methods:ObliviateMethod",
    "esd": "gunlearn.diffusion.methods.esd:ESD",
    "concept_ablation": "gunlearn.diffusion.methods.concept_ablation:ConceptAblation",
    "selective_amnesia": "gunlearn.diffusion.methods.selective_amnesia:SelectiveAmnesia",
    "uce": "gunlearn.diffusion.methods.uce:UCE",
    "mace_refinement": "gunlearn.diffusion.methods.uce:MACERefinement",
}
_RENAMED = {"ga": "gradient_ascent", "npo_kl": "npo:kl", "idkdpo": "dpo"}
#: Every method by its name; other packages add theirs by entry points of the group `gunlearn.methods`.
METHODS: Registry = Registry("method", _METHODS, _RENAMED, "gunlearn.methods", f"{_HERE}.base:Method")

_HOMES = {
    "gunlearn.methods.any_task.baselines": ("OwnObjective",),
    "gunlearn.methods.base": ("Method", "Outcome", "Problem"),
    "gunlearn.methods.door": ("run_method",),
    "gunlearn.methods.gradient": ("GradientMethod",),
    "gunlearn.methods.linear_head.head_training": ("fit_linear_head",),
    "gunlearn.methods.published": ("PUBLISHED", "build_method", "settings_listing"),
    "gunlearn.training.callbacks": ("Callback", "EarlyStopping", "TrainControl", "TrainState"),
    "gunlearn.training.from_scratch": ("reset_model", "train_from_scratch"),
    "gunlearn.training.loop": ("TrainArguments", "fit"),
    "gunlearn.training.result": ("Result",),
    "gunlearn.training.run": ("run_training",),
}
for _home in _METHODS.values():
    _module, _, _name = _home.partition(":")
    if _module.startswith(_HERE):  # other rooms export their own
        _HOMES[_module] = (*_HOMES.get(_module, ()), _name)

__all__ = sorted(["METHODS", *(name for names in _HOMES.values() for name in names)])
__getattr__, __dir__ = lazy(__name__, _HOMES)
