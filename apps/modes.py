"""Pictures of what the modes of a StRA block do: masks, local output, attention coefficients. numpy and OpenCV only.

A node of the map stands for an equal cell of the picture; between the cells' centres values are interpolated. Each
tile has a scale of its own, from 0 to its largest value, which the bar under it names.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from edge_stra.apps.overlay import blend, write_picture
from edge_stra.apps.panel import (
    DARK,
    LIGHT,
    QUIET,
    SOLID,
    Rgb,
    color_of,
    fill,
    fineness,
    panel_picture,
    panel_size,
    percent,
    put_text,
    reduced_drawing,
    text_width,
)
from numpy.typing import NDArray

from edge_stra.artifact import check_output
from edge_stra.detections import Detection
from edge_stra.drawing import drawable
from edge_stra.faces import Expression
from edge_stra.preprocess import read_rgb
from edge_stra.spec import OutputError

if TYPE_CHECKING:  # explain.py imports torch, and drawing needs none
    from edge_stra.explain import Distribution, Explanation

Picture = NDArray[np.uint8]
Array = NDArray[np.float32]
MODE_COLORS: tuple[Rgb, ...] = (
    (255, 99, 99), (255, 176, 58), (246, 236, 86), (120, 222, 104),
    (74, 214, 210), (92, 156, 255), (178, 128, 255), (255, 128, 214),
)  # fmt: skip
TILE_AREA = 176 * 176  # pixels of one mode's tile; those of the first row are twice as wide and high
ASPECTS = (0.4, 2.0)  # width / height of a tile; a longer picture is squeezed, as the model's input is
GAP, MARGIN = 14, 28
TITLE, PANEL, CAPTION = 32, 24, 18  # rows of text, in pixels
GROUND = 0.55  # brightness of the picture below a drawing
TINY = float(np.finfo(np.float32).tiny)


def draw_explanation(rgb_u8: Picture, found: Explanation, name: str) -> Picture:
    """A sheet for one picture, uint8 [H, W, 3]: the whole block above, one column for each mode below."""
    large, small = resized(rgb_u8, 2), resized(rgb_u8, 1)
    arrows = zip(found.coefficients, 1 - found.coefficient_entropy, strict=True)
    taps = found.coefficients.shape[1]
    window = f"{round(taps**0.5)}x{round(taps**0.5)}"
    return sheet(
        [
            title(name, found),
            beside(
                [
                    headed("Picture", large),
                    headed("Local output of all modes", scaled_heat(large, found.local)),
                    headed("Strongest mask, by its peak", assignment_tile(large, found.masks)),
                    facts(found, large.shape[1]),
                ]
            ),
            mode_heads(len(found.masks), small.shape[1]),
            ("Mask", mask_text(found.masks)),
            mask_row(small, found.masks, [f"spread {s:.2f}" for s in found.mask_entropy]),
            ("Local output", "The L2 norm of the mode's channels at each node, after local attention."),
            beside([scaled_heat(small, values) for values in found.mode_local]),
            (
                "Coefficients",
                f"The arrow leads from a node to where it looks on average in its {window} window. Heat: how peaked "
                f"its coefficients are, 0 where all {taps} are alike, 1 where one has all.",
            ),
            beside([below([arrow_tile(small, *pair), scale_bar(small.shape[1], "1")], 2) for pair in arrows]),
        ]
    )


def draw_distribution(found: Distribution, name: str) -> Picture:
    """A sheet for a folder, uint8 [H, W, 3]: each mode's mean mask over the mean picture."""
    large, small = resized(found.picture, 2), resized(found.picture, 1)
    side = min(large.shape[:2])
    spreads = [f"spread {s:.2f}" for s in found.mask_entropy]
    sames = [f"same {s:.2f}" for s in found.overlap_with_mean]
    same = "Same: the part of a single picture's mask that lies on the mean mask, 1 where the mask never moves."
    return sheet(
        [
            text_block(shortened(name, TITLE, 1000), TITLE, LIGHT),
            beside(
                [
                    headed("Mean picture", large),
                    headed("Strongest mask, by its peak", assignment_tile(large, found.masks)),
                    headed("Overlap of each two", below([overlap_tile(found.overlap, side), scale_bar(side, "1")], 2)),
                    lines([found.spec.name, f"{found.pictures} pictures"], large.shape[1]),
                ]
            ),
            mode_heads(len(found.masks), small.shape[1]),
            ("Mean mask", f"{mask_text(found.masks)} {same}"),
            mask_row(small, found.masks, spreads, sames),
        ]
    )


