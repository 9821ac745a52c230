"""Language models from files that hold all their weights; what a file lacks, transformers draws at random."""

import warnings
from typing import Any

from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from gunlearn.errors import InvalidInputError


class WholeModel(AutoModelForCausalLM):
    """`AutoModelForCausalLM` that refuses files without some of the weights."""

    @classmethod
    def from_pretrained(cls, name: Any, *given: Any, **how: Any) -> Any:  # type: ignore[override]
        """Return the model; `InvalidInputError` where weights are missing (tied ones are not)."""
        load: Any = AutoModelForCausalLM.from_pretrained
        model, info = load(name, *given, output_loading_info=True, **how)
        missing = sorted(info["missing_keys"])
        if missing:
            raise InvalidInputError(
                f"Expected all weights of a {type(model).__name__} in {name} (got none of {', '.join(missing[:3])}"
                f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}; transformers draws them at random)"
            )
        return model


class WholeAdapter(AutoPeftModelForCausalLM):
    """`AutoPeftModelForCausalLM` that refuses files without some of the weights, of the model or of the adapter."""

    _target_class = WholeModel

    @classmethod
    def from_pretrained(cls, name: Any, *given: Any, **how: Any) -> Any:  # type: ignore[override]
        """Return the model with its adapter; `InvalidInputError` where weights are missing."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*missing adapter keys.*")
            try:
                return super().from_pretrained(name, *given, **how)
            except UserWarning as error:
                raise InvalidInputError(
                    f"Expected all weights of the adapter in {name} (got a file without some of them: {error!s:.200})"
                ) from error
