"""What a scene says about each picture token and about each word: targets of the auxiliary losses in training.

The pictures are procedural, so it is known what every token shows. `train.py` asks the transformer's hidden states for
it (a representation alignment whose reference is the truth instead of another network), and `train_text.py` asks the
text encoder for what the words of a caption say. Nothing of this is part of the exported model.
"""
import numpy as np

from data import scene as S

SHAPES, COLORS, FILLS, SIZES = list(S.SHAPES), list(S.COLORS), ["", *S.FILLS], list(S.SIZES)
KINDS = ["plain", "gradient", *S.FILLS, *S.LANDSCAPES]
BACKGROUNDS = list(S.BACKGROUNDS)
LAYOUTS = ["one", "count", "row", "column", *S.RELATIONS]

REACH = 1.3  # a token belongs to an object up to this many radii from its centre, per axis

# Columns of token_labels: classes first (-1: not asked), then geometry.
TOKEN_CLASSES = {"shape": 1 + len(SHAPES), "covered": 2, "color": len(COLORS), "fill": len(FILLS), "size": len(SIZES)}
GEOMETRY = 3  # offset from the object's centre in radii (x, y), signed distance to its edge in radii


def _classes(o):
    return [COLORS.index(o["color"]), FILLS.index(o["fill"]), SIZES.index(o["size"])]


def centres(side, tokens):
    """x and y in picture sides of the given tokens (indices, row by row; numpy or torch) of a picture of side x side tokens."""
    return (tokens % side + 0.5) / side, (tokens // side + 0.5) / side


def token_labels(scene, side, tokens):
    """float32 [len(tokens), len(TOKEN_CLASSES) + GEOMETRY] for some tokens of a picture of side x side.

    Shape 0 is background. Colour, fill, size and geometry are those of the front object that covers the token's
    centre, else of the nearest one in reach, else -1 and 0.
    """
    x, y = (t.astype(np.float32) for t in centres(side, tokens))
    out = np.zeros((len(tokens), len(TOKEN_CLASSES) + GEOMETRY), np.float32)
    out[:, 2:5] = -1
    nearest = np.full(len(tokens), np.inf, np.float32)
    for o in S.paint_order(scene):
        dx, dy = (x - np.float32(o["x"])) / o["r"], (y - np.float32(o["y"])) / o["r"]
        distance = S.sdf(o["shape"], dx, dy)
        near = np.maximum(abs(dx), abs(dy)) < REACH
        mine = (distance < 0) | (near & (distance * o["r"] < nearest) & (out[:, 1] == 0))
        nearest[mine] = distance[mine] * o["r"]
        out[mine, 0], out[mine, 1] = 1 + SHAPES.index(o["shape"]), distance[mine] < 0
        out[mine, 2:5] = _classes(o)
        out[mine, 5:] = np.stack([dx[mine], dy[mine], np.clip(distance[mine], -1, 1)], -1)
    return out


SUB = 4  # a token's coverage is told on SUB x SUB points


def token_coverage(scene, side, tokens):
    """bool [len(tokens), SUB * SUB]: which points of every token any object covers, row by row."""
    x, y = (t.astype(np.float32) for t in centres(side, tokens))
    inside = ((np.arange(SUB, dtype=np.float32) + 0.5) / SUB - 0.5) / side
    covered = np.zeros((len(tokens), SUB, SUB), bool)
    for o in scene["objects"]:
        near = np.maximum(abs(x - o["x"]), abs(y - o["y"])) < REACH * o["r"] + 1 / side
        px = (x[near, None, None] + inside[None, None, :] - np.float32(o["x"])) / o["r"]
        py = (y[near, None, None] + inside[None, :, None] - np.float32(o["y"])) / o["r"]
        covered[near] |= S.sdf(o["shape"], px, py) < 0
    return covered.reshape(len(tokens), SUB * SUB)


def all_token_labels(scene, side, tokens):
    """token_labels and behind it token_coverage: float32 [len(tokens), ...]."""
    return np.concatenate([token_labels(scene, side, tokens), token_coverage(scene, side, tokens)], -1)


# Columns of word_labels.
WORD_CLASSES = {"shape": len(SHAPES), "color": len(COLORS), "fill": len(FILLS), "size": len(SIZES)}
PLACE = 3  # x, y, r of the word's object; x = -1 where several objects share the word
CAPTION_CLASSES = {"layout": len(LAYOUTS), "number": 5, "kind": len(KINDS), "first": len(BACKGROUNDS),
                   "last": len(BACKGROUNDS)}


def word_labels(scene):
    """(words float32 [MAX_TOKENS, len(WORD_CLASSES) + PLACE], caption int64 [len(CAPTION_CLASSES)]).

    Every word that describes an object carries all that the caption says about this object; -1: no such word.
    """
    words = S.caption(scene).split()
    objects = scene["objects"]
    out = np.full((S.MAX_TOKENS, len(WORD_CLASSES) + PLACE), -1, np.float32)
    nouns, k = set(SHAPES) | {S.plural(s) for s in SHAPES}, 0
    describing = nouns | set(COLORS) | set(S.FILLS) | {s for s in SIZES if s}
    several = scene["layout"] == "count"
    for i, word in enumerate(words):
        if k == (1 if several else len(objects)):
            break
        if word not in describing:
            continue
        o = objects[k]
        place = (-1, -1, o["r"]) if several else (o["x"], o["y"], o["r"])
        out[i] = (SHAPES.index(o["shape"]), *_classes(o), *place)
        k += word in nouns
    bg = scene["background"]
    first, last = (BACKGROUNDS.index(bg["colors"][0]), BACKGROUNDS.index(bg["colors"][-1])) if bg["colors"] else (-1, -1)
    layout = scene["relation"] or scene["layout"]
    return out, np.array([LAYOUTS.index(layout), len(objects), KINDS.index(bg["kind"]), first, last], np.int64)
