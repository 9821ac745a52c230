"""What is measured of denoisers: functional alignment, a judge's scores, memorised images, attacks."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.diffusion.metrics.concept_attacks": ["learned_condition", "relearning_curve"],
    "gunlearn.diffusion.metrics.denoiser_evaluation": ["evaluate_denoisers"],
    "gunlearn.diffusion.metrics.denoiser_figures": ["DenoiserFigures"],
    "gunlearn.diffusion.metrics.denoising_divergence": ["FORMS", "WEIGHTINGS", "denoising_terms", "step_weights"],
    "gunlearn.diffusion.metrics.fade_images": ["ImageAlignment", "ImageSampler", "image_alignment"],
    "gunlearn.diffusion.metrics.memorised": ["Memorised", "memorised_images", "nearest_items"],
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
