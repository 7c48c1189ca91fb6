"""A folder of pictures, one folder a class: FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png (or .jpg).

FOLDER/val/CLASS/*.png may be there too (or `valid`, `validation`; capitals do not matter); otherwise validation
pictures are split off the training pictures. Each picture is turned as its camera says (EXIF), laid on a ground where
it is transparent, made RGB, cut to the largest square about its centre and resized with PIL's bicubic filter; one that
is size x size already stays as it is. Colour profiles are not applied. Hidden files are passed over; whatever else is
there and is not read, the notes say.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from kdbench.data.labelled import Labelled, locate, split
from kdbench.data.packed import SPLITS
from kdbench.data.raw import RawData, SourceMissing
from kdbench.types import KdbenchError

SUFFIXES = (".png", ".jpg", ".jpeg")
FORM = "expected train/CLASS/*.png (or .jpg) and test/CLASS/*.png"
MEANT = {**{name: name for name in SPLITS}, "valid": "val", "validation": "val"}
"""Name of a folder in small letters -> the split that it holds."""
LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini", "__macosx"}
PNG_SIGNATURE, PNG_BIT_DEPTH = b"\x89PNG\r\n\x1a\n", 24
"""How a PNG begins, and the position of the byte that says its bits a channel."""


def build(
    *,
    folder: str = "pictures",
    size: int = 32,
    limit: int | None = None,
    test_limit: int | None = None,
    val_share: float = 0.1,
    ground: str = "white",
    links: bool = False,
    data_dir: Path | None = None,
) -> RawData:
    """Modality `image`, uint8 (N, size, size, 3), shuffled and stratified in a fixed way.

    folder: in `data_dir` unless absolute. size: side in pixels, at least 8. limit: take this many training pictures,
    before the validation pictures are split off them. test_limit: take this many test pictures. val_share: share of the
    training pictures that become validation pictures, where there is no folder val. ground: the colour on which
    transparent pictures are laid, by name or as '#rrggbb'. links: whether links may lead out of the folder. Raises
    KdbenchError, naming files, folder or class, for whatever is wrong with them. What was taken is held in memory while
    it is packed.
    """
    if size < 8:
        raise KdbenchError(f"imagefolder: size is {size}; the smallest is 8")
    return split(read(locate("imagefolder", folder, data_dir), size, ground, links), limit, test_limit, val_share)


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """All pictures that `build` may read. Raises KdbenchError, naming folder or class, if they are off the form."""
    args = build.__kwdefaults__ | args
    folder = locate("imagefolder", args["folder"], data_dir)
    return [path for classes in scan(folder, args["links"])[0].values() for paths in classes.values() for path in paths]


def scan(folder: Path, links: bool = False) -> tuple[dict[str, dict[str, list[Path]]], dict[str, list[Path]]]:
    """({split: {class: its pictures}}, {kind: entries of this kind that are not read}), all in order of their names.

    Raises SourceMissing if there is no such folder, and KdbenchError for a split that is missing or there twice, a
    class without pictures, a class that training does not have, and a link that leads nowhere or, unless `links`, out
    of the folder.
    """
    if not folder.exists():
        raise SourceMissing(f"imagefolder: no folder {folder.name} in {folder.parent}; {FORM}")
    unread: dict[str, list[Path]] = {}
    places: dict[str, Path] = {}
    for entry in _entries(folder, folder, links):
        name = MEANT.get(entry.name.lower())
        if name is None or not entry.is_dir():
            unread.setdefault(_kind(entry, "folder beside train and test"), []).append(Path(entry))
        elif name in places:
            raise KdbenchError(
                f"imagefolder: {folder} has {places[name].name} and {entry.name}; keep one of them as {name}"
            )
        else:
            places[name] = Path(entry)

    found: dict[str, dict[str, list[Path]]] = {}
    for name in SPLITS:
        if name not in places:
            if name == "val":
                continue
            there = ", ".join(path.name for paths in unread.values() for path in paths[:3])
            raise KdbenchError(f"imagefolder: no folder {name} in {folder}; {FORM}; there is {there or 'nothing else'}")
        found[name] = {}
        for entry in _entries(places[name], folder, links):
            if entry.is_dir():
                found[name][entry.name] = _pictures(Path(entry), folder, links, unread)
            else:
                unread.setdefault(_kind(entry, ""), []).append(Path(entry))
        if not found[name]:
            raise KdbenchError(f"imagefolder: {places[name]} has no class folders; {FORM}")
        if strange := sorted(set(found[name]) - set(found["train"])):
            raise KdbenchError(f"imagefolder: {folder}: class {strange[0]} is in {name}, but not in train")
    return found, unread


def _pictures(place: Path, folder: Path, links: bool, unread: dict[str, list[Path]]) -> list[Path]:
    """The pictures of one class; what else lies there is added to `unread`."""
    pictures, others = [], {}
    for entry in _entries(place, folder, links):
        if entry.name.lower().endswith(SUFFIXES) and entry.is_file():
            pictures.append(Path(entry))
        else:
            others.setdefault(_kind(entry, "folder in the folder of a class"), []).append(Path(entry))
    if not pictures:
        there = f"; it has {list_unread(others, place)}" if others else ""
        raise KdbenchError(f"imagefolder: {place} holds no picture ({', '.join(SUFFIXES)}){there}")
    for kind, paths in others.items():
        unread.setdefault(kind, []).extend(paths)
    return pictures


def _kind(entry: os.DirEntry, folder: str) -> str:
    """What to call an entry that is not read; `folder`: what to call it if it is one."""
    if entry.is_dir():
        return folder
    suffix = Path(entry).suffix.lower()
    if not entry.is_file():
        return "entry that is not a file"
    return "picture outside the folders of classes" if suffix in SUFFIXES else f"{suffix or 'other'} file"


def list_unread(unread: dict[str, list[Path]], folder: Path) -> str:
    """'3 x .webp file (such as train/cat/a.webp), ...'"""
    return ", ".join(
        f"{len(paths):,} x {kind} (such as {paths[0].relative_to(folder)})" for kind, paths in sorted(unread.items())
    )


def read(folder: Path, size: int, ground: str = "white", links: bool = False, resize: bool = True) -> Labelled:
    """The pictures of a folder, decoded when they are asked for; `resize=False` refuses those of another size."""
    if not is_colour(ground):
        raise KdbenchError(f"imagefolder: ground {ground!r} is not a colour; expected a name or '#rrggbb'")
    scanned, unread = scan(folder, links)
    names = list(scanned["train"])
    paths = {name: [path for some in classes.values() for path in some] for name, classes in scanned.items()}
    labels = {
        name: np.repeat([names.index(c) for c in classes], [len(some) for some in classes.values()])
        for name, classes in scanned.items()
    }
    counts = ", ".join(f"{len(some):,} {name}" for name, some in paths.items())
    notes = [f"pictures of {folder.name}: {counts}"]
    if resize:
        notes.append(f"pictures are cut to a square about the centre and resized to {size}x{size} (bicubic)")
    if unread:
        notes.append(f"not read in {folder.name}: {list_unread(unread, folder)}")
    found = Labelled(f"imagefolder: {folder}", {}, labels, names, notes)
    for name, some in paths.items():
        found.images[name] = Pictures(found, name, some, size, ground, resize)
        found.names[name] = [path.relative_to(folder).as_posix() for path in some]
    return found


@dataclass
class Pictures:
    """Picture files of one split as an array that is decoded where it is indexed."""

    found: Labelled
    split: str
    paths: list[Path]
    size: int
    ground: str
    resize: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.paths), self.size, self.size, 3)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Positions (n,) -> uint8 (n, size, size, 3)."""
        images = np.zeros((len(index), self.size, self.size, 3), np.uint8)
        for image, i in zip(images, index, strict=True):
            name = self.found.names[self.split][i]
            try:
                picture, remarks = decode(self.paths[i], self.ground)
                image[:] = self._fit(picture)
            except KdbenchError as error:
                self.found.faults.setdefault(str(error), []).append(name)
                continue
            for remark in remarks:
                self.found.remarks.setdefault(remark, []).append(name)
        return images

    def _fit(self, picture: Image.Image) -> np.ndarray:
        if not self.resize and picture.size != (self.size, self.size):
            width, height = picture.size
            raise KdbenchError(f"it is {width}x{height}; expected {self.size}x{self.size}")
        side = min(picture.size)
        left, top = ((length - side) // 2 for length in picture.size)
        square = picture.crop((left, top, left + side, top + side))
        return np.asarray(square.resize((self.size, self.size), Image.Resampling.BICUBIC))


def decode(path: Path, ground: str) -> tuple[Image.Image, list[str]]:
    """The upright RGB picture, and what was done to it. Raises KdbenchError that says what is wrong with it."""
    remarks = []
    try:
        with open(path, "rb") as stream:
            head = stream.read(PNG_BIT_DEPTH + 1)
        if not head:
            raise KdbenchError("it is empty")
        # PIL drops the low bytes of such colours without a word.
        if head.startswith(PNG_SIGNATURE) and head[PNG_BIT_DEPTH:] == b"\x10":
            raise KdbenchError("it has 16 bits a channel; save it with 8, as `mogrify -depth 8 FILE` does")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            # What PIL warns of as a decompression bomb (over 89 million pixels) is refused.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as file:
                coding = str(file.tile[0][3]) if file.tile else ""
                file.load()
                # PIL scales grey levels of 2 and 4 bits to 0..255, but not the one among them that is transparent.
                if coding in ("L;2", "L;4") and "transparency" in file.info:
                    file.info["transparency"] *= {"L;2": 85, "L;4": 17}[coding]
                picture = ImageOps.exif_transpose(file)
            if file.format == "PNG" and file.is_animated:
                remarks.append("animated, only the first frame is taken")
            if picture.mode == "CMYK":
                remarks.append("CMYK, made RGB without a colour profile")
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                if picture.getchannel("A").getextrema()[0] < 255:
                    remarks.append(f"transparent in places, laid on {ground}")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture)
            picture = picture.convert("RGB")
    except KdbenchError:
        raise
    except UnidentifiedImageError:
        raise KdbenchError("it is neither a PNG nor a JPEG with 8 bits a channel") from None
    except Exception as error:  # decoders fail on a damaged file in many ways
        raise KdbenchError(f"it cannot be read: {error}") from error
    # Pillow's own sentence goes on with numbers that differ from picture to picture.
    said = {str(warning.message).split(".")[0].strip() for warning in caught if warning.category is UserWarning}
    return picture, remarks + [f"read, though Pillow warns: {sentence}" for sentence in sorted(said)]


def is_colour(text: str) -> bool:
    try:
        return len(ImageColor.getrgb(text)) == 3
    except ValueError:
        return False


def _entries(place: Path, folder: Path, links: bool) -> list[os.DirEntry]:
    """What lies in a place inside the folder, by name, without hidden files."""
    try:
        with os.scandir(place) as entries:
            found = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in LEFT_BY_SYSTEMS]
    except OSError as error:
        raise KdbenchError(f"imagefolder: cannot read the folder {place}: {error.strerror}; {FORM}") from None
    found.sort(key=lambda entry: entry.name)
    root = os.path.realpath(folder)
    for entry in found:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise KdbenchError(f"imagefolder: {entry.path!r}: its name is not valid UTF-8; rename it") from None
        if entry.is_symlink() and not os.path.exists(entry):
            raise KdbenchError(f"imagefolder: {entry.path} is a broken link; remove it")
        if not links and entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
            raise KdbenchError(
                f"imagefolder: {entry.path} is a link to a place outside {folder}; put the files there, or allow such "
                f"links with `links: true` (source imagefolder)"
            )
    return found
