"""`gunlearn diffusion`, and UCE by the one call from a pipeline to a pipeline."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline

from experiments.digits_diffusion.text_pipeline import drawn, embeddings, trained_pipeline
from gunlearn.diffusion import text_columns, unlearn
from gunlearn.diffusion.methods.uce import cross_attention_maps
from tests.command import call
from tests.diffusion.tiny_pipelines import CLASS_SCHEDULE, class_denoiser, class_pipeline

QUICK = ["--num-images", "2", "--sampling-steps", "2", "--device", "cpu", "--no-progress"]
KEPT = ["four", "five"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image pipeline that has seen few pictures yet."""
    return saved(trained_pipeline(steps=30), tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = class_pipeline(class_denoiser(), DDIMScheduler(**CLASS_SCHEDULE), null=4)
    return saved(pipeline, tmp_path_factory.mktemp("classes"))


def saved(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


def test_a_word_is_erased_and_the_folder_is_an_ordinary_pipeline(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    argv = ["diffusion", "--pipeline", str(folder), "--concept", "three", "--preserve", *KEPT, "--method", "uce"]
    assert call(*argv, "--method-arg", "anchors=six", "--out", str(out), *QUICK) == 0
    printed = capsys.readouterr().out
    for words in ("done: uce of three, 0 steps", "kept on purpose: four, five", "not promised: ", str(out)):
        assert words in printed
    record = json.loads((out / "unlearning.json").read_text())
    assert record["settings"]["concepts"] == ["three"]
    assert "made to forget three" in (out / "README.md").read_text()
    # The same by hand, and the same pictures from the folder, bit for bit.
    source = StableDiffusionPipeline.from_pretrained(folder)
    result = unlearn(source, ["three"], "uce", preserve=KEPT, anchors="six", figure_images=0)
    loaded = DiffusionPipeline.from_pretrained(out)
    for pipeline in (loaded, source):
        pipeline.set_progress_bar_config(disable=True)
    assert isinstance(loaded, StableDiffusionPipeline)
    prompts = ["a photo of a three", "a four"]
    assert torch.equal(drawn(loaded, prompts), drawn(result.pipeline, prompts))
    columns = text_columns(source, ["three"], "six", KEPT)
    for name, layer in cross_attention_maps(source.unet).items():
        before = layer(columns.concepts) - layer(columns.anchors)
        after = cross_attention_maps(loaded.unet)[name](columns.concepts) - layer(columns.anchors)
        assert after.norm() < 0.5 * before.norm()


def test_an_adapter_is_saved_alone_and_taken_off(classes: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    argv = ["diffusion", "--pipeline", str(classes), "--forget-class", "0", "--out", str(out), *QUICK]
    argv += ["--method", "esd", "--method-arg", "trajectories=2", "--method-arg", "steps=2"]
    assert call(*argv, "--method-arg", "sampling_steps=2") == 2  # an option of the command
    assert "Expected --sampling-steps" in capsys.readouterr().err
    assert call(*argv) == 0
    assert "to undo it: " in capsys.readouterr().out
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "unet").exists()


def test_what_is_merged_has_nothing_to_take_off(classes: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    argv = ["diffusion", "--pipeline", str(classes), "--forget-class", "0", "--out", str(out), *QUICK, "--merge"]
    argv += ["--method-arg", "trajectories=2", "--method-arg", "steps=2"]
    assert call(*argv, "--figure-images", "0") == 0
    printed = capsys.readouterr().out
    assert "undo" not in printed
    assert "part of them now" in printed
    assert "| concept" not in (out / "README.md").read_text()
    assert "before" not in printed
    assert json.loads((out / "unlearning.json").read_text())["settings"]["figure_images"] == 0


def test_merging_where_no_adapter_was_trained_loses_nothing(folder: Path, tmp_path: Path, capsys: Any) -> None:
    argv = ["diffusion", "--pipeline", str(folder), "--concept", "three", "--preserve", "one", "--method", "uce"]
    assert call(*argv, "--out", str(tmp_path / "out"), "--figure-images", "0", "--merge") == 0
    assert "took no adapter" in capsys.readouterr().err
    assert (tmp_path / "out" / "unlearning.json").is_file()


def test_several_words_one_after_the_other_stay_erased(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    result = unlearn(pipeline, ["three", "seven"], "uce", preserve=KEPT, figure_images=0, templates=("{}",), ridge=1e-3)
    three, seven = embeddings(pipeline, ["three", "seven"])
    for name, layer in cross_attention_maps(pipeline.unet).items():
        edited = cross_attention_maps(result.pipeline.unet)[name]
        for word in (three, seven):
            assert (edited(word) - layer(word)).norm() > 0.1 * layer(word[1:]).std()
    assert len(result.results) == 2
    with pytest.warns(UserWarning, match="no texts to preserve"):
        unlearn(pipeline, ["three"], "uce", figure_images=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearn(pipeline, ["three"], "uce", preserve=KEPT, figure_images=0)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "Expected --forget-class or --concept (got neither)"),
        (["--forget-class", "1", "--merge", "--peft", "none"], "beside --merge, which merges an adapter (got none)"),
        (["--concept", "three", "--forget-class", "1"], "(got both)"),
        (["--concept", "☃", "--method", "uce"], "at least one token"),
        (["--concept", "three", "--method", "usc"], "did you mean 'uce'"),
        (["--concept", "three", "--method-arg", "peft=lora"], "Expected --peft"),
        (["--concept", "three", "--method", "uce", "--peft", "lora"], "Expected peft=None for 'uce'"),
    ],
)
def test_refusals(folder: Path, tmp_path: Path, argv: list[str], words: str, capsys: Any) -> None:
    out = tmp_path / "out"
    assert call("diffusion", "--pipeline", str(folder), *argv, "--out", str(out), *QUICK) == 2
    printed = capsys.readouterr()
    line = printed.err.splitlines()[-1]
    assert line.startswith("error: Expected")
    assert words in line
    assert (printed.out, out.exists()) == ("", False)


def test_what_is_no_pipeline_is_refused(folder: Path, classes: Path, tmp_path: Path, capsys: Any) -> None:
    for argv, words in (
        (["--pipeline", str(tmp_path), "--concept", "three"], "model_index.json"),
        (["--pipeline", str(folder), "--concept", "three", "--out", str(folder)], "without a model"),
        (["--pipeline", str(classes), "--forget-class", "0", "--method", "uce"], "on classes has no text to edit"),
        (["--pipeline", str(classes), "--forget-class", "4"], "a number from 0 to 3 (got 4)"),
    ):
        out = [] if "--out" in argv else ["--out", str(tmp_path / "out")]
        assert call("diffusion", *argv, *out, *QUICK) == 2
        assert words in capsys.readouterr().err
