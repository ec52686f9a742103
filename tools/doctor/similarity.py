"""Pairs of images that show the same picture: by equal pixels, or by perceptual hash, confirmed by thumbnails.

The idea to know: hashes of 64 bits are compared all with all, in numpy and on all cores, 5,000 million pairs in
seconds; hashes that lie near each other propose a pair, and the thumbnails' correlation decides. It is taken after a
blur, as resizing and compression change the fine detail of a thumbnail, which in noisy or even pictures is most of it.
X-rays, which all look alike, propose thousands of pairs for each true one, so a block of many proposals is decided by
one matrix product.
"""

from dataclasses import dataclass

import cv2
import joblib
import numpy as np

MAX_DISTANCE = 10  # of 64 bits; 96 % of photos of 128 px at JPEG quality 30 lie within, of smaller ones fewer
MIN_CORRELATION = 0.995  # of blurred thumbnails; two X-rays of other patients reach 0.989, two digits 0.992

_BLOCK = 256  # images that are compared with all others at once, at most
_PAIRS_AT_ONCE = 25_600_000  # pairs of one block, 8 bytes each
_GATHERED = 20_000  # pairs whose blurred thumbnails are copied at once
_DENSE = 0.02  # share of proposed pairs above which a matrix product is faster than picking them
_MAX_PARTNERS = 32  # pairs that one image is the first of


@dataclass(frozen=True)
class Pairs:
    """P pairs of images, as rows of a scan."""

    first: np.ndarray  # (P,) int
    second: np.ndarray  # (P,) int
    is_exact: np.ndarray  # (P,) bool: the same pixels; else nearly the same

    def __len__(self):
        return len(self.first)

    def take(self, chosen):
        """Return some of the pairs, by a bool mask."""
        return Pairs(self.first[chosen], self.second[chosen], self.is_exact[chosen])


def find_pairs(digests, hashes, thumbnails, rows):
    """Return the Pairs among some images.

    Of k images with the same pixels each is paired with the next, which makes k - 1 pairs; only the first of them is
    looked for among the others. An image is the first of 32 near pairs at most.

    Args:
        digests, hashes: (N,) uint64.
        thumbnails: (N, H, W) uint8.
        rows: (M,) int, rising: the images that take part. Blank ones should not: they all have one hash.
    """
    order = rows[np.argsort(digests[rows], kind="stable")]
    is_copy = digests[order][1:] == digests[order][:-1]
    exact = order[:-1][is_copy], order[1:][is_copy]
    distinct = np.sort(order[np.concatenate([[True], ~is_copy])]) if len(order) else order
    near = find_near(hashes[distinct], thumbnails[distinct])
    first, second = (np.concatenate([one, distinct[other]]) for one, other in zip(exact, near, strict=True))
    return Pairs(first, second, np.arange(len(first)) < len(exact[0]))


def find_near(hashes, thumbnails):
    """Return (first, second), int arrays of places with first < second, of pictures that are nearly the same.

    Near: MAX_DISTANCE bits differ at most, and the blurred thumbnails correlate by MIN_CORRELATION at least, whatever
    their brightness and contrast.

    Args:
        hashes: (N,) uint64.
        thumbnails: (N, H, W) uint8.
    """
    shapes = _standardize(thumbnails)
    block = max(1, min(_BLOCK, _PAIRS_AT_ONCE // max(1, len(hashes))))
    starts = range(0, len(hashes), block)
    found = joblib.Parallel(joblib.cpu_count(), backend="threading", return_as="generator")(
        joblib.delayed(_search_block)(slice(start, start + block), hashes, shapes) for start in starts
    )
    parts = [(np.zeros(0, np.intp), np.zeros(0, np.intp)), *found]
    first, second = (np.concatenate(one) for one in zip(*parts, strict=True))
    return first, second


def connect(num_images, pairs):
    """Return (N,) int: the cluster of each image; those that a chain of pairs joins have one number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs.first, pairs.second)), shape=(num_images, num_images))
    return connected_components(links, directed=False)[1]


def _search_block(places, hashes, shapes):
    """Compare the images of a block, a slice of places, with each other and with all that come later."""
    start, block = places.start, hashes[places]
    is_near = np.bitwise_count(block[:, None] ^ hashes[None, start:]) <= MAX_DISTANCE
    np.logical_and(is_near, np.arange(is_near.shape[1]) > np.arange(len(block))[:, None], out=is_near)
    if np.count_nonzero(is_near) > _DENSE * is_near.size:
        is_near &= shapes[places] @ shapes[start:].T >= MIN_CORRELATION
        first, second = np.nonzero(is_near)
    else:
        first, second = np.nonzero(is_near)
        alike = _correlate(shapes, first + start, second + start) >= MIN_CORRELATION
        first, second = first[alike], second[alike]
    # the places are sorted by first: what lies 32 places before has another first, or this one has its 32
    is_kept = np.ones(len(first), bool)
    is_kept[_MAX_PARTNERS:] = first[_MAX_PARTNERS:] != first[:-_MAX_PARTNERS]
    return first[is_kept] + start, second[is_kept] + start


def _correlate(shapes, first, second):
    """Return (P,) float32: the correlation of shapes[first] and shapes[second]."""
    parts = [np.zeros(0, np.float32)]
    for begin in range(0, len(first), _GATHERED):
        one, other = (rows[begin : begin + _GATHERED] for rows in (first, second))
        parts.append(np.einsum("ij,ij->i", shapes[one], shapes[other]))
    return np.concatenate(parts)


def _standardize(thumbnails):
    """Return (N, D) float32, whose dot products are correlations: blurred, at half the size, of mean 0 and length 1."""
    count, height, width = thumbnails.shape
    shapes = np.empty((count, (height + 1) // 2 * ((width + 1) // 2)), np.float32)
    for row, thumbnail in enumerate(thumbnails):
        shapes[row] = cv2.pyrDown(thumbnail.astype(np.float32)).ravel()
    shapes -= shapes.mean(axis=1, keepdims=True)
    shapes /= np.maximum(np.linalg.norm(shapes, axis=1, keepdims=True), 1e-6)
    return shapes