# Tiles: a picture [H, W, 3] with something drawn over it.


def resized(rgb_u8: Picture, factor: int) -> Picture:
    """The picture with TILE_AREA * factor^2 pixels, in its own aspect within ASPECTS."""
    aspect = float(np.clip(rgb_u8.shape[1] / rgb_u8.shape[0], *ASPECTS))
    width, height = (factor * round((TILE_AREA * a) ** 0.5) for a in (aspect, 1 / aspect))
    way = cv2.INTER_AREA if width < rgb_u8.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb_u8, (width, height), interpolation=way), np.uint8)


def heat_tile(picture: Picture, values: Array) -> Picture:
    """Values [h, w] from 0 up as heat over the picture, which turns grey and dark; the largest is the brightest."""
    return shade(ground_of(picture), enlarge(values, picture) / max(float(values.max()), TINY))


def shade(ground: Array, share: Array) -> Picture:
    """Heat of `share` [H, W], 0 to 1, on a ground [H, W, 3] of 0 to 255: nothing at 0, dense and bright at 1."""
    share = share.clip(0, 1)
    level = np.rint(255 * (0.3 + 0.7 * share)).astype(np.uint8)
    return mixed(ground, cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[:, :, ::-1], 0.9 * share**0.6)


def mixed(ground: Any, colors: Any, alpha: Array) -> Picture:
    """`colors` laid over `ground`, both [H, W, 3], with alpha [H, W]."""
    result: Picture = np.rint(ground + (colors - ground) * alpha[:, :, None]).clip(0, 255).astype(np.uint8)
    return result


def ground_of(picture: Picture) -> Array:
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)
    return np.repeat(np.float32(GROUND) * grey[:, :, None], 3, axis=2)


def enlarge(values: Array, picture: Picture) -> Array:
    """[h, w] -> the picture's [H, W], smooth, within 0 and the largest value."""
    height, width = picture.shape[:2]
    # A cubic curve swings beyond both ends. Clipped axis by axis: the product of two swings below 0 would be a spot.
    for size in ((values.shape[1], height), (width, height)):
        smooth = cv2.resize(values, size, interpolation=cv2.INTER_CUBIC)
        values = np.asarray(smooth, np.float32).clip(0, values.max())
    return values


def assignment_tile(picture: Picture, masks: Array) -> Picture:
    """At each place the colour of the mode whose mask is largest relative to its own maximum, as dense as that is.

    A numbered disc marks the node where each mask is largest.
    """
    share = np.stack([enlarge(mask / max(float(mask.max()), TINY), picture) for mask in masks])  # (g, H, W)
    colors = np.array([mode_color(mode) for mode in range(len(masks))], np.float32)[share.argmax(0)]
    tile = mixed(ground_of(picture), colors, 0.8 * share.max(0))
    peaks = masks.reshape(len(masks), -1).argmax(1)
    for mode, peak in enumerate(peaks):
        row, column = divmod(int(peak), masks.shape[2])
        before = int((peaks[:mode] == peak).sum())  # discs at the same node stand in a row
        put_disc(tile, mode, (column + 0.5) / masks.shape[2], (row + 0.5) / masks.shape[1], before)
    return tile


def put_disc(tile: Picture, mode: int, x: float, y: float, steps: int) -> None:
    """A dark disc with the mode's number, centred at (x, y), 0 to 1, and `steps` discs to the right. In place."""
    side, fine, text = round(1.2 * CAPTION), fineness(CAPTION), str(mode + 1)
    disc = np.zeros((side * fine, side * fine, 4), np.uint8)
    fill(disc, (0, 0, side, side), side / 2, fine, (*DARK, 235))
    put_text(disc, text, (side - text_width(text, CAPTION)) / 2, side / 2, CAPTION, mode_color(mode))
    left, top = round(x * tile.shape[1] + (steps - 0.5) * side), round(y * tile.shape[0] - side / 2)
    small = reduced_drawing(disc, (side, side))
    blend(tile, small, (min(max(0, left), tile.shape[1] - side), min(max(0, top), tile.shape[0] - side), side, side))


