"""Data sets of images: those in idx files, and scikit-learn's digits."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from gunlearn.datasets.idx import read_idx
from gunlearn.datasets.locate import cache_folder, data_root
from gunlearn.errors import DatasetNotFoundError, InvalidInputError
from gunlearn.tasks.items.tables import ItemTable

_TRAIN, _TEST = "train", "t10k"


@dataclass(frozen=True)
class ImageSet:
    """A named data set of images.

    Attributes:
        name: what `load` takes, in upper or lower case.
        images: number of them.
        source: where it comes from.
        build: makes an embedded one; `None` for idx files.
        installed: folder in which a package of the system puts the files.
        package: the name of that package, in words.
        classes: names of the classes, by number.
    """

    name: str
    images: int
    source: str
    build: Callable[[], ItemTable] | None = None
    installed: str = ""
    package: str = ""
    classes: tuple[str, ...] = ()

    def read(self, root: str | PathLike[str] | None = None) -> ItemTable:
        """Return the images; see `idx_images` for those in files."""
        return idx_images(self, root) if self.build is None else self.build()

    def offline(self, root: str | PathLike[str] | None = None) -> bool:
        """Return whether the images are at hand."""
        return self.build is not None or any(_parts_in(folder) for folder in self.places(root))

    def places(self, root: str | PathLike[str] | None) -> list[Path]:
        """Return the folders in which files may lie, the likeliest first."""
        bases = data_root(root)[0], cache_folder()
        places = [base.joinpath(*more) for base in bases for more in ((self.name, "raw"), (self.name,), ())]
        return [*places, Path(self.installed)] if self.installed else places


def digit_images() -> ItemTable:
    """Return scikit-learn's 1797 handwritten digits: `x` `[1797, 1, 8, 8]` in [0, 1], `y` the digit."""
    bunch = load_digits()
    x = torch.tensor(bunch.images / 16.0, dtype=torch.float32)[:, None]  # 16 grey levels above 0
    return ItemTable(x=x, y=torch.tensor(bunch.target))


_ROWS = [
    ImageSet("digits", 1797, "scikit-learn", digit_images),
    ImageSet(
        "FashionMNIST",
        70000,
        "idx files",
        installed="/usr/share/datasets/fashion-mnist",
        package="Debian's package dataset-fashion-mnist",
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    ImageSet("MNIST", 70000, "idx files"),
]
IMAGE_SETS: dict[str, ImageSet] = {row.name.lower(): row for row in _ROWS}


def idx_images(row: ImageSet, root: str | PathLike[str] | None = None) -> ItemTable:
    """Return the images of a named data set in idx files.

    `x` is `[num_images, 1, height, width]` (float32 in [0, 1]), `y` `[num_images]`; `test_mask` holds the official test
    images, `classes` names of the classes where they are known. Files are `train-images-idx3-ubyte` and its three
    siblings, gzipped or not, in `root/NAME/raw` (as torchvision writes them), `root/NAME`, `root` itself, the cache, or
    where a package of the system puts them.

    Raises:
        DatasetNotFoundError: no such files, where they were expected; or images without labels beside a whole part.
        InvalidInputError: broken files; images and labels of different numbers.

    Warns:
        UserWarning: there are only the training or only the test images; they are then all images.
    """
    for folder in row.places(root):
        if found := _parts_in(folder):
            table = _table(folder, found, stacklevel=6)
            return ItemTable(**table, classes=row.classes) if row.classes else table
    places, (base, named_by) = row.places(root), data_root(root)
    half = [path for folder in places if folder.is_dir() for path in sorted(folder.glob("*-idx?-ubyte*"))]
    raise DatasetNotFoundError(
        f"Expected the images of {row.name!r}, train-images-idx3-ubyte.gz and its three siblings, in {places[0]} (got "
        f"no such files; root {base} from {named_by}"
        + (f"; {half[0].parent} has {half[0].name}, but not both images and labels" if half else "")
        + "). Name the folder with root=, --root or GUNLEARN_DATA"
        + (f", or install {row.package}" if row.package else "")
    )


def images_in(folder: Path) -> ItemTable | None:
    """Return the images of idx files in a folder, or in its folder `raw`, see `idx_images`; `None` where none are."""
    for place in (folder, folder / "raw"):
        if found := _parts_in(place):
            return _table(place, found, stacklevel=5)
        _refuse_half(place)
    return None


def _parts_in(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files of images and labels of each part that a folder has whole; it may not have half of another."""
    found = {part: files for part in (_TRAIN, _TEST) if (files := _files(folder, part)) is not None}
    if found:
        _refuse_half(folder)
    return found


def _refuse_half(folder: Path) -> None:
    """Raise `DatasetNotFoundError` where a folder has the images of a part without their labels, or the reverse."""
    for part in (_TRAIN, _TEST):
        there = {s: sorted(p.name for p in (folder / s, folder / f"{s}.gz") if p.is_file()) for s in _stems(part)}
        for stem, other in (_stems(part), _stems(part)[::-1]):
            if there[stem] and not there[other]:
                raise DatasetNotFoundError(
                    f"Expected {other} (or {other}.gz) beside {there[stem][0]} in {folder} (got none)"
                )


def _stems(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _files(folder: Path, part: str) -> tuple[Path, Path] | None:
    """Return the files of images and labels of a part; `None` where one is missing."""
    stems = _stems(part)
    found = [path for stem in stems for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()]
    first = [next((path for path in found if path.name.startswith(stem)), None) for stem in stems]
    return None if first[0] is None or first[1] is None else (first[0], first[1])


def _table(folder: Path, found: dict[str, tuple[Path, Path]], stacklevel: int) -> ItemTable:
    parts = {part: _read(*files) for part, files in found.items()}
    x = torch.cat([images for images, _ in parts.values()])
    table = ItemTable(x=x, y=torch.cat([labels for _, labels in parts.values()]))
    number = {part: len(labels) for part, (_, labels) in parts.items()}
    if set(parts) != {_TRAIN, _TEST}:
        which = "test" if _TEST in parts else "training"
        warnings.warn(
            f"{folder} holds the {number[next(iter(parts))]} {which} images alone: they are all images here, none "
            "is a test image; gunlearn.item_split holds some out",
            UserWarning,
            stacklevel=stacklevel,
        )
    else:
        table.test_mask = torch.arange(len(x)) >= number[_TRAIN]
    return table


def _read(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    x, y = read_idx(images), read_idx(labels)
    if x.dtype != torch.uint8 or x.dim() != 3 or not len(x):
        raise InvalidInputError(f"Expected images, bytes [num_images, height, width], in {images} (got {_said(x)})")
    if y.dtype != torch.uint8 or y.dim() != 1 or len(y) != len(x):
        raise InvalidInputError(f"Expected {len(x)} labels, bytes, in {labels} (got {_said(y)})")
    return x[:, None].float() / 255, y.long()


def _said(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
