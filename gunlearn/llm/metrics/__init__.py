"""Metrics of unlearned language models: utility, memorisation, membership, attacks. Names load on first use."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.llm.data.end_tokens": ("end_tokens",),
    "gunlearn.llm.metrics.text_alignment": ("TextAlignment", "fade_metric", "functional_alignment"),
    "gunlearn.llm.metrics.attacks": ("Curve", "quantized", "relearn", "shown_rows"),
    "gunlearn.llm.metrics.choices": ("choice_rows", "chosen_right", "read_choices"),
    "gunlearn.llm.metrics.continuations": ("continuation_rows", "memory"),
    "gunlearn.llm.metrics.eval_settings": ("EvalSettings",),
    "gunlearn.llm.metrics.evaluation": ("ATTACKS", "ModelFigures", "evaluate_language_models"),
    "gunlearn.llm.metrics.generation": ("Samples", "draw_answers"),
    "gunlearn.llm.metrics.membership": (
        "gradient_score",
        "loss_score",
        "membership_auc",
        "min_k_plus_score",
        "min_k_score",
        "privacy_leak",
        "reference_score",
        "zlib_score",
    ),
    "gunlearn.llm.metrics.evaluation_log": ("EvaluationLog",),
    "gunlearn.llm.metrics.nf4_weights": ("nf4_rounded",),
    "gunlearn.llm.metrics.one_model": ("evaluate_one",),
    "gunlearn.llm.metrics.second_pass": ("compare_again", "score_for"),
    "gunlearn.llm.metrics.scoring": ("NotANumberError", "token_scores"),
    "gunlearn.llm.metrics.tofu_metrics": (
        "aggregate_truth_ratio",
        "answer_log_probs",
        "answers_of",
        "forget_quality",
        "model_utility",
        "options_probability",
        "probability",
        "rouge",
        "truth_ratio",
    ),
    "gunlearn.metrics.texts": ("TokenScores", "drma", "exact_memorization", "extraction_strength", "fluency"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