def mode_color(mode: int) -> Rgb:
    return MODE_COLORS[mode % len(MODE_COLORS)]


def displacement(coefficients: Array) -> Array:
    """[K*K, h, w] -> [h, w, 2]: the mean offset (y, x) of the neighbours that each node looks at, in nodes."""
    half = round(len(coefficients) ** 0.5) // 2
    offsets = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, -1)  # by row, as the taps are
    return np.asarray(np.einsum("khw,ck->hwc", coefficients, offsets), np.float32)


def arrow_tile(picture: Picture, coefficients: Array, peaked: Array) -> Picture:
    """How peaked [h, w] the coefficients are, as heat of a fixed scale 0 to 1, and an arrow from each node."""
    tile, fine = shade(ground_of(picture), enlarge(peaked, picture)), 4
    canvas = np.zeros((tile.shape[0] * fine, tile.shape[1] * fine, 4), np.uint8)
    moves = displacement(coefficients)
    cell = np.array(canvas.shape[:2]) / moves.shape[:2]
    reach = 0.7 * cell.min()  # of an offset of one node
    for color, line in ((DARK, 3 * fine), (LIGHT, 5)):  # a dark rim, so that arrows show on bright heat
        for node in np.ndindex(*moves.shape[:2]):
            start = (np.array(node) + 0.5) * cell
            ends = [np.rint(v)[::-1].astype(int).tolist() for v in (start, start + moves[node] * reach)]
            cv2.arrowedLine(canvas, ends[0], ends[1], (*color, SOLID), line, cv2.LINE_AA, tipLength=0.35)
    blend(tile, reduced_drawing(canvas, (tile.shape[0], tile.shape[1])), (0, 0, tile.shape[1], tile.shape[0]))
    return tile


def overlap_tile(overlap: Array, side: int) -> Picture:
    """The overlap of each pair of modes, [G, G] of 0 to 1, as heat on a square; the diagonal names the modes."""
    edges = np.rint(np.linspace(0, side, len(overlap) + 1)).astype(int)
    tile = dark(side, side)
    for row, column in np.ndindex(*overlap.shape):
        place = (slice(edges[row], edges[row + 1] - 2), slice(edges[column], edges[column + 1] - 2))
        share = 0.0 if row == column else float(overlap[row, column])
        cell = np.full((*tile[place].shape[:2], 1), 128 * GROUND, np.float32)
        tile[place] = shade(np.repeat(cell, 3, 2), np.full(cell.shape[:2], share, np.float32))
    for mode in range(len(overlap)):
        put_disc(tile, mode, (mode + 0.5) / len(overlap), (mode + 0.5) / len(overlap), 0)
    return tile


# The sheet: blocks [H, W, 3] on a dark ground, beside and below each other.


def dark(height: int, width: int) -> Picture:
    return np.full((height, width, 3), DARK, np.uint8)


def beside(blocks: Sequence[Picture], gap: int = GAP) -> Picture:
    """Blocks in a row, their tops aligned."""
    result = dark(max(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks) + gap * (len(blocks) - 1))
    left = 0
    for block in blocks:
        result[: block.shape[0], left : left + block.shape[1]] = block
        left += block.shape[1] + gap
    return result


def below(blocks: Sequence[Picture], gap: int = GAP) -> Picture:
    """Blocks in a column, their left sides aligned."""
    turned = [block.transpose(1, 0, 2) for block in blocks]
    return np.ascontiguousarray(beside(turned, gap).transpose(1, 0, 2))


def sheet(rows: Sequence[Picture | tuple[str, str]]) -> Picture:
    """Blocks in a column, with a margin; a heading and its text take the width of the widest block."""
    width = max(row.shape[1] for row in rows if not isinstance(row, tuple))
    inner = below([heading(*row, width) if isinstance(row, tuple) else row for row in rows], GAP)
    result = dark(inner.shape[0] + 2 * MARGIN, inner.shape[1] + 2 * MARGIN)
    result[MARGIN:-MARGIN, MARGIN:-MARGIN] = inner
    return result


