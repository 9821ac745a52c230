"""`gunlearn diffusion`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import gunlearn
from gunlearn.cli.fields import Flag, Folder, Pairs, Real, Texts, Whole, Wholes
from gunlearn.core.atomic import check_writable
from gunlearn.core.options import parse_pair
from gunlearn.core.printable import printable
from gunlearn.errors import DivergenceError, InvalidInputError

Concepts = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")]


@dataclass(frozen=True)
class Diffusion:
    """Unlearn concepts or classes in a pipeline of diffusers, and save what changed with its record.

    Args:
        pipeline: Folder of the pipeline, as 'save_pretrained' writes it.
        forget_class: Classes to forget, by number, of a class-conditional pipeline.
        concept: Text to forget, of a text-to-image pipeline. Can be repeated.
        preserve: Classes or texts to keep; all other classes by default. Methods that edit text or read retained
            images need them for texts.
        method: See 'gunlearn methods'; those of the task denoising, and most of any task.
        method_arg: Option of the method. Can be repeated.
        peft: Train an adapter, which is saved alone and can be taken off again, or the weights themselves; auto takes
            an adapter where the method trains.
        rank: Of the adapter; 8 by default.
        order: Forget several one after the other, and tell how far earlier ones come back, or all at once.
        null_class: The class of "nothing", where a class-conditional pipeline does not say it.
        num_images: Images to sample of each concept, where the method reads any.
        figure_images: Images of each concept on which the loss is measured before and after; 0 for none.
        sampling_steps: Of the sampler, and of a method that samples by itself; 20 by default.
        guidance: Likewise; 3 by default.
        merge: Save the whole pipeline with the adapter's change in its weights.
        out: Folder of the outputs; runs/diffusion by default.
        device: Where to compute; auto takes CUDA where there is one.
        seed: Of the run.
        progress: Show no bars.
        debug: Show the traceback of an error.
    """

    pipeline: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    forget_class: Wholes = ()
    concept: Concepts = ()
    preserve: Texts = ()
    method: str = "esd"
    method_arg: Pairs = ()
    peft: Literal["auto", "lora", "none"] = "auto"
    rank: Whole = None
    order: Literal["one_by_one", "together"] = "one_by_one"
    null_class: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    num_images: int = 64
    figure_images: int = 16
    sampling_steps: Whole = None
    guidance: Real = None
    merge: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    out: Folder = None
    device: Literal["cpu", "cuda", "auto"] = "auto"
    seed: int = 0
    progress: Flag = True
    debug: Flag = False

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / "diffusion"

    def __call__(self) -> int:
        """Unlearn, save, print what was done and what is not promised; return 1 if the loss diverged."""
        concepts = [*self.forget_class, *self.concept]
        if bool(self.forget_class) == bool(self.concept):
            got = "both" if concepts else "neither"
            raise InvalidInputError(f"Expected --forget-class or --concept (got {got})")
        if self.merge and self.peft == "none":
            raise InvalidInputError("Expected --peft lora or auto beside --merge, which merges an adapter (got none)")
        gunlearn.diffusion.check_outputs(self.folder)
        check_writable(self.folder)
        options = dict(parse_pair(argument, "--method-arg") for argument in self.method_arg)
        loading, console = gunlearn.cli.diffusion_models, gunlearn.cli.console
        same = ("order", "rank", "num_images", "figure_images", "sampling_steps", "guidance", "seed", "progress")
        settings = {name: getattr(self, name) for name in same}
        clash = sorted(set(options) & {*settings, "peft", "preserve", "null", "method"})
        if clash:
            raise InvalidInputError(f"Expected --{clash[0].replace('_', '-')} (got it as --method-arg)")
        with loading.quiet_loading(self.progress):
            pipeline = loading.load_pipeline(self.pipeline, self.device)
            try:
                result = gunlearn.diffusion.unlearn(
                    pipeline,
                    concepts,
                    self.method,
                    peft=None if self.peft == "none" else self.peft,
                    preserve=[*self.preserve] or None,
                    null=self.null_class,
                    **settings,
                    **options,
                )
            except DivergenceError as error:
                if self.debug:
                    raise
                console.say(f"error: {error}", style="red")
                return 1
            merge = self.merge and result.settings["peft"] is not None
            result.save(self.folder, merge=merge)
        if self.merge and not merge:
            console.say(f"{self.method!r} took no adapter: there was none to merge, and its weights were saved alone")
        head, body = result.table()
        if body:
            console.print_table(head, body, markdown=False)
        for line in (*result.told(merge), f"card and record: {self.folder}"):
            print(printable(line))
        return 0