def heading(label: str, text: str, width: int) -> Picture:
    """The label, and beside it the text in as many lines as it needs."""
    head = text_block(label, CAPTION, LIGHT)
    return below([dark(0, 1), beside([head, paragraph(text, width - head.shape[1] - GAP, QUIET)])], GAP // 2)


def text_block(text: str, row: int, color: Rgb) -> Picture:
    """One line of text in a row of `row` pixels, and some space."""
    height, width, fine = round(1.35 * row), max(1, text_width(text, row)), fineness(row)
    drawn = np.zeros((height * fine, width * fine, 4), np.uint8)
    put_text(drawn, text, 0, height / 2, row, color)
    result = dark(height, width)
    blend(result, reduced_drawing(drawn, (height, width)), (0, 0, width, height))
    return result


def paragraph(text: str, width: int, color: Rgb) -> Picture:
    """Text in rows of CAPTION, broken between words."""
    broken = [""]
    for word in text.split():
        longer = f"{broken[-1]} {word}".strip()
        broken[-1:] = [longer] if text_width(longer, CAPTION) <= width or not broken[-1] else [broken[-1], word]
    return below([text_block(line, CAPTION, color) for line in broken], 0)


def lines(texts: Sequence[str], width: int) -> Picture:
    return below([paragraph(text, width, LIGHT if text == texts[0] else QUIET) for text in texts], 0)


def shortened(text: str, row: int, width: int) -> str:
    """The text, its middle left out as far as it must be to fit. OpenCV's font has ASCII only: the rest becomes ?."""
    text = drawable(text)
    kept = len(text)
    short = text
    while text_width(short, row) > width and kept > 8:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return short


def chip(text: str, row: int, color: Rgb, width: int | None = None) -> Picture:
    """Dark text on a rounded ground of `color`."""
    height, fine = round(1.4 * row), fineness(row)
    width = width or text_width(text, row) + row
    drawn = np.zeros((height * fine, width * fine, 4), np.uint8)
    fill(drawn, (0, 0, width, height), 0.3 * row, fine, (*color, SOLID))
    put_text(drawn, text, (width - text_width(text, row)) / 2, height / 2, row, DARK)
    result = dark(height, width)
    blend(result, reduced_drawing(drawn, (height, width)), (0, 0, width, height))
    return result


def scale_bar(width: int, highest: str) -> Picture:
    """The colours from 0 to `highest`, as they are over a picture of middle grey, with both ends named."""
    ends = [text_block(text, CAPTION, QUIET) for text in ("0", highest)]
    length = max(8, width - ends[0].shape[1] - ends[1].shape[1] - 12)
    ground = np.full((CAPTION // 2, length, 3), 128 * GROUND, np.float32)
    ramp = shade(ground, np.tile(np.linspace(0, 1, length, dtype=np.float32), (len(ground), 1)))
    space = (ends[0].shape[0] - len(ramp)) // 2
    return beside([ends[0], below([dark(space, length), ramp], 0), ends[1]], 6)


def headed(text: str, tile: Picture) -> Picture:
    return below([text_block(shortened(text, CAPTION, tile.shape[1]), CAPTION, LIGHT), tile], 2)


def scaled_heat(picture: Picture, values: Array, *notes: str, unit: str = "") -> Picture:
    """A heat tile, the bar with its largest value (in percent where `unit` is that), and notes."""
    largest = float(values.max()) * (100 if unit == "%" else 1)
    bar = scale_bar(picture.shape[1], f"{largest:.3g}{unit}")
    return below([heat_tile(picture, values), bar, *(text_block(note, CAPTION, QUIET) for note in notes)], 2)


def mode_heads(modes: int, width: int) -> Picture:
    """A coloured heading of `width` for each mode, with space above."""
    heads = [chip(f"mode {mode + 1}", CAPTION, mode_color(mode), width) for mode in range(modes)]
    return below([dark(GAP, 1), beside(heads)], 0)


def mask_row(picture: Picture, masks: Array, *notes: Sequence[str]) -> Picture:
    """Each mode's mask [h, w] over the picture, and the notes of that mode."""
    return beside([scaled_heat(picture, mask, *own, unit="%") for mask, *own in zip(masks, *notes, strict=True)])


def mask_text(masks: Array) -> str:
    height, width = masks.shape[1:]
    return (
        f"Where the mode collects its vector from: 100% over {height}x{width} nodes, {100 / height / width:.2g}% each "
        "if even. Spread: 0 one node alone, 1 even."
    )


def title(name: str, found: Explanation) -> Picture:
    """The file's name, and beside it the prediction where there is one."""
    text = text_block(shortened(name, TITLE, 600), TITLE, LIGHT)
    if found.label is None or found.probabilities is None:
        return text
    prediction = f"{found.label} {percent(found.probabilities[found.label])}"
    return beside([text, chip(prediction, TITLE, color_of(found.label))])


def facts(found: Explanation, width: int) -> Picture:
    """What goes beside the tiles of the whole block: probabilities or the embedding's size, and the diversity loss."""
    modes = len(found.masks)
    blocks = [paragraph(found.spec.name, width, LIGHT)]
    if found.label is not None and found.probabilities is not None:
        expression = Expression(Detection((0, 0, 1, 1)), found.probabilities, found.label)
        row = next((r for r in range(PANEL, CAPTION, -1) if panel_size(expression, r)[1] <= width), CAPTION)
        height, needed = panel_size(expression, row)
        panel = dark(height, needed)
        blend(panel, panel_picture(expression, row), (0, 0, needed, height))
        blocks.append(panel)
    else:
        blocks.append(paragraph(f"an embedding of {found.output.size} numbers", width, QUIET))
    loss = f"Diversity loss {found.diversity_loss:.3g}: 0 where no two masks overlap, {modes - 1} where all are one."
    return below([*blocks, paragraph(loss, width, QUIET)])


# Files.


def sheet_paths(stems: Sequence[str], out: Path, inputs: Iterable[Path], kind: str = "modes") -> list[Path]:
    """Where each sheet goes: OUT/STEM.KIND.png, with a number where two have one stem. Makes the folder.

    Raises OutputError where it can't be written, or where a sheet would replace one of the `inputs`.
    """
    chosen: list[Path] = []
    for stem in stems:
        names = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
        chosen.append(next(p for name in names if (p := out / f"{name}.{kind}.png") not in chosen))
    taken = {path.resolve() for path in inputs}
    if clash := [path for path in chosen if path.resolve() in taken]:
        raise OutputError(f"{clash[0]} is one of the pictures to read and would be replaced; give another --out")
    for path in chosen:
        check_output(path, overwrite=True)
    return chosen


def explain_pictures(
    explain: Callable[[Picture], Explanation], paths: Iterable[Path], sheets: Sequence[Path]
) -> list[dict[str, Any]]:
    """Writes the sheet of each picture, and returns their numbers. Raises DataError, ModelError, OutputError."""
    rows = []
    for path, target in zip(paths, sheets, strict=True):
        rgb_u8 = read_rgb(path)
        found = explain(rgb_u8)
        write_picture(target, draw_explanation(rgb_u8, found, path.name))
        rows.append({"image": str(path), "explained": str(target)} | found.to_json())
    return rows


def write_distribution(found: Distribution, folder: Path, target: Path) -> dict[str, Any]:
    """Writes the sheet of a folder, and returns its numbers. Raises OutputError."""
    write_picture(target, draw_distribution(found, folder.resolve().name))
    return {"folder": str(folder), "explained": str(target)} | found.to_json()


def describe(row: dict[str, Any]) -> str:
    """The numbers of a picture or a folder as text: a line for it, a line for each mode."""
    prediction = row.get("prediction")
    said = f": {prediction['label']} {percent(prediction['probabilities'][prediction['label']])}" if prediction else ""
    pictures = f" ({row['pictures']} pictures)" if "pictures" in row else ""
    head = f"{row.get('image', row.get('folder'))}{pictures}{said} -> {row['explained']}"
    return "\n".join([head, *(describe_mode(mode) for mode in row["modes"])])


def describe_mode(mode: dict[str, Any]) -> str:
    y, x = mode["centre_yx"]
    same = f", same {mode['overlap_with_mean']:.2f}" if "overlap_with_mean" in mode else ""
    return (
        f"  mode {mode['mode']}: centre y {y:.2f} x {x:.2f}, largest weight {100 * mode['largest_weight']:.1f}%, "
        f"spread {mode['entropy_relative']:.2f}{same}"
    )
